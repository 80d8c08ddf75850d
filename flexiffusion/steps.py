"""What the steps of a schedule do: actions, and the two kinds of plan that order them.

Every constructor raises ScheduleError for a value that a file may not hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .checks import (
    MAX_BRANCHES,
    MAX_STEPS,
    MAX_WEIGHT,
    MAX_WEIGHTS,
    descending,
    identifier,
    instance,
    listing,
    one_of,
    real,
    shown,
    store,
    whole,
)
from .errors import ScheduleError

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
        one_of("Action.kind", self.kind, KINDS)
        one_of("Action.predictor", self.predictor, PREDICTORS)
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
        one_of("Segment.predictor", self.predictor, PREDICTORS)
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
        one_of("SegmentsPlan.layout", self.layout, SEGMENT_LAYOUTS)
        one_of("SegmentsPlan.noise", self.noise, NOISE_KINDS)
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
        one_of("StepsPlan.noise", self.noise, NOISE_KINDS)
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
