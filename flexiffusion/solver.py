"""Solvers as tables of weights: every explicit linear multistep solver in data prediction is one.

States y are scaled so that the update is the same for every model: y = x / alpha for variance-preserving models (the
sample of k-diffusion), y = x for flow models. With D_i the guided prediction of the clean sample at step i and r =
sigma' / sigma the ratio of the level to come and the present one,

    y' = r y + (1 - r) sum_j w_j D_{i-j}

Euler, which is DDIM (arXiv 2010.02502, eq. 12 with eta 0), has w = (1). DPM-Solver++ 2M (arXiv 2211.01095, algorithm 2)
has w = (1 + c, -c) with c = h_i / (2 h_{i-1}) and h = -log r. The last step goes to zero noise (r = 0) in first order,
as k-diffusion's samplers do, so that hosts and this library agree. A schedule file may bring weights of its own, fitted
to a network (see `search.fitting`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .noise import NoiseKind

Weights = tuple[tuple[float, ...], ...]  # of each step, newest prediction first

LOWER_ORDERS_BELOW = 15  # steps: with so few, DPM-Solver++ 3M falls to first order by way of second


class Solver(Protocol):
    """The integrator of one trajectory. It holds the solver's memory, so make a new one for each trajectory."""

    def step(self, denoised: Tensor, state: Tensor, index: int) -> Tensor:
        """The prediction of the clean sample and the state at step `index` -> the state at the level to come.

        All are (n, C, H, W) float32; after the last level comes zero noise.
        """

    def history(self) -> dict[str, Any]:
        """What it remembers of past steps, for a solver over a list that begins with the same levels."""

    def recall(self, history: Mapping[str, Any]) -> None:
        """Go on from there."""


SolverMaker = Callable[[Sequence[float]], Solver]
"""Makes the solver of one trajectory over sigmas that fall strictly; zero noise, which follows, is not among them."""


class _Remembering:
    """A solver's memory: tensors of past steps, newest first."""

    past: tuple[Tensor, ...] = ()

    def history(self) -> dict[str, Any]:
        return {"past": list(self.past)}

    def recall(self, history: Mapping[str, Any]) -> None:
        self.past = tuple(history["past"])


class Multistep(_Remembering):
    """The solver with given weights, one row a step. A row as long as n reads the last n predictions.

    Raises ValueError where sigmas do not fall strictly, are not positive, or where there is not one row for each.
    """

    def __init__(self, sigmas: Sequence[float], weights: Weights) -> None:
        check_falling(sigmas)
        if len(weights) != len(sigmas):
            raise ValueError(f"{len(weights)} rows of weights for {len(sigmas)} steps: give one for each")
        self.sigmas = (*sigmas, 0.0)
        self.weights = weights
        self.span = max(len(row) for row in weights)

    def step(self, denoised: Tensor, state: Tensor, index: int) -> Tensor:
        self.past = (denoised, *self.past)[: self.span]
        return advanced(state, self.past, self.sigmas[index + 1] / self.sigmas[index], self.weights[index])


def advanced(state: Tensor, predictions: Sequence[Tensor], ratio: float, weights: Sequence[float]) -> Tensor:
    """The state at the level to come, `ratio` times the present one; predictions and their weights are newest first."""
    result = state * ratio if ratio else torch.zeros_like(state)
    for weight, prediction in zip(weights, predictions, strict=False):
        result = result.add_(prediction, alpha=(1 - ratio) * weight)
    return result


def clean(output: Tensor, sample: Tensor, sigma: float, prediction: str) -> Tensor:
    """The clean sample that a network's output says: D of arXiv 2206.00364, eq. 7 and table 1; v of arXiv 2202.00512.

    `sample` is clean + sigma * noise; of a flow model (1 - sigma) * clean + sigma * noise, and the output is
    noise - clean (arXiv 2209.03003). Raises ValueError for a prediction type other than epsilon, v_prediction, sample,
    flow.
    """
    if prediction in ("epsilon", "flow"):
        return sample - sigma * output
    if prediction == "v_prediction":
        return sample / (1 + sigma**2) - output * (sigma / math.sqrt(1 + sigma**2))
    if prediction == "sample":
        return output
    raise ValueError(f"unknown prediction type {prediction!r}: epsilon, v_prediction, sample or flow")


def planned_weights(levels: Sequence[float], weights: Sequence[Sequence[float] | None]) -> Weights:
    """The rows of a plan's own solver (`Plan.weights`), with DPM-Solver++ 2M's where it has none."""
    usual = dpmpp_2m_weights(levels)
    return tuple(tuple(row) if row is not None else other for row, other in zip(weights, usual, strict=True))


def sample_with(
    weights: Weights,
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """A sampler as hosts have them from k-diffusion (`sample_euler` and its kin), with given weights, one row a step.

    Args:
        model: `model(x, sigma, **extra_args)` predicts the clean sample; sigma has one value for each image. # (B,)
        x: the noisy sample in scaled states, which those of k-diffusion are. # (B, C, H, W) or (B, C, T, H, W)
        sigmas: noise levels that fall, and the one where the run ends, mostly 0. # (steps + 1,)
        callback: told of every step, as the host's own samplers tell it.
        disable: as the host's own samplers have it; no progress is shown here.

    Raises:
        ValueError: there is not one row for each step.
    """
    if len(weights) != len(sigmas) - 1:
        raise ValueError(f"{len(weights)} rows of weights for {len(sigmas) - 1} steps: give one for each")
    levels = [float(sigma) for sigma in sigmas]
    past: tuple[Tensor, ...] = ()
    for i, row in enumerate(weights):
        denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        past = (denoised, *past)[: max(map(len, weights))]
        x = advanced(x, past, levels[i + 1] / levels[i], row)
    return x


def own_sampler(levels: Sequence[float], weights: Sequence[Sequence[float] | None]) -> Callable[..., Tensor]:
    """The solver that a plan brings (`Plan.levels`, `Plan.weights`), called as `sample_with` is but for the weights.

    Options of the sampler that a host's user has chosen (its noise, its eta) are for that sampler and not used.
    """
    rows = planned_weights(levels, weights)

    def sample_flexiffusion(
        model: Callable[..., Tensor], x: Tensor, sigmas: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        known = {name: options[name] for name in ("extra_args", "callback", "disable") if name in options}
        return sample_with(rows, model, x, sigmas, *args, **known)

    return sample_flexiffusion


class Plms(_Remembering):
    """Pseudo linear multistep (PNDM, arXiv 2202.09778, eqs. 9 and 12), Adams-Bashforth weights for uneven steps.

    It averages noise predictions over `times` (training timesteps, or any time in which the steps are even for the
    classical weights). The order rises 1, 2, 3, 4 with the memory, one network call a step, where PNDM spends a second
    call on the first step. Eq. 9 in scaled states is y' = y + (sigma' - sigma) epsilon.
    """

    order = 4

    def __init__(self, sigmas: Sequence[float], times: Sequence[float]) -> None:
        check_falling(sigmas)
        self.sigmas = (*sigmas, 0.0)
        self.times = tuple(times)

    def step(self, denoised: Tensor, state: Tensor, index: int) -> Tensor:
        epsilon = (state - denoised) / self.sigmas[index]
        self.past = (epsilon, *self.past)[: self.order]
        if index + 1 == len(self.times):
            return denoised
        nodes = self.times[max(0, index + 1 - len(self.past)) : index + 1]
        slope = torch.zeros_like(state)
        for weight, past in zip(reversed(adams_bashforth(nodes, self.times[index + 1])), self.past, strict=True):
            slope.add_(past, alpha=weight)
        return state + (self.sigmas[index + 1] - self.sigmas[index]) * slope


def euler(sigmas: Sequence[float]) -> Multistep:
    """Euler's method on the probability flow equation, the same as DDIM with eta 0."""
    return Multistep(sigmas, ((1.0,),) * len(sigmas))


def dpmpp_2m(sigmas: Sequence[float]) -> Multistep:
    """DPM-Solver++ 2M with the true, uneven step sizes."""
    return Multistep(sigmas, dpmpp_2m_weights(sigmas))


def dpmpp_3m(sigmas: Sequence[float]) -> Multistep:
    """DPM-Solver++ 3M with the true, uneven step sizes."""
    return Multistep(sigmas, dpmpp_3m_weights(sigmas))


def dpmpp_2m_weights(sigmas: Sequence[float], kind: NoiseKind = "vp") -> Weights:
    """The weights of DPM-Solver++ 2M over sigmas that fall strictly; first order at the first step and the last.

    kind "vp": steps h are differences of -log sigma, which is what k-diffusion's sampler takes of flow models too;
    "flow": of the half log-SNR of a flow model, log((1 - s) / s), as diffusers' scheduler has it.
    """
    steps = _step_sizes(sigmas, kind)
    rows: list[tuple[float, ...]] = [(1.0,)]
    for before, step in itertools.pairwise(steps):
        rows.append(_second_order(before, step))
    return (*rows, (1.0,))[: len(sigmas)]


def dpmpp_3m_weights(sigmas: Sequence[float], kind: NoiseKind = "vp") -> Weights:
    """The weights of DPM-Solver++ 3M (arXiv 2211.01095, as diffusers' scheduler of order 3 has it), `kind` as for 2M.

    The order rises 1, 2, 3 at the beginning and falls at the end: the last step is first order, and of fewer than 15
    steps the last but one second order.
    """
    steps, count = _step_sizes(sigmas, kind), len(sigmas)
    rows: list[tuple[float, ...]] = [(1.0,)]
    for i, (before, step) in enumerate(itertools.pairwise(steps), 1):
        lower = i == 1 or (i == count - 2 and count < LOWER_ORDERS_BELOW)
        rows.append(_second_order(before, step) if lower else _third_order(steps[i - 2], before, step))
    return (*rows, (1.0,))[:count]


def _step_sizes(sigmas: Sequence[float], kind: NoiseKind) -> list[float]:
    """h of every step but the last, which is infinite; that from pure noise, s = 1 of a flow model, is infinite too."""

    def half_log_snr(sigma: float) -> float:
        clean = 1 - sigma if kind == "flow" else 1.0
        return math.log(clean / sigma) if clean > 0 else -math.inf

    return [half_log_snr(after) - half_log_snr(before) for before, after in itertools.pairwise(sigmas)]


def _second_order(before: float, step: float) -> tuple[float, float]:
    c = step / (2 * before)
    return 1 + c, -c


def _third_order(first: float, before: float, step: float) -> tuple[float, float, float]:
    """From the sizes of the last three steps, in the order of sampling; D1 and D2 are diffusers' differences."""
    r0, r1, passed = before / step, first / step, -math.expm1(-step)
    of_d1, of_d2 = 1 / passed - 1 / step, (0.5 - (step - passed) / step**2) / passed
    newer = of_d1 * (1 + r0 / (r0 + r1)) + of_d2 / (r0 + r1)  # of (D_i - D_{i-1}) / r0
    older = of_d1 - newer  # of (D_{i-1} - D_{i-2}) / r1
    return 1 + newer / r0, older / r1 - newer / r0, -older / r1


def adams_bashforth(nodes: Sequence[float], following: float) -> list[float]:
    """Weights of the slopes at `nodes` (oldest first) in the mean slope over [nodes[-1], following].

    Exact for polynomials of degree < len(nodes); on even nodes the classical weights, e.g. (-9, 37, -59, 55) / 24.
    """
    step = following - nodes[-1]
    scaled = torch.tensor([(node - nodes[-1]) / step for node in nodes], dtype=torch.float64)
    powers = torch.stack([scaled**p for p in range(len(nodes))])  # row p holds node**p
    moments = torch.tensor([1 / (p + 1) for p in range(len(nodes))], dtype=torch.float64)  # mean of s**p over [0, 1]
    return [float(weight) for weight in torch.linalg.solve(powers, moments)]


def check_falling(sigmas: Sequence[float]) -> None:
    """Raises ValueError for a list that is empty, does not fall strictly, or is not positive and finite."""
    if not sigmas or any(a <= b for a, b in itertools.pairwise(sigmas)) or not 0 < sigmas[-1] <= sigmas[0] < math.inf:
        raise ValueError(f"noise levels must fall strictly, be positive and finite, and not be empty: {list(sigmas)}")
