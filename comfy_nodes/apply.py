"""A schedule on a MODEL: three keyed wrappers on a clone, one `Run` for every sampling; nothing of the host is patched.

Works through the host's own extension points (`comfy/patcher_extension.py`, since 0.3.47) and imports nothing of the
host, so it is tested on a stand-in as on the real program:

- OUTER_SAMPLE, once per sampling: the plan is made, null steps leave the list, the run's state comes and goes.
- PREDICT_NOISE, once per evaluation of the sampler: the noise level decides what the next network calls do.
- APPLY_MODEL, once per network call: full or partial. (DIFFUSION_MODEL lies inside of what torch.compile traces.)
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..flexiffusion.auto import Setting
from ..flexiffusion.errors import ModelMismatch
from ..flexiffusion.fit import distilled, misfit, require_fit, require_noise
from ..flexiffusion.host import (
    SamplingReport,
    checkpoint_note,
    full_plan,
    gain_note,
    in_full,
    nothing_saved,
    side_by_side,
    why_not_cut,
)
from ..flexiffusion.noise import NoiseKind
from ..flexiffusion.plan import FEWEST_STEPS, LevelMapping, Plan, plan_for
from ..flexiffusion.presets import Preset
from ..flexiffusion.run import Report, Run
from ..flexiffusion.schedule import FULL, Schedule, SegmentsPlan, StepsPlan
from . import caches, conditionings
from .auto import Auto
from .network import noise_of, picture_size, prediction_of, uncompiled, why_not_partial
from .samplers import count_note, evaluations_note, name_of, why_aside, with_own_solver

KEY = "flexiffusion"
OUTER_SAMPLE, PREDICT_NOISE, APPLY_MODEL = "outer_sample", "predict_noise", "apply_model"  # WrappersMP of the host

_log = logging.getLogger("flexiffusion")


def apply(
    model: Any,
    schedule: Schedule | Auto | None,
    mapping: LevelMapping = "position",
    presets: Iterable[Preset] = (),
    listener: Callable[[SamplingReport], None] | None = None,
    part: tuple[float, float] = (0.0, 1.0),
) -> Any:
    """A clone of the host's MODEL on which every sampling follows the schedule; one that was applied before gives way.

    schedule: None: every step in full, for the counts and seconds only; an `Auto` is chosen at the start of each
    presets:  what a refusal may offer instead; read only then
    listener: told the report of every sampling that comes to an end
    part:     where in the run the schedule acts, from 0 (the noise) to 1 (the picture), as the host counts percents

    Raises:
        ModelMismatch: the schedule was not made for this network, or for noise levels of another kind.
    """
    if isinstance(schedule, Schedule):
        network = uncompiled(model.get_model_object("diffusion_model"))
        require_noise(schedule, noise_of(model.get_model_object("model_sampling")), type(network).__name__)
        if why_not_cut(network) is None:
            require_fit(schedule, network, presets)
    clone = model.clone()
    applied = _Applied(schedule, mapping, listener, part)
    for kind, wrapper in (
        (OUTER_SAMPLE, applied.outer_sample),
        (PREDICT_NOISE, _predict_noise),
        (APPLY_MODEL, _apply_model),
    ):
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def report_text(schedule: Schedule | Auto, reports: Sequence[SamplingReport]) -> str:
    """What a node hands out: a line for every sampling, then what the user should know."""
    lines = [report.line for report in reports] or [f"{schedule.name}: nothing was sampled"]
    return "\n".join([*lines, *dict.fromkeys(note for report in reports for note in report.notes)])


def thin(
    schedule: Schedule,
    sigmas: Sequence[float],
    mapping: LevelMapping = "position",
    within: tuple[float, float] = (math.inf, 0.0),
) -> tuple[list[float], Plan]:
    """The host's noise levels as the schedule wants them, the last entry included, and the plan behind them.

    sigmas: as samplers take them: T levels that are evaluated and the one where the run ends, mostly 0
    within: the highest and the lowest noise level at which the schedule acts
    """
    *levels, end = sigmas
    whole = within == (math.inf, 0.0)
    plan = _drawn_already(schedule, levels) if mapping == "position" and whole else None
    if plan is None:
        plan = plan_for(schedule, levels, mapping, max(end, 0.0), own_solver=True, within=within)
    return [*plan.levels, end], plan


class _Sampling:
    """State of one sampling. Options are copied on their way to the network, objects in them are not.

    The host may call copies of the network, one a device, from threads of its own (MultiGPU CFG Split): each network
    that really runs has a `Run` of its own, made at its first call.

    plan:  what to do at each noise level
    noise: what they are
    """

    def __init__(self, plan: Plan, noise: NoiseKind) -> None:
        self.plan = plan
        self._noise: NoiseKind = noise
        self._runs: dict[Any, tuple[Run, int]] = {}  # of each network, with the evaluation that it has begun
        self._evaluation, self._sigma = 0, plan.levels[0] if plan.levels else 1.0
        self._elsewhere: list[bool] = []  # whether the plan wanted a partial call of a network that cannot be cut
        self._lock = threading.Lock()

    def evaluate(self, sigma: float, network: Any) -> None:
        """Begins one evaluation of the sampler; network: the model's own, which may have had modules put into it."""
        self._evaluation += 1
        # a sampler that looks at the picture itself, noise level 0, is at the end of the list
        self._sigma = sigma if 0 < sigma < math.inf else self.plan.levels[-1]
        if not self._runs:
            self._runs[network] = Run(network, self.plan, self._noise), 0
        self.run_of(network)

    def run_of(self, network: Any) -> Run | None:
        """The run of a network that is called now; None: it cannot be cut as the plan wants."""
        with self._lock:
            if not self._runs:
                return None  # somebody calls the network before the sampler does
            if network not in self._runs:
                try:
                    self._runs[network] = Run(network, self.plan, self._noise), 0
                except ModelMismatch:
                    action = self.plan.actions[self.plan.index_at(self._sigma)]
                    self._elsewhere.append(action.kind == "partial")
                    return None
            run, begun = self._runs[network]
            if begun != self._evaluation:
                run.evaluate(self._sigma)
                self._runs[network] = run, self._evaluation
            return run

    def close(self) -> Report | None:
        """Frees what is remembered; the counts of all networks, or None where nothing was evaluated."""
        runs = [run for run, _ in self._runs.values()]
        for run in runs:
            run.close()
        if not runs:
            return None
        return side_by_side([run.report for run in runs], len(self._elsewhere), sum(self._elsewhere))


class _Applied:
    """A schedule with where its reports go. Lives as long as the MODEL does, so it has no state of a run."""

    def __init__(
        self,
        schedule: Schedule | Auto | None,
        mapping: LevelMapping,
        listener: Callable[[SamplingReport], None] | None,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._schedule = schedule
        self._part = part
        self._mapping = mapping
        self._listener = listener

    def outer_sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        guider = executor.class_obj
        # as Python numbers, now: uni_pc writes into the tensor
        given = [float(sigma) for sigma in sigmas]
        schedule, said = self._chosen(guider, noise, sampler, given[:-1])
        wanted, plan, notes = self._decide(schedule, guider, noise, sampler, given)
        for note in notes:
            _log.warning("%s", note)
        if said:
            _log.info("%s", said)
            notes = [said, *notes]
        if wanted != given:
            sigmas = torch.tensor(wanted, dtype=sigmas.dtype, device=sigmas.device)
        chosen = None if plan.weights is not None or schedule is None else sampler
        if plan.weights is not None and schedule is not None:
            sampler = with_own_solver(sampler, plan, schedule.name)
        options = guider.model_options.setdefault("transformer_options", {})
        sampling = options[KEY] = _Sampling(plan, noise_of(_model_sampling(guider)))
        try:
            result = executor(noise, latent, sampler, sigmas, *args, **kwargs)
            if isinstance(result, Tensor):
                result.flatten()[:1].tolist()  # waits for the device, so that the seconds are right
            return result
        finally:
            options.pop(KEY, None)
            report = sampling.close()
            if report is not None:
                name = None if schedule is None else schedule.name
                after = [nothing_saved(name or "", report)]
                if chosen is not None:
                    after.append(evaluations_note(chosen, report.evaluations, report.levels))
                for note in filter(None, after):
                    _log.warning("%s", note)
                    notes.append(note)
                self._tell(SamplingReport(name, report, len(given) - 1, tuple(notes)))

    def _tell(self, report: SamplingReport) -> None:
        _log.info("%s", report.line)
        if self._listener is not None:
            self._listener(report)

    def _chosen(
        self, guider: Any, noise: Tensor, sampler: Any, levels: list[float]
    ) -> tuple[Schedule | None, str | None]:
        """The schedule of this sampling, and where one was chosen which and why."""
        if not isinstance(self._schedule, Auto):
            return self._schedule, None
        network, model, levels_of = _network(guider), guider.model_patcher.model, _model_sampling(guider)
        setting = Setting(
            levels,
            noise_of(levels_of),
            name_of(sampler),
            getattr(guider, "cfg", None),
            picture_size(model, noise),
            prediction_of(model, levels_of),
        )
        cut = why_not_partial(network, guider.model_options) is None
        chosen = self._schedule.chosen(network, setting, cut)
        return chosen.schedule, chosen.said

    def _decide(
        self, schedule: Schedule | None, guider: Any, noise: Tensor, sampler: Any, given: list[float]
    ) -> tuple[list[float], Plan, list[str]]:
        """The list to sample, its plan, and what to tell the user before."""
        levels = given[:-1]
        everything = full_plan(levels)
        if schedule is None:
            return given, everything, []
        as_given = schedule  # what notes compare with: below, levels may be filled in
        network, notes = _network(guider), []
        levels_of = _model_sampling(guider)
        # again: other nodes may have changed it after Apply
        require_noise(schedule, noise_of(levels_of), type(network).__name__)
        aside = why_aside(sampler)
        if aside is not None and not (isinstance(schedule.plan, StepsPlan) and schedule.plan.weights):
            return given, everything, [f"{schedule.name}: {aside}; every step runs in full"]
        whole = why_not_partial(network, guider.model_options)
        if whole and isinstance(schedule.plan, StepsPlan):
            return (
                given,
                everything,
                [f"{schedule.name}: {whole}; every step runs in full, on the sampler's own levels"],
            )
        if self._mapping == "level" and schedule.levels is None and isinstance(schedule.plan, SegmentsPlan):
            schedule = replace(schedule, levels=_even_levels(levels_of, schedule.plan.total_steps))
        wanted, plan = thin(schedule, given, self._mapping, _within(self._part, levels_of))
        if whole:
            plan = in_full(plan)
            notes.append(f"{schedule.name}: {whole}; only null steps act")
        Run(network, plan, noise_of(levels_of)).close()  # refuses before anything is sampled
        if plan.warning:
            notes.append(plan.warning)
        gain = [note for note in [gain_note(schedule.name, plan, levels)] if note]
        if len(levels) < FEWEST_STEPS:
            return wanted, plan, notes + gain
        if plan.weights is not None:
            own, sampler = f"{schedule.name} brings its own solver: sampler {name_of(sampler)} is not used", None
            notes.append(own)
        notes += _notes(as_given, plan, guider, noise, sampler, levels if self._mapping == "position" else None)
        return wanted, plan, notes + gain


def _notes(
    schedule: Schedule, plan: Plan, guider: Any, noise: Tensor, sampler: Any, levels: Sequence[float] | None
) -> list[str]:
    """What the user should know before sampling.

    sampler: None: the schedule brings its own solver
    levels:  where they should be those that segments were made on
    """
    model = guider.model_patcher.model
    differs = misfit(
        schedule,
        sampler=None if sampler is None else name_of(sampler),
        cfg=getattr(guider, "cfg", None),
        size=picture_size(model, noise),
        prediction=prediction_of(model, _model_sampling(guider)),
        levels=levels if isinstance(schedule.plan, SegmentsPlan) else None,
    )
    checkpoint = checkpoint_note(schedule, _network(guider))
    counts = None if sampler is None else count_note(sampler)
    few = distilled(_network(guider))
    prompts = conditionings.note(getattr(guider, "conds", {}), plan, _model_sampling(guider))
    return [note for note in (differs, few, checkpoint, counts, prompts, caches.note(guider.model_options)) if note]


def _network(guider: Any) -> Any:
    return uncompiled(guider.model_patcher.get_model_object("diffusion_model"))


def _model_sampling(guider: Any) -> Any:
    """With the patches of other nodes (shifts), which the host puts in only when sampling begins."""
    return guider.model_patcher.get_model_object("model_sampling")


def _predict_noise(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
    options = executor.class_obj.model_options.get("transformer_options", {})
    sampling: _Sampling | None = options.get(KEY)
    if sampling is not None and sampling.plan.levels:
        # now and not before: other nodes may put modules into the network when sampling begins
        network = uncompiled(executor.class_obj.model_patcher.model.diffusion_model)
        sampling.evaluate(float(timestep.flatten()[0]), network)
    return executor(x, timestep, *args, **kwargs)


def _apply_model(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    options = next((value for value in (*args, *kwargs.values()) if isinstance(value, dict) and KEY in value), {})
    sampling: _Sampling | None = options.get(KEY)
    run = None if sampling is None else sampling.run_of(uncompiled(executor.class_obj.diffusion_model))
    if run is None:
        return executor(x, *args, **kwargs)
    return run(lambda: executor(x, *args, **kwargs), x, chunks_of(options))


def chunks_of(options: dict[str, Any]) -> tuple[Hashable, ...]:
    """Conditioning identity of each equal slice of the batch, in the batch's order."""
    sides, identities = options.get("cond_or_uncond"), options.get("uuids")
    if not sides or not identities or len(sides) != len(identities):
        return (0,)
    return tuple(zip(sides, identities, strict=True))


def _drawn_already(schedule: Schedule, levels: Sequence[float]) -> Plan | None:
    """The plan where the null steps have left the list before ("Schedule Sigmas"): as many levels as are evaluated."""
    if isinstance(schedule.plan, StepsPlan) or len(levels) == schedule.plan.total_steps:
        return None
    actions = [action for action in schedule.plan.actions() if action.kind != "null"]
    falling = all(0 < low < high < math.inf for high, low in itertools.pairwise(levels))
    if len(actions) != len(levels) or len(levels) < FEWEST_STEPS or not falling:
        return None
    warning = (
        f"{schedule.name}: the list has no null steps left; the {len(levels)} evaluated steps are taken as they are"
    )
    return Plan(tuple(levels), (FULL, *actions[1:]), 0, warning)


def _within(part: tuple[float, float], model_sampling: Any) -> tuple[float, float]:
    """The noise levels of a part of the run, highest first."""
    start, end = part
    return (
        math.inf if start <= 0 else float(model_sampling.percent_to_sigma(start)),
        0.0 if end >= 1 else float(model_sampling.percent_to_sigma(end)),
    )


def _even_levels(model_sampling: Any, count: int) -> tuple[float, ...]:
    """`count` noise levels even in the model's time, from its highest one: what a schedule without levels means."""
    return (
        float(model_sampling.sigma_max),
        *(float(model_sampling.percent_to_sigma(i / count)) for i in range(1, count)),
    )
