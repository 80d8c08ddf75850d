"""One knob: which schedule for this speed-up, on the model and settings in use?

In this order: one that was searched for this very checkpoint; one of its family that was searched with nearly these
settings; the rule. And nothing at all where nothing is to be gained: models of few steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .families import FAMILIES
from .metadata import ModelInfo
from .plan import is_fitted_level
from .presets import Preset
from .rule import FASTEST, rule
from .schedule import NoiseKind, Schedule, SegmentsPlan, StepsPlan

Source = Literal["checkpoint", "family", "rule", "plain"]

NOTHING_TO_GAIN = 8  # steps: distilled models are sampled with so few, and plain ones too coarsely to skip any
DISTILLED = 12  # steps: with so few and no guidance, a model that is usually guided has a distilled LoRA or is such one
DISTILLED_SAMPLERS = ("lcm",)
NEAR_SPEEDUP = 1.15  # factor by which a schedule may be slower than it was asked for
FASTER = 1.5  # and faster: a search for 2x keeps what is nearest to the plain pictures, which may cost less than that
NEAR_STEPS = 1.25  # and the user's number of steps from the one that it was searched with
NEAR_GUIDANCE = 1.3  # and the guidance scale
NEAR_SIZE = 1.6  # and the number of pixels
OTHER_SAMPLER = (
    1.3  # a schedule with a solver of its own runs with any sampler, but what it follows is its own teacher's
)
_SAME_SAMPLER = {"ddim": "euler"}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is about to be sampled, as far as the host can tell; None: it cannot.

    levels:  noise levels that are evaluated, falling, without the final 0
    sampler: its name in the words of schedule files
    size:    width and height of the picture in pixels
    """

    levels: Sequence[float]
    noise: NoiseKind
    sampler: str | None = None
    cfg: float | None = None
    size: tuple[int, int] | None = None
    prediction: str | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """schedule: None: sample plainly. said: one sentence for the report and the log: which, and why."""

    schedule: Schedule | None
    source: Source
    said: str


def choose(
    speedup: float,
    setting: Setting,
    model: ModelInfo,
    presets: Iterable[Preset] = (),
    recognises: Callable[[Sequence[float]], bool] = lambda fingerprint: False,
    cut: bool = True,
) -> Chosen:
    """The schedule for a speed-up, and where it comes from.

    model:      the network in use; its family may be one that `families` does not know
    presets:    what there is to choose from; hand-made ones are passed over
    recognises: whether the loaded checkpoint has a fingerprint (`fingerprint.is_same_checkpoint`)
    cut:        the network can run in part

    Raises:
        ScheduleError: a speed-up outside 1 to 4.
    """
    if speedup == 1:
        return Chosen(None, "plain", "Auto: speed-up 1: sampled without a schedule")
    few = few_steps(setting, model.family)
    if few is not None and speedup <= FASTEST:
        return Chosen(None, "plain", f"Auto: nothing to gain here: {few}. Sampled without a schedule")
    searched = [
        (schedule, factor)
        for schedule in (preset.schedule for preset in presets)
        if cut and (factor := _usable(schedule, speedup, setting, model)) is not None
    ]
    searched.sort(key=lambda pair: (_distance(pair[0], pair[1], speedup, setting), pair[0].name))
    for schedule, factor in searched:
        known = schedule.model.fingerprint
        if known is not None and recognises(known):
            said = f"Auto: {schedule.name}, searched for this checkpoint, {factor:.2f}x"
            return Chosen(schedule, "checkpoint", said)
    for schedule, factor in searched:
        if model.family in FAMILIES and schedule.model.family == model.family and _is_near(schedule, setting):
            title = FAMILIES[model.family].title
            said = f"Auto: {schedule.name}, searched for another checkpoint of {title}, {factor:.2f}x"
            return Chosen(schedule, "family", said)
    made = rule(setting.levels, speedup, model, setting.noise, _guided(setting, model.family), cut)
    why = "no searched schedule fits this model and these settings" if cut else "the network cannot be cut"
    return Chosen(made, "rule", f"Auto: the rule for {speedup:g}x ({why}). {made.description}")


def few_steps(setting: Setting, family: str) -> str | None:
    """Why nothing is to be gained by a schedule, as the middle of a sentence; None: something is."""
    steps = len(setting.levels)
    if steps <= NOTHING_TO_GAIN:
        return f"{steps} steps are few already"
    if setting.sampler in DISTILLED_SAMPLERS:
        return f"sampler {setting.sampler} is for distilled models"
    guided = family not in FAMILIES or FAMILIES[family].guidance > 1
    if steps <= DISTILLED and guided and setting.cfg is not None and setting.cfg <= 1:
        return f"{steps} steps without guidance look like a distilled model (turbo, lightning, LCM, hyper)"
    return None


def _guided(setting: Setting, family: str) -> bool:
    """Whether guidance is used; where the host cannot tell, whether it is usual."""
    if setting.cfg is not None:
        return setting.cfg > 1
    return family not in FAMILIES or FAMILIES[family].guidance > 1


def speedup_of(schedule: Schedule, steps: int) -> float:
    """How many times faster a schedule is than `steps` full steps of the host, by multiply-adds where it tells them."""
    plan, actions = schedule.plan, schedule.plan.actions()
    cost = float(sum(action.kind == "full" for action in actions))
    if schedule.cost is not None and schedule.cost.speedup_macs is not None:
        cost = schedule.sampling.steps / schedule.cost.speedup_macs
    if isinstance(plan, SegmentsPlan):
        cost *= steps / plan.total_steps
    return steps / cost


def _usable(schedule: Schedule, speedup: float, setting: Setting, model: ModelInfo) -> float | None:
    """The speed-up here of a searched schedule for such a network that can be run as it was searched; else None."""
    plan, made = schedule.plan, schedule.sampling
    if schedule.provenance.kind != "searched" or plan.noise != setting.noise:
        return None
    if (schedule.model.branches, schedule.model.family) != (model.branches, model.family):
        return None
    if None not in (made.prediction, setting.prediction) and made.prediction != setting.prediction:
        return None
    if not _within(len(setting.levels), made.steps, NEAR_STEPS):
        return None
    # levels of its own suit a run from pure noise; one of img2img begins lower
    if isinstance(plan, StepsPlan) and not is_fitted_level(setting.levels[0], plan.levels[0]):
        return None
    own_solver = isinstance(plan, StepsPlan) and plan.weights is not None
    if not own_solver and not _same_sampler(schedule, setting):
        return None
    factor = speedup_of(schedule, len(setting.levels))
    return factor if speedup / NEAR_SPEEDUP <= factor <= speedup * FASTER else None


def _same_sampler(schedule: Schedule, setting: Setting) -> bool:
    """Whether a schedule was searched with the sampler in use, where both are known."""
    known = (name for name in (schedule.sampling.sampler, setting.sampler) if name is not None)
    return len({_SAME_SAMPLER.get(name, name) for name in known}) <= 1


def _is_near(schedule: Schedule, setting: Setting) -> bool:
    """Whether guidance and size are nearly those that a schedule was searched with, where both are known."""
    made = schedule.sampling
    if made.cfg is not None and setting.cfg is not None and not _within(setting.cfg, made.cfg, NEAR_GUIDANCE):
        return False
    if made.size is None or setting.size is None:
        return True
    return _within(math.prod(made.size), math.prod(setting.size), NEAR_SIZE)


def _distance(schedule: Schedule, factor: float, speedup: float, setting: Setting) -> float:
    """How far a schedule's settings are from these, in factors of e: speed-up, guidance, number of steps, sampler."""
    apart = abs(math.log(factor / speedup)) + abs(math.log(len(setting.levels) / schedule.sampling.steps))
    if schedule.sampling.cfg and setting.cfg:
        apart += abs(math.log(schedule.sampling.cfg / setting.cfg))
    if not _same_sampler(schedule, setting):
        apart += math.log(OTHER_SAMPLER)
    return apart


def _within(value: float, other: float, factor: float) -> bool:
    return value > 0 and other > 0 and abs(math.log(value / other)) <= math.log(factor) + 1e-9
