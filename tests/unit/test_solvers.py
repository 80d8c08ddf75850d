"""Solvers, on a diffusion whose exact solution is known: Gaussian data of spread S."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from flexiffusion.noise import NoiseLevels, initial_scale, spaced_places
from flexiffusion.solver import Multistep, adams_bashforth, clean, dpmpp_2m_weights, dpmpp_3m_weights
from flexsearch.sampling.solvers import SOLVERS, solver_maker

CONFIG = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ABAR = DDIMScheduler(**CONFIG).alphas_cumprod
SCHEDULE = NoiseLevels.variance_preserving(ABAR.double().tolist())
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


def integrate(name: str, timesteps: tuple[int, ...], prediction: str = "epsilon") -> Tensor:
    sigmas = SCHEDULE.sigmas(timesteps)
    solver = solver_maker(name, SCHEDULE)(sigmas)
    state = NOISE * initial_scale(sigmas[0], "vp")
    for index, (timestep, sigma) in enumerate(zip(timesteps, sigmas, strict=True)):
        seen = state / math.sqrt(1 + sigma**2)
        output = epsilon(seen, timestep)
        if prediction == "v_prediction":
            abar = ABAR[timestep]
            x0 = (seen - (1 - abar).sqrt() * output) / abar.sqrt()
            output = abar.sqrt() * output - (1 - abar).sqrt() * x0
        state = solver.step(clean(output, state, sigma, prediction), state, index)
    return state


def error(result: Tensor, first: int) -> float:
    return float((result - exact(NOISE, first)).abs().max())


@pytest.mark.parametrize("name", SOLVERS)
class TestEverySolver:
    def test_converges_on_even_steps(self, name: str) -> None:
        few, many = (error(integrate(name, spaced_places(SCHEDULE, n, "logsnr")), 999) for n in (10, 80))
        assert many < few / 5 and many < 0.05

    def test_converges_when_steps_are_taken_out(self, name: str) -> None:
        """Nulls make the steps uneven; a solver that assumed even ones would not converge."""
        grid = spaced_places(SCHEDULE, 120, "logsnr")
        uneven = tuple(t for i, t in enumerate(grid) if i == 0 or i % 5 not in (1, 2))
        even = spaced_places(SCHEDULE, len(uneven), "logsnr")
        assert error(integrate(name, uneven), 999) < 3 * error(integrate(name, even), 999) + 1e-3

    def test_prediction_types_agree(self, name: str) -> None:
        timesteps = (999, 700, 650, 300, 120, 20)
        assert torch.allclose(integrate(name, timesteps), integrate(name, timesteps, "v_prediction"), atol=2e-4)

    def test_one_and_two_steps(self, name: str) -> None:
        for timesteps in ((999,), (999, 400)):
            assert torch.isfinite(integrate(name, timesteps)).all()

    @pytest.mark.parametrize("timesteps", [(), (5, 5), (1, 2)])
    def test_refuses_lists_that_do_not_fall(self, name: str, timesteps: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="fall strictly"):
            solver_maker(name, SCHEDULE)(SCHEDULE.sigmas(timesteps))


def test_unknown_solver_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="dpmpp_2m"):
        solver_maker("dpm_fast", SCHEDULE)


@pytest.mark.parametrize("name", ["dpmpp_2m", "uni_pc", "plms"])
def test_higher_orders_beat_ddim(name: str) -> None:
    timesteps = spaced_places(SCHEDULE, 20, "logsnr")
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


def diffusers_solver(kind: str, timesteps: list[int]) -> Any:
    if kind == "dpmpp_2m":
        made: Any = DPMSolverMultistepScheduler(**CONFIG, algorithm_type="dpmsolver++", final_sigmas_type="zero")
    else:
        made = EulerDiscreteScheduler(**CONFIG, timestep_spacing="leading", final_sigmas_type="zero")
    made.set_timesteps(timesteps=timesteps)
    return made


@pytest.mark.parametrize("kind", ["dpmpp_2m", "euler"])
@pytest.mark.parametrize("timesteps", [(999, 800, 600, 400, 200), (999, 990, 600, 580, 570, 44, 3), (999, 17), (500,)])
def test_the_cores_solvers_are_diffusers_on_random_predictions(kind: str, timesteps: tuple[int, ...]) -> None:
    stream = torch.Generator().manual_seed(1)
    sigmas = SCHEDULE.sigmas(timesteps)
    scheduler, solver = diffusers_solver(kind, list(timesteps)), solver_maker(kind, SCHEDULE)(sigmas)
    state = NOISE * initial_scale(sigmas[0], "vp")
    theirs = NOISE * float(scheduler.init_noise_sigma)
    for index, sigma in enumerate(sigmas):
        output = torch.randn(NOISE.shape, generator=stream)
        theirs = scheduler.step(output, scheduler.timesteps[index], theirs, return_dict=False)[0]
        state = solver.step(clean(output, state, sigma, "epsilon"), state, index)
    torch.testing.assert_close(state, theirs, rtol=2e-4, atol=2e-4)


LISTS = {
    "even": (14.6, 9.0, 3.0, 1.2, 0.4, 0.03),
    "uneven": (14.6, 14.2, 3.0, 2.9, 2.85, 0.4, 0.39, 0.03),
    "two": (14.6, 0.3),
    "one": (14.6,),
    "flow": (0.97, 0.9, 0.6, 0.59, 0.3, 0.1),
    "flow from pure noise": (1.0, 0.9, 0.6, 0.59, 0.3, 0.1),
    "long": tuple(14.6 * 0.8**i for i in range(17)),
    "one order at a time": tuple(14.6 * 0.6**i for i in range(14)),
}


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("name", LISTS)
def test_the_weights_are_diffusers_of_vp_and_flow_models(order: int, name: str) -> None:
    sigmas, kind = LISTS[name], "flow" if name.startswith("flow") else "vp"
    scheduler = diffusers_multistep(order, sigmas, kind == "flow")
    rows = {1: ((1.0,),) * len(sigmas), 2: dpmpp_2m_weights(sigmas, kind), 3: dpmpp_3m_weights(sigmas, kind)}[order]
    solver, stream = Multistep(sigmas, rows), torch.Generator().manual_seed(2)
    alphas = [1 - sigma if kind == "flow" else 1 / math.sqrt(1 + sigma**2) for sigma in (*sigmas, 0.0)]
    scales = [1.0] * len(alphas) if kind == "flow" else alphas  # of their sample in ours
    state = torch.randn(NOISE.shape, generator=stream, dtype=torch.float64)
    theirs = state * scales[0]
    for index, sigma in enumerate(sigmas):
        denoised = torch.randn(NOISE.shape, generator=stream, dtype=torch.float64)
        noise = (theirs - alphas[index] * denoised) / (sigma * (1.0 if kind == "flow" else alphas[index]))
        output = noise - denoised if kind == "flow" else noise
        theirs = scheduler.step(output, scheduler.timesteps[index], theirs, return_dict=False)[0].double()
        state = solver.step(denoised, state, index)
    torch.testing.assert_close(state * scales[-1], theirs, rtol=1e-5, atol=1e-5)


def diffusers_multistep(order: int, sigmas: tuple[float, ...], flow: bool) -> Any:
    """DPM-Solver++ over these levels; its update rules read only the three that are put in place of its own."""
    more = {"prediction_type": "flow_prediction", "use_flow_sigmas": True} if flow else {}
    made: Any = DPMSolverMultistepScheduler(
        **CONFIG, algorithm_type="dpmsolver++", solver_order=order, final_sigmas_type="zero", **more
    )
    made.set_timesteps(len(sigmas))
    made.timesteps = torch.arange(len(sigmas), 0, -1)
    made.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float64)
    made.set_begin_index(0)
    return made


@pytest.mark.parametrize("sigmas", [(14.6, 9.0, 3.0, 2.9, 0.4, 0.03), (1.0, 0.9, 0.6, 0.59, 0.3, 0.1)])
def test_dpmpp_2m_weights_are_k_diffusions(sigmas: tuple[float, ...]) -> None:
    """k-diffusion's sample_dpmpp_2m, written out: denoised_d = (1 + 1 / (2 r)) D_i - 1 / (2 r) D_{i-1}; the levels of
    flow models are to it as any others."""
    for i, row in enumerate(dpmpp_2m_weights(sigmas)):
        if i in (0, len(sigmas) - 1):
            assert row == (1.0,)
            continue
        r = math.log(sigmas[i - 1] / sigmas[i]) / math.log(sigmas[i] / sigmas[i + 1])
        assert row == pytest.approx((1 + 1 / (2 * r), -1 / (2 * r)))


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
