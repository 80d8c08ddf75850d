"""Solvers on arbitrary, uneven timestep lists, through diffusers' schedulers.

A null step is a timestep that is not in the list; solvers with memory see the true step sizes. Every solver ends with a
first-order step to zero noise, as k-diffusion's samplers do, so that hosts and this tool agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from flexsearch.models.prediction import NOISE_KEYS

SolverName = Literal["ddim", "plms", "dpmpp_2m", "euler", "uni_pc"]
SOLVERS: tuple[SolverName, ...] = get_args(SolverName)


class Solver(Protocol):
    """One trajectory's integrator: holds the solver's history, so make a new one per trajectory."""

    def start(self, noise: Tensor) -> Tensor:
        """Standard normal noise (n, C, H, W) -> the solver's state at the first timestep."""

    def model_input(self, state: Tensor, index: int) -> Tensor:
        """What the network sees at step `index`: the variance-preserving sample."""

    def step(self, output: Tensor, state: Tensor, index: int) -> Tensor:
        """The network's output at step `index` -> the state at the next timestep (zero noise after the last)."""

    def history(self) -> dict[str, Any]:
        """What it remembers of past steps, for a solver over a list that begins with the same timesteps."""

    def recall(self, history: Mapping[str, Any]) -> None:
        """Go on from there."""


# What diffusers' multistep schedulers remember of the steps that they took; lists are changed in place.
HISTORY = ("model_outputs", "timestep_list", "lower_order_nums", "last_sample", "this_order", "_step_index")


class SchedulerSolver:
    """A diffusers scheduler whose timesteps and sigmas have been set by hand."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        scheduler.set_begin_index(0)

    def start(self, noise: Tensor) -> Tensor:
        return noise * self.scheduler.init_noise_sigma

    def model_input(self, state: Tensor, index: int) -> Tensor:
        return torch.as_tensor(self.scheduler.scale_model_input(state, self.scheduler.timesteps[index]))

    def step(self, output: Tensor, state: Tensor, index: int) -> Tensor:
        step = self.scheduler.step(output, self.scheduler.timesteps[index], state, return_dict=False)
        return torch.as_tensor(step[0])

    def history(self) -> dict[str, Any]:
        return {name: copy(vars(self.scheduler)[name]) for name in HISTORY if name in vars(self.scheduler)}

    def recall(self, history: Mapping[str, Any]) -> None:
        for name, value in history.items():
            setattr(self.scheduler, name, copy(value))


class PlmsSolver:
    """Pseudo linear multistep (PNDM, arXiv 2202.09778, eqs. 9 and 12) with Adams-Bashforth weights for uneven steps.

    diffusers' PNDMScheduler assumes even steps in its weights; its transfer formula, eq. 9, is used as it is. The order
    rises 1, 2, 3, 4 with the history (one network call a step), where PNDM spends a second call on the first step.
    """

    order = 4

    def __init__(self, scheduler: Any, timesteps: Sequence[int], prediction: str) -> None:
        self.scheduler = scheduler  # of prediction type epsilon
        self.prediction = prediction
        self.timesteps = (*timesteps, -1)  # PNDM's name for zero noise
        self.past: list[tuple[int, Tensor]] = []

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def model_input(self, state: Tensor, index: int) -> Tensor:
        return state

    def step(self, output: Tensor, state: Tensor, index: int) -> Tensor:
        now, following = self.timesteps[index], self.timesteps[index + 1]
        # Slopes are noise predictions: past ones of another type could not be averaged with those of other levels.
        epsilon = noise_prediction(output, state, float(self.scheduler.alphas_cumprod[now]), self.prediction)
        self.past = [*self.past[1 - self.order :], (now, epsilon)]
        if following < 0:  # the jump to zero noise is first order, as in k-diffusion
            slope = epsilon
        else:
            weights = adams_bashforth([timestep for timestep, _ in self.past], following)
            slope = sum((w * past for w, (_, past) in zip(weights, self.past, strict=True)), torch.zeros_like(output))
        return torch.as_tensor(self.scheduler._get_prev_sample(state, now, following, slope))

    def history(self) -> dict[str, Any]:
        return {"history": self.past}

    def recall(self, history: Mapping[str, Any]) -> None:
        self.past = history["history"]


def noise_prediction(output: Tensor, sample: Tensor, abar: float, prediction: str) -> Tensor:
    """The network's output as a noise prediction (v: arXiv 2202.00512, appendix D). ValueError for other types."""
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return abar**0.5 * output + (1 - abar) ** 0.5 * sample
    if prediction == "sample":
        return (sample - abar**0.5 * output) / (1 - abar) ** 0.5
    raise ValueError(f"unknown prediction type {prediction!r}: epsilon, v_prediction or sample")


def adams_bashforth(nodes: Sequence[float], following: float) -> list[float]:
    """Weights of the slopes at `nodes` (oldest first) in the mean slope over [nodes[-1], following].

    Exact for polynomials of degree < len(nodes); on even nodes the classical weights, e.g. (-9, 37, -59, 55) / 24.
    """
    h = following - nodes[-1]
    scaled = [(node - nodes[-1]) / h for node in nodes]  # in units of the step to come
    powers = np.vander(scaled, increasing=True).T  # row p holds node**p
    moments = [1 / (p + 1) for p in range(len(nodes))]  # mean of s**p over [0, 1]
    return [float(weight) for weight in np.linalg.solve(powers, moments)]


def make_solver(name: SolverName, noise_config: Mapping[str, Any], timesteps: Sequence[int]) -> Solver:
    """A solver for one trajectory over `timesteps` (training timesteps, strictly falling).

    `noise_config` is a diffusers scheduler configuration; only the noise schedule and prediction type are read from it.
    DDIM (eta 0) is DPM-Solver++ of order one (arXiv 2206.00927, section 4.1), which takes uneven lists.
    Raises ValueError for an unknown name or a list that is empty or not strictly falling.
    """
    steps = list(timesteps)
    if not steps or any(a <= b for a, b in itertools.pairwise(steps)):
        raise ValueError(f"timesteps must fall strictly and not be empty: {steps}")
    config = {key: noise_config[key] for key in NOISE_KEYS if noise_config.get(key) is not None}
    if name not in MAKERS:
        raise ValueError(f"unknown solver {name!r}: choose from {', '.join(SOLVERS)}")
    return MAKERS[name](config, steps)


def _dpm_solver(order: int) -> Callable[[dict[str, Any], list[int]], Solver]:
    def make(config: dict[str, Any], steps: list[int]) -> Solver:
        scheduler = DPMSolverMultistepScheduler(
            **config, algorithm_type="dpmsolver++", solver_order=order, final_sigmas_type="zero"
        )
        scheduler.set_timesteps(timesteps=steps)
        return SchedulerSolver(scheduler)

    return make


def _euler(config: dict[str, Any], steps: list[int]) -> Solver:
    scheduler = EulerDiscreteScheduler(**config, timestep_spacing="leading", final_sigmas_type="zero")
    scheduler.set_timesteps(timesteps=steps)
    return SchedulerSolver(scheduler)


def _unipc(config: dict[str, Any], steps: list[int]) -> Solver:
    scheduler = UniPCMultistepScheduler(**config, solver_order=2, final_sigmas_type="zero")
    scheduler.set_timesteps(len(steps))
    # It takes no list of timesteps; its update rules read only these two, so they are put in place of its own.
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    scheduler.timesteps = torch.tensor(steps)
    scheduler.sigmas = torch.cat([levels[steps], torch.zeros(1)]).float()
    return SchedulerSolver(scheduler)


def _plms(config: dict[str, Any], steps: list[int]) -> Solver:
    prediction = config.pop("prediction_type", "epsilon")
    return PlmsSolver(PNDMScheduler(**config, skip_prk_steps=True, set_alpha_to_one=True), steps, prediction)


MAKERS: dict[str, Callable[[dict[str, Any], list[int]], Solver]] = {
    "ddim": _dpm_solver(1),
    "dpmpp_2m": _dpm_solver(2),
    "euler": _euler,
    "uni_pc": _unipc,
    "plms": _plms,
}
