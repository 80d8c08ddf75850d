"""The planner: the best chain of macro-steps for every cost at once, by dynamic programming over their errors.

Errors of neighbouring macro-steps point the same way more often than not (docs/method.md 7), so their norms, each
times its growth to the end, are added: the bound by the triangle inequality. That makes it a shortest path, exact for
this sum. Costs are counted in bins, rounded up, so that a plan never costs more than was asked for.

Another device's costs change which chain is best and none of the errors: re-planning needs no network call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cost import CostTable
from ..schedule import FULL, Action
from .candidate import Candidate, make_candidate
from .macro_steps import BRANCHES, MACRO_STEPS, REACH, MacroStep, StepErrors

BINS = 1000  # of one full step, or fewer where that would be more than MOST_BINS together
MOST_BINS = 10_000


@dataclass(frozen=True)
class Planned:
    """A planned schedule. `error` is the predicted root mean square latent error to the converged solution."""

    candidate: Candidate
    error: float


class Planner:
    """All best chains up to `highest` (full steps), of macro-steps of the allowed kinds."""

    def __init__(
        self, step_errors: StepErrors, costs: CostTable, highest: float, kinds: Sequence[MacroStep] = MACRO_STEPS
    ) -> None:
        self.step_errors, self.costs, self.kinds = step_errors, costs, tuple(kinds)
        self.count = len(step_errors.grid)
        # Fine enough for a step of the output head alone, which costs a thousandth or two: rounded up to a hundredth,
        # a plan could not afford one after each of its full steps.
        self._fine = min(BINS, max(1, math.floor(MOST_BINS / highest)))
        self.bins = math.floor(highest * self._fine + 1e-6)
        allowed = [
            (number, kind)
            for number, kind in enumerate(MACRO_STEPS)
            if kind in self.kinds and math.isfinite(self._share(kind))
        ]
        self._costs = {
            number: math.ceil(self._fine * (1 + kind.partials * self._share(kind)) - 1e-6) for number, kind in allowed
        }
        shape = (self.count + 1, REACH, self.bins + 1)
        # best[j, g - 1, cost]: the least error of a chain that has arrived at level j from a full step g levels before
        self._best = np.full(shape, np.inf)
        self._from = np.full((*shape, 2), -1, np.int16)  # gap before that full step, and kind
        self._solve()

    def _share(self, kind: MacroStep) -> float:
        return self.costs.partial.get(kind.branch, math.inf) / self.costs.full if kind.partials else 0.0

    def _solve(self) -> None:
        for i in range(self.count):
            for gap in range(REACH):
                if i == 0:
                    if gap:
                        break
                    reached = np.full(self.bins + 1, np.inf)
                    reached[0] = 0.0
                elif gap >= i:
                    break
                else:
                    reached = self._best[i, gap]
                if np.isfinite(reached).any():
                    self._relax(i, gap, reached)

    def _relax(self, i: int, gap: int, reached: NDArray[np.float64]) -> None:
        for number, cost in self._costs.items():
            if cost > self.bins:
                continue
            for hop in range(min(REACH, self.count - i)):
                error = self.step_errors.errors[number, i, gap, hop] * self.step_errors.gains[i + hop + 1]
                if not np.isfinite(error):
                    continue
                arrived = self._joined(reached[: self.bins + 1 - cost], error)
                best = self._best[i + hop + 1, hop, cost:]
                better = arrived < best
                best[better] = arrived[better]
                self._from[i + hop + 1, hop, cost:][better] = (gap, number)

    def _joined(self, reached: NDArray[np.float64], error: float) -> NDArray[np.float64]:
        """The errors of chains with one macro-step more; must not fall where `reached` does not."""
        return reached + error

    def best(self, cost: float) -> Planned | None:
        """The best chain of at most `cost` full steps; None where the cheapest chain costs more."""
        affordable = self._best[self.count, :, : math.floor(cost * self._fine + 1e-6) + 1]
        if affordable.size == 0 or not np.isfinite(affordable).any():
            return None
        hop, spent = (int(k) for k in np.unravel_index(int(affordable.argmin()), affordable.shape))
        error = float(affordable[hop, spent])
        levels: list[int] = []
        actions: list[Action] = []
        level = self.count
        while level > 0:
            gap, number = (int(k) for k in self._from[level, hop, spent])
            start, kind = level - hop - 1, MACRO_STEPS[number]
            places = kind.places(start, level)
            assert places is not None
            levels += [start, *places]
            actions += [FULL, *(Action("partial", kind.branch, "linear") for _ in places)]
            level, hop, spent = start, gap, spent - self._costs[number]
        return Planned(make_candidate([self.step_errors.grid[level] for level in levels], actions), error)


def planned_at(step_errors: StepErrors, costs: CostTable, targets: Sequence[float]) -> list[Planned]:
    """At every target (full steps): of all kinds, of plain steps only, and of each branch alone; each schedule once."""
    plain, *mixed = MACRO_STEPS
    alone = [[plain, *(kind for kind in mixed if kind.branch == branch)] for branch in BRANCHES]
    found: dict[str, Planned] = {}
    for kinds in ([plain], MACRO_STEPS, *alone):
        planner = Planner(step_errors, costs, max(targets), kinds)
        for target in targets:
            planned = planner.best(target)
            if planned is not None:
                found.setdefault(planned.candidate.key, planned)
    return list(found.values())
