from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexiffusion.noise import SPACINGS, NoiseLevels, Spacing, distinct, spaced_places
from flexsearch.models.noise import initial_noise

# Stable Diffusion's betas: squares of an even list of square roots.
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SCHEDULE = NoiseLevels.variance_preserving(torch.cumprod(1 - BETAS, 0).tolist())


def test_sigmas_of_stable_diffusion() -> None:
    assert SCHEDULE.sigma(999) == pytest.approx(14.6146, abs=1e-3)  # the figure that every host shows
    assert SCHEDULE.sigma(0) == pytest.approx(0.0292, abs=1e-4)


@given(st.integers(0, 999))
def test_a_sigma_names_its_timestep(timestep: int) -> None:
    assert SCHEDULE.place(SCHEDULE.sigma(timestep)) == timestep


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_no_timestep_for_what_is_no_level(sigma: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        SCHEDULE.place(sigma)


@given(st.integers(1, 1000), st.sampled_from(SPACINGS))
def test_spacings_fall_strictly_from_the_noisiest(count: int, spacing: Spacing) -> None:
    timesteps = spaced_places(SCHEDULE, count, spacing)
    assert len(timesteps) == count and timesteps[0] == 999 and timesteps[-1] >= 0
    assert list(timesteps) == sorted(set(timesteps), reverse=True)


def test_uniform_is_diffusers_linspace() -> None:
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(30)
    assert spaced_places(SCHEDULE, 30, "uniform") == tuple(scheduler.timesteps.tolist())


def test_logsnr_steps_are_even_in_log_sigma() -> None:
    logs = [math.log(SCHEDULE.sigma(timestep)) for timestep in spaced_places(SCHEDULE, 8, "logsnr")]
    steps = [a - b for a, b in itertools.pairwise(logs)]
    assert max(steps) - min(steps) < 0.2


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="1001 steps on 1000"):
        spaced_places(SCHEDULE, 1001, "uniform")


@given(st.lists(st.integers(-5, 1005), min_size=1, max_size=40))
def test_distinct_keeps_within_bounds(wanted: list[int]) -> None:
    made = distinct(sorted(wanted, reverse=True), 999)
    assert len(made) == len(wanted) and made[0] <= 999 and made[-1] >= 0
    assert all(a > b for a, b in itertools.pairwise(made))


class TestNoise:
    def test_image_i_is_the_same_in_any_batch(self) -> None:
        together = initial_noise(3, range(10, 16), (4, 2, 2))
        assert torch.equal(together[2:4], initial_noise(3, [12, 13], (4, 2, 2)))

    def test_seeds_and_indices_differ(self) -> None:
        images = [initial_noise(seed, [index], (4, 2, 2)) for seed in (0, 1) for index in (0, 1)]
        assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])

    def test_global_random_state_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        initial_noise(0, range(3), (4, 2, 2))
        assert torch.equal(before, torch.get_rng_state())
