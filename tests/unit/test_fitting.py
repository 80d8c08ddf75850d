"""Fitted weights: least squares, the teacher between its levels, and what a search relies on: a prefix has its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flexiffusion.noise import NoiseLevels, initial_scale
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, NoiseKind
from flexiffusion.search.fitting import Fitting, FittingSolver, TeacherPath, fit, fitted_row
from flexiffusion.search.prefixes import Prefixes
from flexiffusion.search.trajectory import sample
from flexiffusion.solver import Multistep, SolverMaker, dpmpp_2m, dpmpp_2m_weights, euler
from flexsearch.errors import ConfigError
from flexsearch.sampling.solvers import solver_maker

COUNT, SHAPE, SPREAD = 6, (2, 4, 4), 0.6
VP = NoiseLevels(tuple(0.03 * 1.35**i for i in range(24)))
FLOW = NoiseLevels(tuple((i + 1) / 24 for i in range(24)), "flow")
TEACHER = (23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1)
STUDENT = (23, 18, 13, 10, 5, 2)


@dataclass
class Mixture:
    """The exact denoiser of a mixture of five Gaussians, which no solver integrates exactly."""

    levels: NoiseLevels
    network: nn.Module = field(default_factory=nn.Identity)
    branches: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    calls: int = 0

    def __call__(self, sample: Tensor, place: int, images: slice, run: Run | None) -> Tensor:
        assert len(sample) == images.stop - images.start
        self.calls += 1
        sigma = self.levels.sigma(place)
        means = torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(9))
        if self.levels.kind == "flow":
            sample, sigma = sample / max(1 - sigma, 1e-3), sigma / max(1 - sigma, 1e-3)
        variance = SPREAD**2 + sigma**2
        apart = sample[:, None] - means[None]
        shares = torch.softmax(-apart.flatten(2).square().sum(2) / (2 * variance), 1)
        return torch.einsum("nk,nkchw->nchw", shares, means + apart * SPREAD**2 / variance)


def noise(count: int = COUNT) -> Tensor:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(4))


def path(levels: NoiseLevels, solver: SolverMaker = dpmpp_2m) -> TeacherPath:
    made = sample(Mixture(levels), solver, noise(), TEACHER, keep_states=True)
    assert made.states is not None and made.denoised is not None
    return TeacherPath(solver, levels.sigmas(TEACHER), made.states, made.denoised, made.latents)


class TestRow:
    predictions = tuple(torch.randn((4, 3, 2, 4, 4), generator=torch.Generator().manual_seed(1)))
    wanted = torch.randn((3, 2, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.float64) + predictions[0]
    usual = (1.4, -0.4)

    def columns(self) -> np.ndarray:
        return np.stack([prediction.numpy().astype(float).ravel() for prediction in self.predictions], 1)

    def test_without_a_ridge_it_is_least_squares(self) -> None:
        expected = np.linalg.lstsq(self.columns(), self.wanted.numpy().ravel(), rcond=None)[0]
        assert fitted_row(self.predictions, self.wanted, self.usual, 0.0) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("ridge", [1e-4, 0.3])
    def test_with_one_it_is_least_squares_with_the_usual_weights_as_data(self, ridge: float) -> None:
        columns = self.columns()
        strength = math.sqrt(ridge * (columns**2).sum(0).mean())
        more = np.concatenate([columns, strength * np.eye(4)])
        data = np.concatenate([self.wanted.numpy().ravel(), strength * np.array([*self.usual, 0.0, 0.0])])
        expected = np.linalg.lstsq(more, data, rcond=None)[0]
        assert fitted_row(self.predictions, self.wanted, self.usual, ridge) == pytest.approx(expected, abs=1e-6)

    def test_the_sum_of_the_weights_has_a_price(self) -> None:
        columns = self.columns()
        strength = math.sqrt(0.2 * (columns**2).sum(0).mean())
        more = np.concatenate([columns, strength * np.ones((1, 4))])
        data = np.concatenate([self.wanted.numpy().ravel(), [strength]])
        expected = np.linalg.lstsq(more, data, rcond=None)[0]
        assert fitted_row(self.predictions, self.wanted, self.usual, 0.0, 0.2) == pytest.approx(expected, abs=1e-6)
        sums = [sum(fitted_row(self.predictions, self.wanted, self.usual, 0.0, price)) for price in (0.0, 1.0, 1e9)]
        assert abs(sums[0] - 1) > abs(sums[1] - 1) > abs(sums[2] - 1) and sums[2] == pytest.approx(1)

    def test_with_a_huge_one_it_is_the_usual_solver(self) -> None:
        assert fitted_row(self.predictions, self.wanted, self.usual, 1e9) == pytest.approx((1.4, -0.4, 0.0, 0.0))
        assert fitted_row(self.predictions[:1], self.wanted, (1.0,), 1e9) == pytest.approx((1.0,))

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_what_diverged_has_the_usual_weights(self, broken: float) -> None:
        predictions = [self.predictions[0] * broken, *self.predictions[1:]]
        assert fitted_row(predictions, self.wanted, self.usual, 1e-4) == (1.4, -0.4, 0.0, 0.0)

    def test_predictions_that_are_all_zero_have_the_usual_weights(self) -> None:
        assert fitted_row([torch.zeros(3, 2)], torch.ones(3, 2), (1.0,), 1e-4) == (1.0,)


@pytest.mark.parametrize("levels", [VP, FLOW], ids=["vp", "flow"])
class TestTeacher:
    def test_at_its_own_levels_and_at_the_end(self, levels: NoiseLevels) -> None:
        teacher, some = path(levels), slice(1, 3)
        for index, place in enumerate(TEACHER):
            assert torch.equal(teacher.at(levels.sigma(place), some), teacher.states[index][some])
        assert torch.equal(teacher.at(0.0, some), teacher.end[some])

    @pytest.mark.parametrize("name", ["dpmpp_2m", "euler", "plms"])
    def test_between_two_it_takes_one_step_of_its_solver(self, levels: NoiseLevels, name: str) -> None:
        """The teacher that had that level for its next would be there."""
        if name == "plms" and levels.kind == "flow":
            with pytest.raises(ConfigError, match="plms is not there for flow models"):
                solver_maker(name, levels)
            return
        maker = solver_maker(name, levels)
        cut = (*TEACHER[:5], 14)
        made = sample(Mixture(levels), maker, noise(), cut, keep_states=True)
        assert made.states is not None
        torch.testing.assert_close(path(levels, maker).at(levels.sigma(14), slice(0, COUNT)), made.states[-1])

    def test_below_its_last_level_it_goes_straight_to_the_end(self, levels: NoiseLevels) -> None:
        teacher, everything = path(levels), slice(0, COUNT)
        last = levels.sigma(TEACHER[-1])
        middle = (teacher.states[-1] + teacher.end) / 2
        torch.testing.assert_close(teacher.at(last / 2, everything), middle)

    def test_above_its_first_level_there_is_nothing(self, levels: NoiseLevels) -> None:
        with pytest.raises(ValueError, match="the teacher begins at noise level"):
            path(levels).at(levels.sigma(23) * 1.1, slice(0, 1))


def fitted(levels: NoiseLevels, places: Sequence[int], **more: object) -> tuple[Tensor, tuple[tuple[float, ...], ...]]:
    made, weights = fit(Mixture(levels), path(levels), Fitting(), noise(), places, [FULL] * len(places), **more)  # type: ignore[arg-type]
    return made.latents, weights


@pytest.mark.parametrize("levels", [VP, FLOW], ids=["vp", "flow"])
class TestFit:
    def test_it_is_nearer_to_the_teacher_than_the_usual_solver(self, levels: NoiseLevels) -> None:
        latents, _ = fitted(levels, STUDENT)
        usual = sample(Mixture(levels), dpmpp_2m, noise(), STUDENT).latents
        end = path(levels).end
        assert (latents - end).square().mean() < 0.5 * (usual - end).square().mean()

    def test_the_teachers_own_steps_have_its_own_weights(self, levels: NoiseLevels) -> None:
        latents, weights = fitted(levels, TEACHER)
        for found, usual in zip(weights, dpmpp_2m_weights(levels.sigmas(TEACHER)), strict=True):
            assert found == pytest.approx((*usual, *[0.0] * (len(found) - len(usual))), abs=2e-3)
        torch.testing.assert_close(latents, path(levels).end, atol=2e-3, rtol=0)

    def test_the_weights_say_all_of_it(self, levels: NoiseLevels) -> None:
        """Whoever runs them as a table gets the very same latents."""
        latents, weights = fitted(levels, STUDENT)
        again = sample(Mixture(levels), lambda sigmas: Multistep(sigmas, weights), noise(), STUDENT).latents
        assert torch.equal(latents, again)

    def test_rows_are_as_long_as_there_are_predictions_up_to_the_memory(self, levels: NoiseLevels) -> None:
        _, weights = fit(Mixture(levels), path(levels), Fitting(3, 5), noise(), STUDENT, [FULL] * 6)
        assert [len(row) for row in weights] == [1, 2, 3, 3, 3, 5]

    def test_batches_are_fitted_together(self, levels: NoiseLevels) -> None:
        latents, weights = fitted(levels, STUDENT)
        for batch in (1, 4):
            in_batches, same = fitted(levels, STUDENT, batch=batch)
            torch.testing.assert_close(in_batches, latents, atol=1e-4, rtol=1e-4)
            assert np.allclose(np.concatenate(same), np.concatenate(weights), atol=1e-4)

    def test_a_shared_prefix_changes_nothing_but_the_calls(self, levels: NoiseLevels) -> None:
        prefixes = Prefixes(1 << 24)
        for places, known in ((STUDENT, 0), ((*STUDENT[:4], 6), 3), ((*STUDENT[:4], 6, 4, 1), 4), (STUDENT, 5)):
            latents, weights = fitted(levels, places, batch=4)
            denoiser, actions = Mixture(levels), [FULL] * len(places)
            made, shared = fit(denoiser, path(levels), Fitting(), noise(), places, actions, batch=4, prefixes=prefixes)
            assert shared == weights and torch.equal(made.latents, latents)
            assert denoiser.calls == 2 * (len(places) - known)  # two batches


def test_weights_of_a_prefix_do_not_know_what_follows() -> None:
    kinds: tuple[NoiseKind, ...] = ("vp", "flow")
    for kind in kinds:
        levels = VP if kind == "vp" else FLOW
        _, one = fitted(levels, STUDENT)
        _, other = fitted(levels, (*STUDENT[:4], 8, 4, 2, 1))
        assert one[:3] == other[:3] and one[3] != other[3]


def test_the_fitting_solver_starts_from_the_scaled_noise() -> None:
    """On Euler's teacher, whose first step the student shares, the first weight is one."""
    teacher = path(VP, euler)
    solver = FittingSolver(VP.sigmas(TEACHER[:2]), teacher, slice(0, COUNT), Fitting())
    state = noise() * initial_scale(VP.sigma(TEACHER[0]), "vp")
    solver.step(teacher.denoised[0], state, 0)
    assert solver.weights[0] == pytest.approx((1.0,), abs=1e-4)
