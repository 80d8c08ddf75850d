"""Refined weights: the linear model is right, and they end nearer, on images that were not refined on too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_fitting import FLOW, STUDENT, TEACHER, VP, Mixture

from flexiffusion.noise import NoiseLevels
from flexiffusion.schedule import FULL
from flexiffusion.search import refining
from flexiffusion.search.fitting import Fitting, TeacherPath, fit
from flexiffusion.search.paired import mean_root, squared_error
from flexiffusion.search.refining import Images, refined
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


def images(levels: NoiseLevels) -> Images:
    return Images(Mixture(levels), NOISE[:COUNT], ends(levels)[:COUNT])


def improved(levels: NoiseLevels, weights: Weights, **options: int) -> Weights:
    return refined([images(levels)], STUDENT, ACTIONS, weights, **options)


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


class Pushed(Mixture):
    """Its predictions led on away from their mean, as guidance does."""

    def __call__(self, *arguments: Any) -> torch.Tensor:
        made = super().__call__(*arguments)
        return made + 0.3 * (made - made.mean())


class TestSeveralSets:
    @staticmethod
    def other() -> Images:
        wanted = sample(Pushed(VP), dpmpp_2m, NOISE[:COUNT], TEACHER).latents
        return Images(Pushed(VP), NOISE[:COUNT], wanted)

    @staticmethod
    def error(images: Images, weights: Weights) -> float:
        return mean_root(refining._Course(images, STUDENT, ACTIONS, 64).errors(weights))

    def test_none_is_given_up_for_another(self) -> None:
        own, other, before = images(VP), self.other(), fitted(VP)
        alone, both = (refined(sets, STUDENT, ACTIONS, before) for sets in ([own], [own, other]))
        assert self.error(other, both) < self.error(other, alone)
        parts = [self.error(one, both) / self.error(one, before) for one in (own, other)]
        assert sum(part**0.5 for part in parts) < 2

    def test_a_set_that_is_not_finite_is_left_out(self) -> None:
        own, before = images(VP), fitted(VP)
        broken = Images(Mixture(VP), NOISE[:COUNT] * float("nan"), own.wanted)
        assert refined([own, broken], STUDENT, ACTIONS, before) == refined([own], STUDENT, ACTIONS, before)


def test_the_linear_model_tells_what_a_small_change_does() -> None:
    weights = fitted(VP)
    course = refining._Course(images(VP), STUDENT, ACTIONS, 64)
    linear = course.linear(weights)
    change = np.random.default_rng(0).normal(size=sum(map(len, weights))) * 2e-3
    np.testing.assert_allclose(linear.errors(0 * change), course.errors(weights), rtol=1e-4)
    moved = course.errors(refining._changed(weights, change))
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
    assert refined([Images(Mixture(VP), NOISE[:COUNT], made)], STUDENT, ACTIONS, weights) == weights


def test_what_diverged_stays_as_it_is() -> None:
    wild = tuple((1e30,) * min(i + 1, 4) for i in range(len(STUDENT)))
    assert improved(VP, wild) == wild
