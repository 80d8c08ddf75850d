"""The schedule: what a file says, as frozen data that can be compared, hashed and keyed.

A schedule cuts the sampling of a diffusion model into *full* network calls, *partial* ones (only the branch above a
skip runs; the deep feature is predicted from full calls) and *null* ones (the noise level is taken out of the list):
Flexiffusion, arXiv 2409.17566v2; DeepCache, arXiv 2312.00858. Noise levels are sigmas as in
k-diffusion, sqrt((1 - abar) / abar), or those of a flow model (see `NoiseKind`). Every constructor raises ScheduleError
for a value that a file may not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from .checks import (
    MAX_BRANCHES,
    MAX_STEPS,
    MAX_WEIGHT,
    MAX_WEIGHTS,
    choice,
    descending,
    frozen,
    identifier,
    instance,
    listing,
    real,
    shown,
    store,
    text,
    whole,
)
from .errors import ScheduleError
from .facts import HAND_MADE, Cost, Metric, ModelInfo, Provenance, Sampling

__all__ = [
    "FULL",
    "KINDS",
    "NULL",
    "PREDICTORS",
    "SEGMENT_LAYOUTS",
    "Action",
    "Cost",
    "Metric",
    "ModelInfo",
    "NoiseKind",
    "Predictor",
    "Provenance",
    "Reached",
    "Sampling",
    "Schedule",
    "Segment",
    "SegmentLayout",
    "SegmentsPlan",
    "Step",
    "StepKind",
    "StepsPlan",
    "canonical_actions",
    "canonical_key",
    "span",
    "version_of",
]

StepKind = Literal["full", "partial", "null"]
Predictor = Literal["reuse", "linear", "quadratic", "spectrum"]
SegmentLayout = Literal["front", "even"]
NoiseKind = Literal["vp", "flow"]
"""What noise levels are. vp: of variance-preserving models, sqrt((1 - abar) / abar) as in k-diffusion; flow: of
rectified flows, s in (0, 1], where a sample is (1 - s) clean + s noise."""

KINDS: tuple[StepKind, ...] = get_args(StepKind)
PREDICTORS: tuple[Predictor, ...] = get_args(Predictor)
NEEDS: dict[Predictor, int] = {"reuse": 1, "linear": 2, "quadratic": 3, "spectrum": 2}  # full steps before it
SEGMENT_LAYOUTS: tuple[SegmentLayout, ...] = get_args(SegmentLayout)
NOISE_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)

Reached = Mapping[str, int | None]
"""The lowest branch at which a partial step runs each droppable unit, by its name; None: only full steps do."""


def span(kind: Predictor) -> int:
    """How many of the last full steps a predictor reads, where there are as many."""
    return MAX_STEPS if kind == "spectrum" else NEEDS[kind]


@dataclass(frozen=True, slots=True)
class Action:
    """What one step does.

    branch:    index of the deepest skip that a partial step still computes, 0-based in the flat order of the original
               LDM layout; -1: only the output head runs. None unless partial.
    predictor: what the deep feature of a partial step is taken to be.
    drop:      residual blocks and attentions that the step leaves out (AutoDiffusion, arXiv 2309.10438), named as in
               `layout`: `input_blocks.4.1`; kept sorted.
    """

    kind: StepKind
    branch: int | None = None
    predictor: Predictor = "reuse"
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choice("Action.kind", self.kind, KINDS)
        choice("Action.predictor", self.predictor, PREDICTORS)
        if self.kind == "partial":
            store(self, "branch", whole("Action.branch", self.branch, -1, MAX_BRANCHES - 1))
        else:
            if self.branch is not None:
                raise ScheduleError(
                    "Action.branch", f"a {self.kind} step has branch {shown(self.branch)}", "Leave it out"
                )
            if self.predictor != "reuse":
                raise ScheduleError("Action.predictor", f"a {self.kind} step predicts nothing", "Leave it out")
        names = listing("Action.drop", self.drop, high=1000)
        names = tuple(sorted(identifier(f"Action.drop[{i}]", names[i], 128) for i in range(len(names))))
        for i in range(1, len(names)):
            if names[i] == names[i - 1]:
                raise ScheduleError("Action.drop", f"{shown(names[i])} is listed twice", "Name every layer once")
        if names and self.kind == "null":
            raise ScheduleError("Action.drop", "a null step runs no layers that could be dropped", "Leave it out")
        store(self, "drop", names)


FULL, NULL = Action("full"), Action("null")


@dataclass(frozen=True, slots=True)
class Segment:
    """`steps` consecutive positions of which `active` are evaluated: one full, the others partial; the rest is null."""

    steps: int
    active: int
    branch: int = 0
    predictor: Predictor = "reuse"

    def __post_init__(self) -> None:
        store(self, "steps", whole("Segment.steps", self.steps, 1, MAX_STEPS))
        store(self, "active", whole("Segment.active", self.active, 1, MAX_STEPS))
        store(self, "branch", whole("Segment.branch", self.branch, -1, MAX_BRANCHES - 1))
        choice("Segment.predictor", self.predictor, PREDICTORS)
        if self.active > self.steps:
            raise ScheduleError(
                "Segment.active",
                f"{self.active} is more than the segment's {self.steps} steps",
                "Lower active or raise steps",
            )

    def actions(self, layout: SegmentLayout) -> tuple[Action, ...]:
        """The segment's actions: `front` F P*(k-1) N*(L-k); `even` the k active ones at offsets floor(j L / k)."""
        partial = Action("partial", self.branch, self.predictor)
        active = (FULL,) + (partial,) * (self.active - 1)
        if layout == "front":
            return active + (NULL,) * (self.steps - self.active)
        row = [NULL] * self.steps
        for j in range(self.active):
            row[j * self.steps // self.active] = active[j]
        return tuple(row)


@dataclass(frozen=True, slots=True)
class SegmentsPlan:
    """Segments one after another over a grid of T = `total_steps` positions of any host's own list of noise levels."""

    segments: tuple[Segment, ...]
    layout: SegmentLayout = "front"
    noise: NoiseKind = "vp"

    def __post_init__(self) -> None:
        segments = listing("SegmentsPlan.segments", self.segments, low=1)
        instance("SegmentsPlan.segments", segments, Segment)
        store(self, "segments", segments)
        choice("SegmentsPlan.layout", self.layout, SEGMENT_LAYOUTS)
        choice("SegmentsPlan.noise", self.noise, NOISE_KINDS)
        if self.total_steps > MAX_STEPS:
            raise ScheduleError(
                "SegmentsPlan.segments",
                f"the segments have {self.total_steps} steps together",
                f"Use at most {MAX_STEPS}",
            )

    @property
    def total_steps(self) -> int:
        """T, the positions of all segments together."""
        return sum(segment.steps for segment in self.segments)

    def actions(self) -> tuple[Action, ...]:
        """One action per position, T of them."""
        return tuple(action for segment in self.segments for action in segment.actions(self.layout))


@dataclass(frozen=True, slots=True)
class Step:
    """One evaluated step: its noise level (sigma) and what it does; null steps are simply not listed.

    weights: of the predictions that the solver reads here, newest first (see `solver`); none: the host's own solver
    """

    sigma: float
    action: Action
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        store(self, "sigma", real("Step.sigma", self.sigma, above=0.0))
        instance("Step.action", (self.action,), Action)
        weights = listing("Step.weights", self.weights, high=MAX_WEIGHTS)
        weights = tuple(real(f"Step.weights[{i}]", weights[i]) for i in range(len(weights)))
        for i, weight in enumerate(weights):
            if abs(weight) > MAX_WEIGHT:
                raise ScheduleError(
                    f"Step.weights[{i}]",
                    f"{shown(weight)} is outside -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}",
                    "Fit the weights again: no solver that is stable has such a one",
                )
        store(self, "weights", weights)
        if self.action.kind == "null":
            raise ScheduleError("Step.action", "a listed step is null", "Leave the step out of the list instead")


@dataclass(frozen=True, slots=True)
class StepsPlan:
    """Explicit noise levels, one entry per evaluated step, strictly falling, the first one full.

    Either all steps have weights, and the file brings its own solver, or none has.
    """

    steps: tuple[Step, ...]
    noise: NoiseKind = "vp"

    def __post_init__(self) -> None:
        steps = listing("StepsPlan.steps", self.steps, low=1)
        instance("StepsPlan.steps", steps, Step)
        store(self, "steps", steps)
        if steps[0].action.kind != "full":
            raise ScheduleError("StepsPlan.steps[0].do", f"the first step is {steps[0].action.kind}", 'Make it "full"')
        descending("StepsPlan.steps", [step.sigma for step in steps], ".sigma")
        choice("StepsPlan.noise", self.noise, NOISE_KINDS)
        self._check_weights()

    def _check_weights(self) -> None:
        if not any(step.weights for step in self.steps):
            return
        for i, step in enumerate(self.steps):
            if not step.weights:
                raise ScheduleError(
                    f"StepsPlan.steps[{i}].weights", "other steps have weights", "Give weights to all steps, or to none"
                )
            if len(step.weights) > i + 1:
                raise ScheduleError(
                    f"StepsPlan.steps[{i}].weights",
                    f"{len(step.weights)} weights, but there are {i + 1} predictions so far",
                    "Give at most one for each step up to this one",
                )

    @property
    def weights(self) -> tuple[tuple[float, ...], ...] | None:
        """The solver that the file brings, a row a step; None: it brings none."""
        return tuple(step.weights for step in self.steps) if self.steps[0].weights else None

    def actions(self) -> tuple[Action, ...]:
        """One action per listed step."""
        return tuple(step.action for step in self.steps)

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels (sigmas), falling, without the final 0."""
        return tuple(step.sigma for step in self.steps)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule file. `levels`: the T sigmas that a segments plan was searched on; `extra`: any JSON, kept."""

    name: str
    model: ModelInfo
    sampling: Sampling
    plan: SegmentsPlan | StepsPlan
    description: str = ""
    author: str = ""
    license: str = "CC0-1.0"
    levels: tuple[float, ...] | None = None
    metrics: tuple[Metric, ...] = ()
    cost: Cost | None = None
    provenance: Provenance = HAND_MADE
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text("Schedule.name", self.name, 100)
        text("Schedule.description", self.description, 2000, empty=True, lines=True)
        text("Schedule.author", self.author, 200, empty=True)
        text("Schedule.license", self.license, 100)
        instance("Schedule.model", (self.model,), ModelInfo)
        instance("Schedule.sampling", (self.sampling,), Sampling)
        instance("Schedule.plan", (self.plan,), SegmentsPlan, StepsPlan)
        instance("Schedule.provenance", (self.provenance,), Provenance)
        metrics = listing("Schedule.metrics", self.metrics, high=100)
        instance("Schedule.metrics", metrics, Metric)
        store(self, "metrics", metrics)
        if self.cost is not None:
            instance("Schedule.cost", (self.cost,), Cost)
        if not isinstance(self.extra, Mapping):
            raise ScheduleError("Schedule.extra", f"{shown(self.extra)} is not an object", "Write an object, or {}")
        store(self, "extra", frozen("Schedule.extra", self.extra))
        self._check_levels()
        self._check_noise()
        self._check_plan()

    def _check_levels(self) -> None:
        if self.levels is None:
            return
        levels = listing("Schedule.levels", self.levels, low=1)
        levels = tuple(real(f"Schedule.levels[{i}]", levels[i], above=0.0) for i in range(len(levels)))
        store(self, "levels", levels)
        if isinstance(self.plan, StepsPlan):
            raise ScheduleError("Schedule.levels", "a steps plan carries its own noise levels", "Leave levels out")
        descending("Schedule.levels", levels)
        if len(levels) != self.plan.total_steps:
            raise ScheduleError(
                "Schedule.levels",
                f"{len(levels)} levels for segments of {self.plan.total_steps} steps together",
                "Give one level per step, without the final 0",
            )

    def _check_noise(self) -> None:
        """Levels above 1, and another prediction than flow's, are not a flow model's."""
        flow = self.plan.noise == "flow"
        if self.sampling.prediction is not None and flow != (self.sampling.prediction == "flow"):
            raise ScheduleError(
                "Schedule.plan.noise",
                f"{shown(self.plan.noise)} noise levels with prediction {shown(self.sampling.prediction)}",
                'Write "flow" for both, or for neither',
            )
        place, levels = "Schedule.levels[{}]", self.levels or ()
        if isinstance(self.plan, StepsPlan):
            place, levels = "Schedule.plan.steps[{}].sigma", self.plan.levels
        if flow and levels and levels[0] > 1:
            raise ScheduleError(
                place.format(0),
                f"{levels[0]!r} is no noise level of a flow model",
                'Write levels of at most 1, or "noise": "vp"',
            )

    def _check_plan(self) -> None:
        if isinstance(self.plan, SegmentsPlan):
            if self.sampling.steps != self.plan.total_steps:
                raise ScheduleError(
                    "Schedule.sampling.steps",
                    f"{self.sampling.steps} steps, but the segments have {self.plan.total_steps} together",
                    "Make both the same",
                )
            branches: list[tuple[str, int | None]] = [
                (f"segments[{i}]", segment.branch) for i, segment in enumerate(self.plan.segments)
            ]
        else:
            branches = [(f"steps[{i}]", step.action.branch) for i, step in enumerate(self.plan.steps)]
        for place, branch in branches:
            if branch is not None and branch >= self.model.branches:
                raise ScheduleError(
                    f"Schedule.plan.{place}.branch",
                    f"{branch} is outside the model's {self.model.branches} branches",
                    f"Use -1 to {self.model.branches - 1}",
                )


def version_of(schedule: Schedule) -> int:
    """The lowest version of the format that can say this: older readers take every file that they can understand."""
    plan = schedule.plan
    weights = isinstance(plan, StepsPlan) and plan.weights is not None
    # a flow prediction comes with flow levels
    return 2 if weights or plan.noise == "flow" or schedule.model.blocks is not None else 1


def canonical_actions(actions: Sequence[Action], reached: Reached | None = None) -> tuple[Action, ...]:
    """What is really run, position by position.

    A predictor needs some full steps before it (a polynomial one more than its order) and falls to one that the steps
    there are suffice for; a partial step with none before it runs in full (the first evaluation always does). With
    `reached`, a partial step drops only units that it would come to.

    reached: of the network that the actions are for, `Layout.reached`; None: not known, every dropped unit stays
    """
    result: list[Action] = []
    fulls = 0
    for action in actions:
        if action.kind == "partial":
            if fulls == 0:
                action = Action("full", drop=action.drop)
            elif NEEDS[action.predictor] > fulls:
                action = Action("partial", action.branch, PREDICTORS[fulls - 1], action.drop)
        if action.branch is not None and action.drop and reached is not None:
            action = replace(action, drop=tuple(unit for unit in action.drop if _runs(unit, action.branch, reached)))
        fulls += action.kind == "full"
        result.append(action)
    return tuple(result)


def _runs(unit: str, branch: int, reached: Reached) -> bool:
    """Whether a partial step of this branch comes to the unit; one that is not known is taken to be run."""
    lowest = reached.get(unit, branch)
    return lowest is not None and lowest <= branch


def canonical_key(actions: Sequence[Action], levels: Sequence[float], reached: Reached | None = None) -> str:
    """SHA-256 (64 hexadecimal digits) of what a run evaluates: two plans that run the same have the same key.

    Which dropped units a partial step comes to is a fact of the network. Without `reached` the promise holds only for
    plans whose partial steps drop nothing that they would not run anyway.

    actions: one per entry of `levels`, nulls included or already taken out
    levels:  sigmas, compared to 6 significant digits
    reached: as for `canonical_actions`
    Raises ValueError when the lengths differ.
    """
    import hashlib  # here: its 4 ms are a tenth of what importing the core may take
    import json

    rows = [
        [action.kind, action.branch, action.predictor, action.drop, f"{float(level):.6g}"]
        for action, level in zip(canonical_actions(actions, reached), levels, strict=True)
        if action.kind != "null"
    ]
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
