"""Solvers, on a diffusion whose exact solution is known: Gaussian data of spread S."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from flexiffusion.noise import NoiseSchedule, spaced_timesteps
from flexsearch.sampling.solvers import SOLVERS, SolverName, adams_bashforth, make_solver

CONFIG = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ABAR = DDIMScheduler(**CONFIG).alphas_cumprod
SCHEDULE = NoiseSchedule(tuple(ABAR.double().tolist()))
SPREAD = 0.5
NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def epsilon(sample: Tensor, timestep: int) -> Tensor:
    """The exact noise prediction for x0 ~ N(0, SPREAD^2): E[eps | x] = x sqrt(1 - abar) / (abar S^2 + 1 - abar)."""
    abar = ABAR[timestep]
    return sample * (1 - abar).sqrt() / (abar * SPREAD**2 + 1 - abar)


def exact(noise: Tensor, first: int) -> Tensor:
    """The probability flow keeps x / sqrt(abar S^2 + 1 - abar), so at zero noise it is S times that."""
    abar = ABAR[first]
    return noise * SPREAD / (abar * SPREAD**2 + 1 - abar).sqrt()


def integrate(name: SolverName, timesteps: tuple[int, ...], prediction: str = "epsilon") -> Tensor:
    solver = make_solver(name, {**CONFIG, "prediction_type": prediction}, timesteps)
    state = solver.start(NOISE)
    for index, timestep in enumerate(timesteps):
        seen = solver.model_input(state, index)
        output = epsilon(seen, timestep)
        if prediction == "v_prediction":
            abar = ABAR[timestep]
            clean = (seen - (1 - abar).sqrt() * output) / abar.sqrt()
            output = abar.sqrt() * output - (1 - abar).sqrt() * clean
        state = solver.step(output, state, index)
    return state


def error(result: Tensor, first: int) -> float:
    return float((result - exact(NOISE, first)).abs().max())


@pytest.mark.parametrize("name", SOLVERS)
class TestEverySolver:
    def test_converges_on_even_steps(self, name: SolverName) -> None:
        few, many = (error(integrate(name, spaced_timesteps(SCHEDULE, n, "logsnr")), 999) for n in (10, 80))
        assert many < few / 5 and many < 0.05

    def test_converges_when_steps_are_taken_out(self, name: SolverName) -> None:
        """Nulls make the steps uneven; a solver that assumed even ones would not converge."""
        grid = spaced_timesteps(SCHEDULE, 120, "logsnr")
        uneven = tuple(t for i, t in enumerate(grid) if i == 0 or i % 5 not in (1, 2))
        even = spaced_timesteps(SCHEDULE, len(uneven), "logsnr")
        assert error(integrate(name, uneven), 999) < 3 * error(integrate(name, even), 999) + 1e-3

    def test_prediction_types_agree(self, name: SolverName) -> None:
        timesteps = (999, 700, 650, 300, 120, 20)
        assert torch.allclose(integrate(name, timesteps), integrate(name, timesteps, "v_prediction"), atol=2e-4)

    def test_one_and_two_steps(self, name: SolverName) -> None:
        for timesteps in ((999,), (999, 400)):
            assert torch.isfinite(integrate(name, timesteps)).all()

    @pytest.mark.parametrize("timesteps", [(), (5, 5), (1, 2)])
    def test_refuses_lists_that_do_not_fall(self, name: SolverName, timesteps: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="fall strictly"):
            make_solver(name, CONFIG, timesteps)


def test_unknown_solver_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="dpmpp_2m"):
        make_solver("dpm_fast", CONFIG, (3, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["dpmpp_2m", "uni_pc", "plms"])
def test_higher_orders_beat_ddim(name: SolverName) -> None:
    timesteps = spaced_timesteps(SCHEDULE, 20, "logsnr")
    assert error(integrate(name, timesteps), 999) < 0.5 * error(integrate("ddim", timesteps), 999)


def test_ddim_is_diffusers_ddim_on_its_own_grid() -> None:
    scheduler = DDIMScheduler(**CONFIG, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading")
    scheduler.set_timesteps(10)
    state = NOISE
    for timestep in scheduler.timesteps.tolist():
        state = scheduler.step(epsilon(state, timestep), timestep, state).prev_sample
    ours = integrate("ddim", tuple(scheduler.timesteps.tolist()))
    assert torch.allclose(ours, state, atol=1e-5)


def test_euler_is_ddim_in_other_coordinates() -> None:
    """Both integrate x / sqrt(abar) over sigma to first order."""
    timesteps = (999, 800, 555, 301, 44)
    assert torch.allclose(integrate("euler", timesteps), integrate("ddim", timesteps), atol=1e-4)


class TestAdamsBashforth:
    @pytest.mark.parametrize(
        ("count", "classical"),
        [(1, [1]), (2, [-0.5, 1.5]), (3, [5 / 12, -16 / 12, 23 / 12]), (4, [-9 / 24, 37 / 24, -59 / 24, 55 / 24])],
    )
    def test_even_nodes_give_the_classical_weights(self, count: int, classical: list[float]) -> None:
        nodes = [900.0 - 20 * i for i in range(count)]
        assert adams_bashforth(nodes, nodes[-1] - 20) == pytest.approx(classical)

    @pytest.mark.parametrize("degree", [0, 1, 2, 3])
    def test_exact_for_cubics_on_uneven_nodes(self, degree: int) -> None:
        nodes, following = [990.0, 870.0, 850.0, 610.0], 480.0
        weights = adams_bashforth(nodes, following)
        mean = sum(w * (node / 1000) ** degree for w, node in zip(weights, nodes, strict=True))
        integral = ((following / 1000) ** (degree + 1) - 0.61 ** (degree + 1)) / (degree + 1)
        assert math.isclose(mean, integral / (0.48 - 0.61), rel_tol=1e-9)
