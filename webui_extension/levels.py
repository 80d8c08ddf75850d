"""A sampler's own list <-> noise levels (sigmas as in k-diffusion).

The host hands its samplers one of two lists: `sigmas`, falling to a final 0 (k-diffusion), or `timesteps`, rising,
whose first entry is where the last step ends (DDIM, PLMS). Null steps act by handing over a shorter one.
"""

from __future__ import annotations

import inspect
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flexiffusion.errors import FlexiffusionError
from flexiffusion.plan import LevelMapping, Plan, index_at, plan_for
from flexiffusion.schedule import Schedule, SegmentsPlan

ListSampler = Callable[..., Tensor]


class Levels(Protocol):
    """The noise levels that one sampler call visits.

    run:   those of this call, falling, without the picture's 0
    whole: those of the list that it is the tail of (img2img); the same in txt2img
    """

    run: tuple[float, ...]
    whole: tuple[float, ...]

    def sigma(self, value: float) -> float:
        """The noise level of what the sampler passes to the denoiser."""

    def plan(self, schedule: Schedule, mapping: LevelMapping) -> tuple[Plan, dict[str, Any]]:
        """The plan of this call, and the arguments of the sampler to replace."""


class Sigmas:
    """Of a k-diffusion sampler."""

    def __init__(self, given: Tensor, whole: Tensor | None) -> None:
        self._given = given
        self.run = _floats(given[:-1])
        self.whole = _tail_of(_floats(whole[:-1]) if whole is not None else self.run, self.run)

    def sigma(self, value: float) -> float:
        return value

    def plan(self, schedule: Schedule, mapping: LevelMapping) -> tuple[Plan, dict[str, Any]]:
        plan = _plan(self, schedule, mapping, end=float(self._given[-1]), own_solver=True)
        if plan.levels == self.run:
            return plan, {}
        levels = (*plan.levels, float(self._given[-1]))
        return plan, {"sigmas": torch.tensor(levels, dtype=self._given.dtype, device=self._given.device)}


class Timesteps:
    """Of a sampler in timesteps. `alphas_cumprod`: of the model. # (1000,)"""

    def __init__(self, given: Tensor, whole: Tensor | None, alphas_cumprod: Tensor) -> None:
        self._given = given
        # in double precision: the last timesteps of a model with zero terminal SNR have an abar near 0
        abar = alphas_cumprod.detach().to("cpu", torch.float64).clamp(min=1e-12, max=1 - 1e-12)
        self._log_sigmas: list[float] = (((1 - abar) / abar).log() / 2).tolist()
        self.run = self._levels(given)
        self.whole = _tail_of(self._levels(whole) if whole is not None else self.run, self.run)

    def sigma(self, value: float) -> float:
        low = min(max(math.floor(value), 0), len(self._log_sigmas) - 1)
        high = min(low + 1, len(self._log_sigmas) - 1)
        part = min(max(value - low, 0.0), 1.0)
        return math.exp((1 - part) * self._log_sigmas[low] + part * self._log_sigmas[high])

    def plan(self, schedule: Schedule, mapping: LevelMapping) -> tuple[Plan, dict[str, Any]]:
        plan = _plan(self, schedule, mapping, end=self.sigma(float(self._given[0])))
        if plan.levels == self.run:
            return plan, {}
        # the first entry of the list is where the last step ends; it is not evaluated
        ends_at = int(self._given[0])
        by_timestep: dict[int, Any] = {}
        for level, action in zip(plan.levels, plan.actions, strict=True):
            timestep = self.timestep(level)
            if timestep > ends_at and (timestep not in by_timestep or action.kind == "full"):
                by_timestep[timestep] = action
        falling = sorted(by_timestep, reverse=True)
        rounded = replace(
            plan,
            levels=tuple(self.sigma(timestep) for timestep in falling),
            actions=tuple(by_timestep[timestep] for timestep in falling),
            nulls=max(0, len(self.run) - len(falling)),
        )
        timesteps = torch.tensor([ends_at, *reversed(falling)], dtype=self._given.dtype, device=self._given.device)
        return rounded, {"timesteps": timesteps}

    def _levels(self, rising: Tensor) -> tuple[float, ...]:
        return tuple(self.sigma(timestep) for timestep in reversed(_floats(rising[1:])))

    def timestep(self, sigma: float) -> int:
        """The whole one whose noise level is nearest."""
        wanted = math.log(sigma)
        above = min(bisect_left(self._log_sigmas, wanted), len(self._log_sigmas) - 1)
        below = max(above - 1, 0)
        return min(below, above, key=lambda timestep: abs(self._log_sigmas[timestep] - wanted))


class OwnTimesteps(Timesteps):
    """Of a sampler that takes only the number of its timesteps and places them itself (UniPC); none can be taken out.

    visited: what it evaluates, in order; found by a rehearsal.
    """

    def __init__(self, given: Tensor, whole: Tensor | None, alphas_cumprod: Tensor, visited: Sequence[float]) -> None:
        super().__init__(given, whole, alphas_cumprod)
        self.run = tuple(self.sigma(timestep) for timestep in visited)
        # of what comes before an img2img run only the number is known, and only that is needed
        missing = len(whole) - len(given) if whole is not None else 0
        self.whole = tuple(self.run[0] * (missing + 1 - i) for i in range(missing)) + self.run

    def plan(self, schedule: Schedule, mapping: LevelMapping) -> tuple[Plan, dict[str, Any]]:
        if not isinstance(schedule.plan, SegmentsPlan):
            raise FlexiffusionError(
                f"{schedule.name} brings its own noise levels, but UniPC places them itself; it runs the plain way. "
                "Use another sampler, or a schedule of segments"
            )
        segments = tuple(replace(segment, active=segment.steps) for segment in schedule.plan.segments)
        plan = _plan(self, replace(schedule, plan=replace(schedule.plan, segments=segments)), mapping, end=0.0)
        if segments != schedule.plan.segments:
            warning = f"{schedule.name}: UniPC places its noise levels itself, so null steps are partial ones"
            plan = replace(plan, warning=plan.warning or warning)
        return plan, {}


def levels_of(label: str, func: ListSampler, arguments: dict[str, Any], whole: Tensor | None, denoiser: Any) -> Levels:
    """The levels of one sampler call.

    label:     the sampler's name in the host
    func:      its function
    arguments: its keyword arguments
    whole:     the list that the host made before it cut the tail for img2img, if known
    denoiser:  the host's CFG denoiser, `inner_model.inner_model` being the model
    Raises FlexiffusionError when the sampler makes its own list.
    """
    name = getattr(func, "__name__", "")
    parameters = inspect.signature(func).parameters
    sigmas, timesteps = arguments.get("sigmas"), arguments.get("timesteps")
    if any(isinstance(given, Tensor) and len(given) < 2 for given in (sigmas, timesteps)):
        raise FlexiffusionError(f"{label} has no step to run, so there is nothing to save")
    # Restart goes up again in the middle; reForge's "ODE" samplers read only where the list begins and ends
    makes_its_own = "restart" in name or "sample_ode" in name
    if isinstance(sigmas, Tensor) and "sigmas" in parameters and not makes_its_own:
        return Sigmas(sigmas, whole)
    if isinstance(timesteps, Tensor) and "timesteps" in parameters:
        alphas_cumprod = denoiser.inner_model.inner_model.alphas_cumprod
        if name == "unipc":
            visited = _rehearsed(func, arguments, denoiser, timesteps)
            return OwnTimesteps(timesteps, whole, alphas_cumprod, visited)
        return Timesteps(timesteps, whole, alphas_cumprod)
    raise FlexiffusionError(
        f"{label} makes its own noise levels, so no schedule can be laid over them; it runs the plain way. "
        "Use another sampler"
    )


def positions(levels: Levels, plan: Plan) -> tuple[int, ...]:
    """For each evaluated level its place in the host's own list."""
    return tuple(index_at(levels.run, level) for level in plan.levels)


class _Rehearsal(nn.Module):
    """Stands in for the denoiser: notes what it is asked, answers 0, and passes for the real one otherwise."""

    def __init__(self, denoiser: Any) -> None:
        super().__init__()
        self.__dict__["_denoiser"] = denoiser
        self.visited: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_denoiser"], name)

    def forward(self, x: Tensor, value: Tensor, **_: Any) -> Tensor:
        self.visited.append(float(value.flatten()[0]))
        return torch.zeros_like(x)


def _rehearsed(func: ListSampler, arguments: dict[str, Any], denoiser: Any, timesteps: Tensor) -> list[float]:
    """What a sampler without noise of its own evaluates: it is run once on a latent of one pixel."""
    stage = _Rehearsal(denoiser)
    latent = torch.zeros(1, 1, 1, 1, device=timesteps.device)
    quiet = {"callback": lambda state: None, "disable": True, "extra_args": {}}
    with torch.no_grad():
        func(stage, latent, **(arguments | quiet))
    return stage.visited


def _plan(levels: Levels, schedule: Schedule, mapping: LevelMapping, end: float, own_solver: bool = False) -> Plan:
    return plan_for(schedule, levels.whole, mapping, end, len(levels.whole) - len(levels.run), own_solver)


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values.detach().to("cpu", torch.float64))


def _tail_of(whole: tuple[float, ...], run: tuple[float, ...]) -> tuple[float, ...]:
    """`whole` where `run` is its tail, else `run` itself: somebody has changed the list since the host made it."""
    return whole if whole[len(whole) - len(run) :] == run else run
