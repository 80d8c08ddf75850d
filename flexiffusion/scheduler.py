"""diffusers' schedulers, told by the name of their class: their noise levels, other ones put in, our solver in `step`.

A scheduler of diffusers is the list of noise levels and the solver in one object. After `set_timesteps` it has
`timesteps`, one for each evaluation of the network, and most have `sigmas`, one more, which `step` reads by its own
index. Nothing of diffusers is imported.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import ModelMismatch
from .noise import NoiseKind, network_scale
from .plan import Plan
from .solver import advanced, clean, planned_weights

Evaluations = Literal["one", "two", "between"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of one class of schedulers.

    sampler:     its solver's name in schedule files; None: it has none there
    evaluations: of the network: "one" a level; "two": at a level and at the next, so that all but the first stand twice
                 in `timesteps`; "between": at a level and at one between it and the next
    placed:      whether it steps over any falling list of levels
    random:      whether it adds noise at every step: levels that are taken out would change how much
    scaled:      whether its samples are clean + sigma * noise, as in k-diffusion; else that times 1 / sqrt(1 + sigma^2)
    """

    sampler: str | None
    evaluations: Evaluations = "one"
    placed: bool = True
    random: bool = False
    scaled: bool = False


# Those that are not placed compute the step before from the number of steps, or have levels between the given ones.
_KINDS: dict[str, Kind] = {
    "DDIMScheduler": Kind("ddim", placed=False),
    "DDPMScheduler": Kind("ddpm", placed=False, random=True),
    "PNDMScheduler": Kind("plms", placed=False),
    "EulerDiscreteScheduler": Kind("euler", scaled=True),
    "EulerAncestralDiscreteScheduler": Kind("euler_ancestral", random=True, scaled=True),
    "HeunDiscreteScheduler": Kind("heun", "two", scaled=True),
    "KDPM2DiscreteScheduler": Kind("dpm_2", "between", placed=False, scaled=True),
    "KDPM2AncestralDiscreteScheduler": Kind("dpm_2_ancestral", "between", placed=False, random=True, scaled=True),
    "LMSDiscreteScheduler": Kind("lms", scaled=True),
    "DPMSolverMultistepScheduler": Kind("dpmpp_2m"),
    "DPMSolverSinglestepScheduler": Kind("dpmpp_2s"),
    "UniPCMultistepScheduler": Kind("uni_pc"),
    "DEISMultistepScheduler": Kind("deis"),
    "FlowMatchEulerDiscreteScheduler": Kind("euler"),
    "FlowMatchHeunDiscreteScheduler": Kind("heun", "two"),
}
KNOWN = tuple(_KINDS)
FEW_STEPS = ("LCMScheduler", "TCDScheduler")  # solvers of models that take four steps or so


def kind_of(scheduler: Any) -> Kind:
    """What is known of a scheduler, its configuration included.

    Raises:
        ModelMismatch: a class that is not known, or one for models of few steps.
    """
    names = [cls.__name__ for cls in type(scheduler).__mro__]
    if few := next((name for name in names if name in FEW_STEPS), None):
        raise ModelMismatch(
            f"pipe.scheduler: {few} is for models of few steps, where nothing can be saved. Use the pipeline as it is"
        )
    name = next((name for name in names if name in _KINDS), None)
    if name is None:
        raise ModelMismatch(
            f"pipe.scheduler: {names[0]} is not known. Use one of {', '.join(KNOWN)}: "
            "pipe.scheduler = X.from_config(pipe.scheduler.config)"
        )
    kind, config = _KINDS[name], scheduler.config
    algorithm, order = str(config.get("algorithm_type", "dpmsolver++")), config.get("solver_order", 2)
    sampler, placed, random = kind.sampler, kind.placed, kind.random
    if name == "DPMSolverMultistepScheduler":
        sampler = {2: "dpmpp_2m", 3: "dpmpp_3m"}.get(order) if algorithm.endswith("++") else None
        if algorithm.startswith("sde-"):
            sampler, random = (f"{sampler}_sde" if sampler else None), True
    if name == "DPMSolverSinglestepScheduler" and algorithm.startswith("sde-"):
        sampler, random = None, True
    if config.get("stochastic_sampling"):
        random = True
    if config.get("solver_p") is not None:  # a second scheduler inside of UniPC, with a list of its own
        placed = False
    return Kind(sampler, kind.evaluations, placed, random, kind.scaled)


def why_not_placed(scheduler: Any) -> str | None:
    """Why levels cannot be taken out of a scheduler's list, nor others put in, as a clause; None: they can."""
    kind, name = kind_of(scheduler), type(scheduler).__name__
    if kind.random:
        return f"{name} adds noise at every step, so only partial steps act on it"
    if not kind.placed:
        return f"{name} steps over levels of its own only, so only partial steps act on it"
    return None


def noise_of(scheduler: Any) -> NoiseKind:
    """What a scheduler's levels are."""
    config = scheduler.config
    flow = any(cls.__name__.startswith("FlowMatch") for cls in type(scheduler).__mro__)
    return "flow" if flow or config.get("use_flow_sigmas") or prediction_of(scheduler) == "flow" else "vp"


def prediction_of(scheduler: Any) -> str:
    """What the network predicts, in the words of schedule files."""
    said = scheduler.config.get("prediction_type")
    if said is None:
        flow = any(cls.__name__.startswith("FlowMatch") for cls in type(scheduler).__mro__)
        return "flow" if flow else "epsilon"
    return {"flow_prediction": "flow"}.get(str(said), str(said))


@dataclass(frozen=True, slots=True)
class Listed:
    """The list that a scheduler has made.

    timesteps: one for each evaluation of the network, in order
    sigmas:    the noise level of each
    levels:    those that the solver steps over, without those between; falling
    end:       the level where it ends, mostly 0
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    levels: tuple[float, ...]
    end: float

    def place(self, row: int) -> int:
        """Which of `levels` the evaluation is at, or was begun at."""
        reached = [place for place, level in enumerate(self.levels) if level >= self.sigmas[row]]
        return reached[-1] if reached else 0


def listed(scheduler: Any) -> Listed:
    """Reads what `set_timesteps` has made."""
    kind = kind_of(scheduler)
    timesteps = _floats(scheduler.timesteps)
    own = _floats(getattr(scheduler, "sigmas", None))
    if kind.evaluations != "between" and len(own) == len(timesteps) + 1:
        sigmas, end = own[:-1], own[-1]
    else:
        levels = _Training(scheduler)
        sigmas, end = tuple(levels.sigma(timestep) for timestep in timesteps), 0.0
    rows = sigmas[::2] if kind.evaluations == "between" else sigmas
    distinct = [level for place, level in enumerate(rows) if place == 0 or level != rows[place - 1]]
    return Listed(timesteps, sigmas, tuple(distinct), end)


def put(scheduler: Any, given: Listed, plan: Plan) -> Listed:
    """Gives a scheduler, whose list has just been made, the levels of a plan in its place, and returns the new list.

    With weights in the plan `OwnSolver` steps, with one evaluation a level.

    A level of its own list keeps its timestep; another has the timestep that the training schedule says, rounded where
    the scheduler's are whole numbers, as diffusers does with Karras levels.
    """
    training = _Training(scheduler)
    known = dict(zip(given.sigmas, given.timesteps, strict=True))
    timesteps = [known[level] if level in known else training.timestep(level) for level in plan.levels]
    if not scheduler.timesteps.is_floating_point():
        timesteps = [round(timestep) for timestep in timesteps]
    sigmas = [*plan.levels, given.end]
    if kind_of(scheduler).evaluations == "two" and plan.weights is None:
        timesteps = [timesteps[0], *(twice for timestep in timesteps[1:] for twice in (timestep, timestep))]
        sigmas = [sigmas[0], *(twice for sigma in sigmas[1:-1] for twice in (sigma, sigma)), sigmas[-1]]
    scheduler.timesteps = torch.tensor(timesteps, dtype=scheduler.timesteps.dtype, device=scheduler.timesteps.device)
    if isinstance(getattr(scheduler, "sigmas", None), Tensor):
        scheduler.sigmas = torch.tensor(sigmas, dtype=scheduler.sigmas.dtype, device=scheduler.sigmas.device)
    scheduler.num_inference_steps = len(plan.levels)
    if hasattr(scheduler, "get_order_list"):
        scheduler.order_list = scheduler.get_order_list(len(plan.levels))
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return Listed(tuple(map(float, timesteps)), tuple(sigmas[:-1]), plan.levels, given.end)


class OwnSolver:
    """`step` of a scheduler with the solver that a plan brings; the scheduler's scaling of samples stays.

    levels, weights: of the plan
    end: the level where the run ends
    """

    def __init__(self, scheduler: Any, plan: Plan, end: float) -> None:
        self._scheduler = scheduler
        self._levels = (*plan.levels, end)
        self._weights = planned_weights(plan.levels, plan.weights or ())
        self._span = max(map(len, self._weights))
        self._past: tuple[Tensor, ...] = ()
        self._index = 0
        self._vp = noise_of(scheduler) == "vp"
        self._scaled = kind_of(scheduler).scaled or not self._vp

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any
    ) -> Any:
        """As a scheduler's: what the network predicts and the sample -> the sample at the next level.

        Options of the scheduler's own solver (its noise, its eta) are for that solver and not used.
        """
        level, following = self._levels[self._index : self._index + 2]
        output = model_output.float()
        if output.shape[1] == 2 * sample.shape[1]:  # the network predicts the variance too
            output = output[:, : sample.shape[1]]
        state = sample.float() * (1.0 if self._scaled else network_scale(level, "vp"))
        denoised = self._clipped(clean(output, state, level, prediction_of(self._scheduler)))
        self._past = (denoised, *self._past)[: self._span]
        state = advanced(state, self._past, following / level, self._weights[self._index])
        self._index += 1
        if hasattr(self._scheduler, "_step_index"):  # by which `scale_model_input` and `add_noise` know the level
            self._scheduler._step_index = self._index
        result = (state / (1.0 if self._scaled else network_scale(following, "vp"))).to(model_output.dtype)
        if not return_dict:
            return (result,)
        return SimpleNamespace(prev_sample=result, pred_original_sample=denoised.to(model_output.dtype))

    def _clipped(self, denoised: Tensor) -> Tensor:
        config = self._scheduler.config
        if config.get("thresholding"):
            return self._scheduler._threshold_sample(denoised)  # type: ignore[no-any-return]
        if config.get("clip_sample"):
            most = float(config.get("clip_sample_range", 1.0))
            return denoised.clamp(-most, most)
        return denoised


class _Training:
    """Noise levels of training timesteps: for "vp" from the scheduler's cumulative alphas, for "flow" even in time."""

    def __init__(self, scheduler: Any) -> None:
        self._count = int(scheduler.config.num_train_timesteps)
        self._logs: list[float] = []
        if noise_of(scheduler) == "vp":
            abar = scheduler.alphas_cumprod.detach().to("cpu", torch.float64).clamp(min=1e-12, max=1 - 1e-12)
            self._logs = (((1 - abar) / abar).log() / 2).tolist()

    def sigma(self, timestep: float) -> float:
        if not self._logs:
            return timestep / self._count
        low = min(max(math.floor(timestep), 0), len(self._logs) - 1)
        high = min(low + 1, len(self._logs) - 1)
        part = min(max(timestep - low, 0.0), 1.0)
        return math.exp((1 - part) * self._logs[low] + part * self._logs[high])

    def timestep(self, sigma: float) -> float:
        if not self._logs:
            return sigma * self._count
        wanted = math.log(sigma)
        high = min(max(bisect.bisect_left(self._logs, wanted), 1), len(self._logs) - 1)
        low, above = self._logs[high - 1], self._logs[high]
        return high - 1 + min(max((wanted - low) / (above - low), 0.0), 1.0)


def _floats(values: Tensor | Sequence[float] | None) -> tuple[float, ...]:
    if values is None:
        return ()
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).tolist()
    return tuple(float(value) for value in values)
