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
from .conditioning import Arguments, Conditionings, batch_of
from .errors import FlexiffusionError, ModelMismatch
from .families import FAMILIES
from .fit import family_of, misfit, require_fit, require_noise
from .host import SamplingReport, checkpoint_note, gain_note, in_full, nothing_saved, total, why_not_cut
from .layouts import find_layout
from .plan import FEWEST_STEPS, LevelMapping, Plan, plan_for
from .presets import Preset, find, named
from .run import Report, Run
from .schedule import NULL, Schedule, SegmentsPlan, StepsPlan
from .scheduler import Listed, OwnSolver, kind_of, listed, noise_of, prediction_of, put, why_not_placed

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
    problem = why_not_cut(network)
    if problem is not None:
        return Support(False, problem)
    family = FAMILIES.get(family_of(network) or "")
    title = family.title if family else "a family that is not known"
    branches = find_layout(network).branches
    solver = "" if kind.sampler is None else f", which is {kind.sampler} in schedule files"
    where = why_not_placed(pipe.scheduler) or "full, partial and null steps can act"
    return Support(
        True,
        f"{type(pipe).__name__}: {type(network).__name__} of {title} with {branches} branches, "
        f"{type(pipe.scheduler).__name__}{solver}; {where}",
    )


def apply(pipe: Any, schedule: Schedule | str | os.PathLike[str], *, mapping: LevelMapping = "position") -> Handle:
    """Makes every call of a diffusers pipeline follow a schedule, until `remove`; one applied before gives way.

    Args:
        pipe: a pipeline with a U-Net or a transformer that can be cut, and a scheduler that is known: see `supported`.
        schedule: the name of a preset, the path of a file, or a schedule.
        mapping: how a schedule of segments is laid over the pipeline's noise levels, see `plan.plan_for`.

    Raises:
        ScheduleError: there is no such preset, or the file is refused.
        ModelMismatch: the schedule was not made for this network, or the scheduler cannot run it.
    """
    if not isinstance(schedule, Schedule):
        schedule = named(schedule).schedule
    _require_runnable(pipe, schedule)
    earlier = getattr(type(pipe), MARK, None)
    if isinstance(earlier, Handle):
        earlier.remove()
    return Handle(pipe, schedule, mapping)


class Handle:
    """A schedule on a pipeline. As a context manager it is removed at the end.

    Attributes:
        schedule: what is applied.
        report: of the last call, also of one that was interrupted; None: nothing was sampled yet.
    """

    def __init__(self, pipe: Any, schedule: Schedule, mapping: LevelMapping) -> None:
        self.schedule = schedule
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
                f"{self.schedule.name}: the pipeline is sampling already, in another thread or in a callback of its "
                "own. Call it again when it is done, or give each thread a pipeline and a network of its own"
            )
        try:
            self.report = None
            sampling = _Sampling(self._pipe, self.schedule, self._mapping)
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
        return (function, tuple(base if argument is made else argument for argument in arguments), *rest)

    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    made: Any = type(base)(base.__name__, (base,), {**names, MARK: handle, "__call__": call, "__reduce_ex__": reduce})
    return made


class _Sampling:
    """One call of a pipeline under a schedule."""

    def __init__(self, pipe: Any, schedule: Schedule, mapping: LevelMapping) -> None:
        self._pipe = pipe
        self._scheduler = pipe.scheduler
        self._schedule = schedule
        self._mapping: LevelMapping = mapping
        self._attributes = Attributes()
        self._thread = threading.get_ident()
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
        return SamplingReport(self._schedule.name, report, self._steps, tuple(self._notes))

    def __enter__(self) -> None:
        _require_runnable(self._pipe, self._schedule)
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
            if note := nothing_saved(self._schedule.name, report.report):
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
                    f"{self._schedule.name}: {type(self._pipe).__name__} does not sample a tail of its scheduler's "
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
        given, scheduler, name = self._given, self._scheduler, self._schedule.name
        assert given is not None
        network = _uncompiled(next(iter(self._networks)))
        place = given.place(start)
        whole = given.levels[place:]
        plan = plan_for(self._schedule, given.levels, self._mapping, given.end, place, own_solver=True)
        if problem := why_not_cut(network):
            plan = in_full(plan)
            self._note(f"{name}: {problem}, so only null steps act")
        noise = noise_of(scheduler)
        Run(network, plan, noise).close()  # refuses before anything is sampled
        other = plan.levels != whole
        if other and plan.weights is None and (why := why_not_placed(scheduler)):
            raise _not_placed(self._schedule, why)
        if other or plan.weights is not None:
            self._rows = put(scheduler, given, plan)
        else:
            tail = given.timesteps[start:], given.sigmas[start:]
            self._rows = Listed(*tail, whole, given.end)
        if plan.weights is not None:
            self._solver = OwnSolver(scheduler, plan, given.end)
            self._note(f"{name} brings its own solver: that of {type(scheduler).__name__} is not used")
        self._plan = plan
        self._nulls += plan.nulls
        self._steps += len(whole)
        for note in (plan.warning, gain_note(name, plan, len(whole)), checkpoint_note(self._schedule)):
            if note:
                self._note(note)
        return other or plan.weights is not None

    def _forward(self, network: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            raise FlexiffusionError(
                f"{self._schedule.name}: its network is called from a second thread while a pipeline samples with it. "
                "Give each thread a network of its own, or call the pipelines one after the other"
            )
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
        if given is None or len(given.levels) < FEWEST_STEPS:
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


def _require_runnable(pipe: Any, schedule: Schedule) -> None:
    """Raises ModelMismatch where a schedule cannot be run on a pipeline as it is now."""
    network = _uncompiled(_networks(pipe)[0])
    kind_of(pipe.scheduler)
    require_noise(schedule, noise_of(pipe.scheduler), type(pipe).__name__)
    if Arguments(network).timestep is None:
        raise ModelMismatch(f"{type(network).__name__}: its forward has no timestep. Use another pipeline")
    require_fit(schedule, network, _presets())
    plan = schedule.plan
    if isinstance(plan, StepsPlan) and plan.weights is not None:
        return
    if (isinstance(plan, StepsPlan) or NULL in plan.actions()) and (why := why_not_placed(pipe.scheduler)):
        raise _not_placed(schedule, why)


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
