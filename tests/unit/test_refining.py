"""Refined weights: the linear model is right, and they end nearer, on images that were not refined on too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_fitting import FLOW, STUDENT, TEACHER, VP, Mixture

from flexiffusion.noise import NoiseLevels
from flexiffusion.schedule import FULL
from flexiffusion.search import refining
from flexiffusion.search.fitting import Fitting, TeacherPath, fit
from flexiffusion.search.paired import mean_root, squared_error
from flexiffusion.search.refining import refined
from flexiffusion.search.trajectory import sample
from flexiffusion.solver import Multistep, Weights, dpmpp_2m

COUNT = 24
ACTIONS = (FULL,) * len(STUDENT)
NOISE = torch.randn((2 * COUNT, 2, 4, 4), generator=torch.Generator().manual_seed(3))


def ends(levels: NoiseLevels) -> torch.Tensor:
    return sample(Mixture(levels), dpmpp_2m, NOISE, TEACHER).latents


def fitted(levels: NoiseLevels) -> Weights:
    made = sample(Mixture(levels), dpmpp_2m, NOISE[:COUNT], TEACHER, keep_states=True)
    assert made.states is not None and made.denoised is not None
    path = TeacherPath(dpmpp_2m, levels.sigmas(TEACHER), made.states, made.denoised, made.latents)
    return fit(Mixture(levels), path, Fitting(), NOISE[:COUNT], STUDENT, ACTIONS)[1]


def improved(levels: NoiseLevels, weights: Weights, **options: int) -> Weights:
    denoiser, wanted = Mixture(levels), ends(levels)[:COUNT]
    return refined(denoiser, NOISE[:COUNT], wanted, STUDENT, ACTIONS, weights, **options)


def distance(levels: NoiseLevels, weights: Weights, images: slice) -> float:
    made = sample(Mixture(levels), lambda sigmas: Multistep(sigmas, weights), NOISE[images], STUDENT)
    return mean_root(squared_error(made.latents, ends(levels)[images]))


@pytest.mark.parametrize(("levels", "ratio"), [(VP, 0.9), (FLOW, 0.99)], ids=["vp", "flow"])
def test_the_samples_end_nearer_on_other_images_too(levels: NoiseLevels, ratio: float) -> None:
    before, after = fitted(levels), improved(levels, fitted(levels))
    assert after != before
    for images in (slice(0, COUNT), slice(COUNT, 2 * COUNT)):
        assert distance(levels, after, images) < ratio * distance(levels, before, images)


def test_more_rounds_are_never_worse_on_the_images() -> None:
    weights, images = fitted(VP), slice(0, COUNT)
    once, twice = improved(VP, weights), improved(VP, weights, rounds=2)
    assert distance(VP, twice, images) <= distance(VP, once, images) <= distance(VP, weights, images)


def test_the_linear_model_tells_what_a_small_change_does() -> None:
    weights, wanted = fitted(VP), ends(VP)[:COUNT]
    course = refining._Course(Mixture(VP), STUDENT, ACTIONS, 64)
    linear = course.linear(NOISE[:COUNT], wanted, weights)
    change = np.random.default_rng(0).normal(size=sum(map(len, weights))) * 2e-3
    np.testing.assert_allclose(linear.errors(0 * change), course.errors(NOISE[:COUNT], wanted, weights), rtol=1e-4)
    moved = course.errors(NOISE[:COUNT], wanted, refining._changed(weights, change))
    expected, still = linear.errors(change), linear.errors(0 * change)
    np.testing.assert_allclose(moved - still, expected - still, rtol=0.1, atol=0.02 * abs(moved - still).max())


def test_batches_make_no_difference_but_for_rounding() -> None:
    weights = fitted(VP)
    whole, parts = improved(VP, weights), improved(VP, weights, batch=5)
    for ours, theirs in zip(whole, parts, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)


def test_the_same_input_gives_the_same_weights() -> None:
    assert improved(VP, fitted(VP)) == improved(VP, fitted(VP))


def test_what_cannot_be_improved_stays_as_it_is() -> None:
    weights = fitted(VP)
    made = sample(Mixture(VP), lambda sigmas: Multistep(sigmas, weights), NOISE[:COUNT], STUDENT).latents
    assert refined(Mixture(VP), NOISE[:COUNT], made, STUDENT, ACTIONS, weights) == weights


def test_what_diverged_stays_as_it_is() -> None:
    wild = tuple((1e30,) * min(i + 1, 4) for i in range(len(STUDENT)))
    assert improved(VP, wild) == wild
