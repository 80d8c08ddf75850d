"""The door for diffusers pipelines: `apply(pipe, schedule)`, and every call of that pipeline follows the schedule.

Nothing of diffusers is imported. Only the pipeline's class is another one while a schedule is applied: a subclass of
the same name whose `__call__` opens a sampling. In that call alone the methods of its scheduler and the `forward` of
its network are instance attributes, looked up anew each time. So another scheduler, offloading, LoRA, compiling and
pipelines that share the network need no second `apply`, and nothing of ours is in what is saved, copied or pickled.

- `set_timesteps`, or `get_timesteps` of pipelines that begin in the middle of the list: the plan is made, and its
  levels put in where they are others;
- `forward` of the network: full or partial, by the core's Run, at the level that the network is told;
- `step` of the scheduler: an evaluation is over; with weights, the schedule's own solver instead.
"""

from __future__ import annotations

import copyreg
import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .attributes import Attributes
from .auto import Chosen, Setting, choose
from .conditioning import Arguments, Conditionings, batch_of
from .errors import FlexiffusionError, ModelMismatch, ScheduleError
from .families import FAMILIES
from .fingerprint import is_same_checkpoint
from .fit import distilled, family_of, misfit, require_fit, require_noise
from .host import SamplingReport, checkpoint_note, full_plan, gain_note, in_full, nothing_saved, total, why_not_cut
from .layouts import find_layout
from .metadata import ModelInfo
from .plan import FEWEST_STEPS, LevelMapping, Plan, plan_for
from .presets import Preset, find, named
from .rule import FASTEST
from .run import Report, Run
from .schedule import NULL, Schedule, SegmentsPlan, StepsPlan
from .scheduler import Listed, OwnSolver, kind_of, listed, noise_of, prediction_of, put, why_not_placed
from .threads import this_thread

NETWORKS = ("unet", "transformer", "transformer_2")  # the last: the second expert of Wan 2.2
MARK = "_flexiffusion_handle"

_log = logging.getLogger("flexiffusion")


@dataclass(frozen=True, slots=True)
class Support:
    """Whether schedules can be applied to a pipeline, which its truth value is, and why, or why not."""

    ok: bool
    reason: str

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return self.reason


def supported(pipe: Any) -> Support:
    """Whether `apply` takes a pipeline, and what it would run on; nothing is changed."""
    try:
        networks = _networks(pipe)
        kind = kind_of(pipe.scheduler)
    except ModelMismatch as error:
        return Support(False, str(error))
    network = _uncompiled(networks[0])
    fixed = why_not_placed(pipe.scheduler)
    if (problem := why_not_cut(network)) is not None:
        return Support(fixed is None, f"{problem}, so only null steps can act" + (f"; {fixed}" if fixed else ""))
    family = FAMILIES.get(family_of(network) or "")
    title = family.title if family else "a family that is not known"
    branches = find_layout(network).branches
    solver = "" if kind.sampler is None else f", which is {kind.sampler} in schedule files"
    where = fixed or "full, partial and null steps can act"
    return Support(
        True,
        f"{type(pipe).__name__}: {type(network).__name__} of {title} with {branches} branches, "
        f"{type(pipe.scheduler).__name__}{solver}; {where}",
    )


def apply(
    pipe: Any,
    schedule: Schedule | str | os.PathLike[str] | None = None,
    *,
    speedup: float | None = None,
    mapping: LevelMapping = "position",
) -> Handle:
    """Makes every call of a diffusers pipeline follow a schedule, until `remove`; one applied before gives way.

    Args:
        pipe: a pipeline with a U-Net or a transformer that can be cut, and a scheduler that is known: see `supported`.
        schedule: the name of a preset, the path of a file, or a schedule.
        speedup: instead of a schedule: how many times faster, 1 to 4. Each call then takes the schedule that was
            searched for this checkpoint or its family, or the rule, see `auto.choose`.
        mapping: how a schedule of segments is laid over the pipeline's noise levels, see `plan.plan_for`.

    Raises:
        ScheduleError: there is no such preset, or the file is refused.
        ModelMismatch: the schedule was not made for this network, or the scheduler cannot run it.
        TypeError: both a schedule and a speed-up are given, or neither.
    """
    if (schedule is None) == (speedup is None):
        raise TypeError("apply: give either a schedule or speedup=, such as speedup=2")
    if speedup is not None and not 1 <= speedup <= FASTEST:
        raise ScheduleError("speedup", f"{speedup:g} is outside 1 to {FASTEST:g}", f"Give 1 to {FASTEST:g}")
    if not isinstance(schedule, Schedule | None):
        schedule = named(schedule).schedule
    _require_runnable(pipe, schedule)
    earlier = getattr(type(pipe), MARK, None)
    if isinstance(earlier, Handle):
        earlier.remove()
    return Handle(pipe, schedule, speedup, mapping)


class Handle:
    """A schedule on a pipeline. As a context manager it is removed at the end.

    Attributes:
        schedule: what is applied; None: each call chooses one for `speedup`.
        speedup: the one that was asked for, or None.
        report: of the last call, also of one that was interrupted; None: nothing was sampled yet.
    """

    def __init__(self, pipe: Any, schedule: Schedule | None, speedup: float | None, mapping: LevelMapping) -> None:
        self.schedule = schedule
        self.speedup = speedup
        self.report: SamplingReport | None = None
        self._pipe = pipe
        self._mapping: LevelMapping = mapping
        self._busy = threading.Lock()
        self._open = True
        self._base = type(pipe)
        self._class = _subclass(type(pipe), self)
        self._call = vars(self._class)["__call__"]
        object.__setattr__(pipe, "__class__", self._class)  # past diffusers' own, which looks at its configuration

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Gives the pipeline its class back. Where somebody has changed that class meanwhile, theirs stays, and calls
        pass through ours."""
        self._open = False
        if type(self._pipe) is self._class and vars(self._class)["__call__"] is self._call:
            object.__setattr__(self._pipe, "__class__", self._base)

    def _sample(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of the pipeline.

        Raises:
            FlexiffusionError: another call is running.
        """
        if not self._open:
            return call(*args, **kwargs)
        if not self._busy.acquire(blocking=False):
            raise FlexiffusionError(
                f"{type(self._pipe).__name__}: it is sampling already, in another thread or in a callback of its own. "
                "Call it again when it is done, or give each thread a pipeline of its own"
            )
        try:
            self.report = None
            sampling = _Sampling(self._pipe, self.schedule, self.speedup, self._mapping)
            try:
                with sampling:
                    return call(*args, **kwargs)
            finally:
                self.report = sampling.report
        finally:
            self._busy.release()


def _subclass(base: Any, handle: Handle) -> Any:
    """A class like `base`, whose calls go through the handle. Copies, and what is pickled, are of `base` itself."""

    @functools.wraps(base.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        original = functools.partial(base.__call__, self)
        return handle._sample(original, args, kwargs) if self is handle._pipe else original(*args, **kwargs)

    def reduce(self: Any, protocol: int) -> Any:
        function, arguments, *rest = base.__reduce_ex__(self, protocol)
        if function is copyreg.__newobj__ and arguments == (made,):  # type: ignore[attr-defined]
            # pickle wants the class of the object itself there; this makes one of the class that it is told
            return (copyreg._reconstructor, (base, object, None), *rest)  # type: ignore[attr-defined]
        return (function, tuple(base if argument is made else argument for argument in arguments), *rest)

    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    made: Any = type(base)(base.__name__, (base,), {**names, MARK: handle, "__call__": call, "__reduce_ex__": reduce})
    return made


class _Sampling:
    """One call of a pipeline under a schedule."""

    def __init__(self, pipe: Any, schedule: Schedule | None, speedup: float | None, mapping: LevelMapping) -> None:
        self._pipe = pipe
        self._scheduler = pipe.scheduler
        self._asked = schedule
        self._schedule = schedule  # of this list: the asked one, or the one that was chosen
        self._speedup = speedup
        self._mapping: LevelMapping = mapping
        self._attributes = Attributes(acts=this_thread())  # another thread may call a pipeline of the same network
        self._networks: dict[nn.Module, Arguments] = {}
        self._conditionings = Conditionings()
        self._given: Listed | None = None
        self._begins_later = callable(getattr(pipe, "get_timesteps", None))
        self._plan: Plan | None = None
        self._rows: Listed | None = None  # as the pipeline goes through them
        self._done = 0  # evaluations
        self._as_told: Callable[[float], float] | None = None
        self._runs: dict[nn.Module, Run] = {}
        self._began: dict[nn.Module, tuple[int, int]] = {}  # the evaluation that each network is in
        self._solver: OwnSolver | None = None
        self._reports: list[Report] = []
        self._nulls = self._steps = 0
        self._notes: dict[str, None] = {}

    @property
    def report(self) -> SamplingReport | None:
        if not self._steps:
            return None
        report = total(self._reports, self._nulls)
        return SamplingReport(self._name, report, self._steps, tuple(self._notes))

    @property
    def _name(self) -> str | None:
        return None if self._schedule is None else self._schedule.name

    def __enter__(self) -> None:
        _require_runnable(self._pipe, self._asked)
        put = self._attributes.put_function
        try:
            scheduler, pipe = self._scheduler, self._pipe
            put(scheduler, "set_timesteps", self._around(scheduler.set_timesteps, self._set))
            put(scheduler, "step", self._stepping(scheduler.step))
            if self._begins_later:
                put(pipe, "get_timesteps", self._beginning(pipe.get_timesteps))
            for network in _networks(pipe):
                # compiled in place, its `forward` is inside of what is compiled
                name = "forward" if vars(network).get("_compiled_call_impl") is None else "_compiled_call_impl"
                self._networks[network] = Arguments(_uncompiled(network))
                put(network, name, functools.partial(self._forward, network, getattr(network, name)))
        except BaseException:
            self._attributes.undo()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attributes.undo()
        self._close()
        report = self.report
        if report is not None:
            if note := nothing_saved(self._name or "no schedule", report.report):
                self._note(note)
            _log.info("%s", report.line)

    def _around(self, original: Callable[..., Any], after: Callable[[], None]) -> Callable[..., Any]:
        @functools.wraps(original)
        def function(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            after()
            return result

        return function

    def _set(self) -> None:
        """The scheduler has made its list."""
        self._close()
        self._given = listed(self._scheduler)
        if not self._begins_later:
            self._lay(0)

    def _beginning(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def get_timesteps(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._given is None:
                return result
            timesteps, _, *rest = result
            start = len(self._given.timesteps) - len(timesteps)
            if not len(timesteps) or float(timesteps[0]) != self._given.timesteps[start]:
                raise FlexiffusionError(
                    f"{type(self._pipe).__name__}: it does not sample a tail of its scheduler's "
                    "list, so no schedule can be laid over it. Remove the schedule for such calls"
                )
            if self._lay(start) and self._plan is not None:
                return (self._scheduler.timesteps, len(self._plan.levels), *rest)
            return result

        return get_timesteps

    def _lay(self, start: int) -> bool:
        """Lays the schedule over the scheduler's list from evaluation `start` on; whether the list is another now.

        Raises:
            FlexiffusionError: the schedule cannot be run here.
        """
        given, scheduler = self._given, self._scheduler
        assert given is not None
        network = _uncompiled(next(iter(self._networks)))
        place = given.place(start)
        whole = given.levels[place:]
        if self._speedup is not None:
            chosen = self._chosen(whole, network, self._speedup)
            self._schedule = schedule = chosen.schedule
            self._note(chosen.said)
            plan = full_plan(whole)
            if schedule is not None:
                plan = plan_for(schedule, whole, end=given.end, own_solver=True)
        else:
            schedule = self._schedule
            assert schedule is not None
            plan = plan_for(schedule, given.levels, self._mapping, given.end, place, own_solver=True)
        if schedule is not None and (problem := why_not_cut(network)):
            plan = in_full(plan)
            self._note(f"{schedule.name}: {problem}, so only null steps act")
        Run(network, plan, noise_of(scheduler)).close()  # refuses before anything is sampled
        other = plan.levels != whole
        if other and plan.weights is None and schedule is not None and (why := why_not_placed(scheduler)):
            raise _not_placed(schedule, why)
        if other or plan.weights is not None:
            self._rows = put(scheduler, given, plan)
        else:
            tail = given.timesteps[start:], given.sigmas[start:]
            self._rows = Listed(*tail, whole, given.end)
        if plan.weights is not None:
            self._solver = OwnSolver(scheduler, plan, given.end)
            self._note(f"{self._name} brings its own solver: that of {type(scheduler).__name__} is not used")
        self._plan = plan
        self._nulls += plan.nulls
        self._steps += len(whole)
        if schedule is not None:
            gain = gain_note(schedule.name, plan, whole)
            for note in (plan.warning, gain, distilled(network), checkpoint_note(schedule, network)):
                if note:
                    self._note(note)
        return other or plan.weights is not None

    def _chosen(self, levels: tuple[float, ...], network: nn.Module, speedup: float) -> Chosen:
        scheduler, cut = self._scheduler, why_not_cut(network) is None
        fixed = why_not_placed(scheduler) is not None
        setting = Setting(
            levels,
            noise_of(scheduler),
            kind_of(scheduler).sampler,
            cfg=_guidance(self._pipe),
            prediction=prediction_of(scheduler),
        )
        family, branches = (family_of(network), find_layout(network).branches) if cut else (None, 1)
        model = ModelInfo(family or "custom", branches)
        presets = [preset for preset in _presets() if not (fixed and _needs_levels(preset.schedule))]
        return choose(speedup, setting, model, presets, functools.partial(is_same_checkpoint, network), cut)

    def _forward(self, network: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        named = self._networks[network].named(args, kwargs)
        told = named.get(self._networks[network].timestep or "")
        if self._plan is None or self._rows is None or told is None or self._done >= len(self._rows.timesteps):
            return original(*args, **kwargs)
        sample = batch_of(args, kwargs)
        row = self._row(told)
        run = self._runs.get(network)
        if run is None:
            if not self._runs:
                self._compare(sample)
            run = self._runs[network] = Run(_uncompiled(network), self._plan, noise_of(self._scheduler))
        if self._began.get(network) != (self._done, row):
            self._began[network] = self._done, row
            run.evaluate(self._rows.sigmas[row])
        chunks = self._conditionings.of(named, sample.shape[0])
        return run(lambda: original(*args, **kwargs), sample, chunks)

    def _row(self, told: Any) -> int:
        """Which evaluation of the list the network is at: that of the timestep that it is told.

        Networks are told the timestep itself, or its part of the training's, from 0 to 1 or from 1 to 0. It may be
        rounded to half precision, so that of several that are near the one is taken which is due.
        """
        assert self._rows is not None
        timesteps, count = self._rows.timesteps, float(self._scheduler.config.num_train_timesteps)
        dtype = told.dtype if isinstance(told, Tensor) and told.is_floating_point() else torch.float32
        value = float(told.max()) if isinstance(told, Tensor) else float(told)
        if self._as_told is None:
            ways: list[Callable[[float], float]] = [lambda t: t, lambda t: t / count, lambda t: 1 - t / count]
            self._as_told = min(ways, key=lambda way: abs(way(timesteps[self._done]) - value))
        away = [abs(self._as_told(timestep) - value) for timestep in timesteps]
        near = torch.finfo(dtype).eps * max(1.0, abs(value)) + min(away)
        return min((row for row in range(len(away)) if away[row] <= near), key=lambda row: abs(row - self._done))

    def _stepping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            result = (original if self._solver is None else self._solver.step)(*args, **kwargs)
            self._done += 1
            if self._rows is not None and self._done == len(self._rows.timesteps):
                self._wait(result)
                self._close()
            return result

        return step

    def _wait(self, result: Any) -> None:
        """Waits for the device, so that the seconds are right."""
        sample = result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", None)
        if isinstance(sample, Tensor) and not sample.is_meta:
            sample.flatten()[:1].tolist()

    def _close(self) -> None:
        """The end of a list: frees all that was remembered."""
        for run in self._runs.values():
            run.close()
            self._reports.append(run.report)
        self._runs.clear()
        self._began.clear()
        self._conditionings.clear()
        self._given = self._plan = self._rows = self._solver = self._as_told = None
        self._done = 0

    def _compare(self, sample: Tensor) -> None:
        """Says where this call is another than what the schedule was made with."""
        given, pipe, scheduler = self._given, self._pipe, self._scheduler
        if given is None or self._schedule is None or len(given.levels) < FEWEST_STEPS:
            return
        pixels = getattr(pipe, "vae_scale_factor", None)
        flat = sample.dim() == 4 and isinstance(pixels, int)
        differs = misfit(
            self._schedule,
            sampler=None if self._solver is not None else kind_of(scheduler).sampler,
            steps=len(given.levels),
            cfg=_guidance(pipe),
            size=(sample.shape[-1] * pixels, sample.shape[-2] * pixels) if flat and pixels else None,
            prediction=prediction_of(scheduler),
            levels=given.levels if isinstance(self._schedule.plan, SegmentsPlan) else None,
        )
        if differs:
            self._note(differs)

    def _note(self, note: str) -> None:
        if note not in self._notes:
            self._notes[note] = None
            _log.warning("%s", note)


def _require_runnable(pipe: Any, schedule: Schedule | None) -> None:
    """Raises ModelMismatch where a schedule, or any, cannot be run on a pipeline as it is now."""
    network = _uncompiled(_networks(pipe)[0])
    kind_of(pipe.scheduler)
    if Arguments(network).timestep is None:
        raise ModelMismatch(f"{type(network).__name__}: its forward has no timestep. Use another pipeline")
    if schedule is None:
        return
    require_noise(schedule, noise_of(pipe.scheduler), type(pipe).__name__)
    if why_not_cut(network) is None:
        require_fit(schedule, network, _presets())
    if _needs_levels(schedule) and (why := why_not_placed(pipe.scheduler)):
        raise _not_placed(schedule, why)


def _needs_levels(schedule: Schedule) -> bool:
    """Whether a schedule changes the list that the scheduler's own solver steps over."""
    if isinstance(schedule.plan, StepsPlan):
        return schedule.plan.weights is None
    return NULL in schedule.plan.actions()


def _presets() -> Iterator[Preset]:
    """What a refusal may offer instead; read only then."""
    yield from find()[0]


def _not_placed(schedule: Schedule, why: str) -> ModelMismatch:
    levels = "noise levels of its own" if isinstance(schedule.plan, StepsPlan) else "null steps"
    return ModelMismatch(
        f"schedule {schedule.name}: it has {levels}, but {why}. Use another scheduler, such as DPMSolverMultistep"
        "Scheduler: pipe.scheduler = X.from_config(pipe.scheduler.config), or a schedule of full and partial steps"
    )


def _networks(pipe: Any) -> list[nn.Module]:
    """The networks that a pipeline samples with, one after the other.

    Raises:
        ModelMismatch: it has none, or no scheduler.
    """
    networks = [network for name in NETWORKS if isinstance(network := getattr(pipe, name, None), nn.Module)]
    if not networks or not hasattr(getattr(pipe, "scheduler", None), "set_timesteps") or not callable(pipe):
        raise ModelMismatch(
            f"{type(pipe).__name__}: no diffusers pipeline with a `unet` or a `transformer`, and a `scheduler`. "
            "Give the pipeline itself"
        )
    return networks


def _uncompiled(network: nn.Module) -> nn.Module:
    """The network below what torch.compile puts around it; any other one as it is."""
    inner = getattr(network, "_orig_mod", network)
    return inner if isinstance(inner, nn.Module) else network


def _guidance(pipe: Any) -> float | None:
    """The scale of this call's classifier-free guidance, where it is certain what the number means: of U-Nets."""
    scale = getattr(pipe, "guidance_scale", None) if isinstance(getattr(pipe, "unet", None), nn.Module) else None
    return float(scale) if isinstance(scale, int | float) and math.isfinite(scale) else None
