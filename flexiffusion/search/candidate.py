"""A candidate schedule: which places on a list of noise levels are evaluated, and what is done at each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..cost import CostTable
from ..noise import NoiseLevels
from ..schedule import FULL, Action, Predictor, Reached, Step, StepsPlan, canonical_actions, canonical_key

# What a search draws from. `spectrum` comes in by seeds only: on the same schedules it was no better than these
# (benchmarks/predictors.py).
DRAWN: tuple[Predictor, ...] = ("reuse", "linear", "quadratic")
LETTERS = {"reuse": "r", "linear": "l", "quadratic": "q", "spectrum": "s"}


@dataclass(frozen=True)
class Candidate:
    """Evaluated steps only (a null step is a place that is not there), in the order of sampling.

    `places` fall strictly; the first action is full. Two candidates that run the same have the same `key`.
    """

    places: tuple[int, ...]
    actions: tuple[Action, ...]

    @cached_property
    def key(self) -> str:
        return canonical_key(self.actions, self.places)

    @property
    def plain(self) -> bool:
        """Only full steps that drop nothing: what a user gets by typing fewer steps."""
        return all(action == FULL for action in self.actions)

    @property
    def dropped(self) -> int:
        """Dropped units, summed over the steps."""
        return sum(len(action.drop) for action in self.actions)

    def text(self) -> str:
        """Readable form, such as `999F 874p0l 731F-2`: full, partial at branch 0 with `linear`, full less two units."""
        return " ".join(f"{t}{short(a)}" for t, a in zip(self.places, self.actions, strict=True))

    def steps_plan(self, levels: NoiseLevels) -> StepsPlan:
        """The steps at their noise levels, for a schedule file."""
        sigmas = levels.sigmas(self.places)
        return StepsPlan(tuple(Step(*step) for step in zip(sigmas, self.actions, strict=True)), levels.kind)

    def cost(self, costs: CostTable) -> float:
        """Cost in full steps."""
        return costs.in_full_steps(self.actions)


def short(action: Action) -> str:
    kind = "F" if action.kind == "full" else f"p{action.branch}{LETTERS[action.predictor]}"
    return f"{kind}-{len(action.drop)}" if action.drop else kind


def make_candidate(places: Iterable[int], actions: Iterable[Action], reached: Reached | None = None) -> Candidate:
    """Steps in any order -> a candidate: sorted, first step full, predictors lowered to what the history allows.

    reached: `Layout.reached` of the network; with it, partial steps drop only units that they would run
    """
    steps = sorted(zip(places, actions, strict=True), key=lambda step: -step[0])
    kinds = canonical_actions([Action("full", drop=steps[0][1].drop), *(action for _, action in steps[1:])], reached)
    return Candidate(tuple(place for place, _ in steps), tuple(kinds))


def plain(places: Sequence[int]) -> Candidate:
    """Every listed place in full."""
    return Candidate(tuple(places), (FULL,) * len(places))
