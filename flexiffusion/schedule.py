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
from typing import Any

from .checks import descending, frozen, instance, listing, real, shown, store, text
from .errors import ScheduleError
from .metadata import HAND_MADE, Cost, Metric, ModelInfo, Provenance, Sampling
from .steps import (
    FULL,
    KINDS,
    NEEDS,
    NOISE_KINDS,
    NULL,
    PREDICTORS,
    SEGMENT_LAYOUTS,
    Action,
    NoiseKind,
    Predictor,
    Segment,
    SegmentLayout,
    SegmentsPlan,
    Step,
    StepKind,
    StepsPlan,
    span,
)

__all__ = [
    "FULL",
    "KINDS",
    "NEEDS",
    "NOISE_KINDS",
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

Reached = Mapping[str, int | None]
"""The lowest branch at which a partial step runs each droppable unit, by its name; None: only full steps do."""


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
    model = schedule.model
    new = weights or plan.noise == "flow" or model.blocks is not None or model.fingerprint is not None
    return 2 if new else 1


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
