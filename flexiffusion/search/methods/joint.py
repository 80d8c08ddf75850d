"""The joint space: places x {full, partial at a branch with a predictor} x dropped units, in one genome.

Segments, caching and layer dropping are points of it and compete at equal cost. The search is the placement search; its
variation has a few operators more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..candidate import Candidate, make_candidate
from ..method import Stream
from .dropping import UnitSpace, dropping
from .variation import Variation

FEW = 3
DROP_RATE = 0.35  # of the children whose dropped units change; the others change as in the placement search


@dataclass(frozen=True)
class JointVariation(Variation):
    """The operators of `Variation`, and those on dropped units."""

    space: UnitSpace  # type: ignore[assignment]  # what Variation asks of its space, this one has

    def mutate(self, parent: Candidate, stream: Stream, plain_only: bool) -> Candidate:
        if plain_only or stream.random() >= DROP_RATE:
            return super().mutate(parent, stream, plain_only)
        operators = (self.flip, self.flip_run, self.restore)
        return operators[stream.integers(len(operators))](parent, stream)

    def flip(self, parent: Candidate, stream: Stream) -> Candidate:
        """Drop one unit of one step, or take it back."""
        i = int(stream.integers(len(parent.actions)))
        return self._flipped(parent, range(i, i + 1), self._unit(stream))

    def flip_run(self, parent: Candidate, stream: Stream) -> Candidate:
        """The same for one unit in a run of steps: what a unit is worth changes slowly with the noise level."""
        ends = sorted(int(end) for end in stream.integers(len(parent.actions) + 1, size=2))
        return self._flipped(parent, range(*ends), self._unit(stream))

    def restore(self, parent: Candidate, stream: Stream) -> Candidate:
        """Take every dropped unit of one step back."""
        i = int(stream.integers(len(parent.actions)))
        actions = [replace(action, drop=()) if j == i else action for j, action in enumerate(parent.actions)]
        return make_candidate(parent.places, actions)

    def fit(self, candidate: Candidate, budget: float, stream: Stream) -> Candidate:
        """As in the placement search; but every other time up to `FEW` units go first, so that a child which is a
        little too costly need not lose a step. Plain candidates stay plain."""
        if not candidate.plain and stream.random() < 0.5:
            for _ in range(FEW):
                if candidate.cost(self.costs) <= budget + 1e-9:
                    break
                options = self._thinner(candidate)
                enough = [option for option in options if option.cost(self.costs) <= budget + 1e-9]
                chosen = enough or options or [candidate]
                candidate = chosen[int(stream.integers(len(chosen)))]
        return super().fit(candidate, budget, stream)

    def _thinner(self, candidate: Candidate) -> list[Candidate]:
        """Every candidate with one more dropped unit."""
        return [
            self._flipped(candidate, range(i, i + 1), unit)
            for i, action in enumerate(candidate.actions)
            for unit in self.space.units
            if unit not in action.drop and self.costs.units[unit].at(action) > 0
        ]

    def _unit(self, stream: Stream) -> str:
        return self.space.units[stream.integers(len(self.space.units))]

    def _flipped(self, parent: Candidate, steps: range, unit: str) -> Candidate:
        """Dropped in all of `steps` if the first of them does not drop it, else taken back in all."""
        if not steps:
            return parent
        drops = unit not in parent.actions[steps[0]].drop
        actions = list(parent.actions)
        for i in steps:
            drop = frozenset(actions[i].drop) | {unit} if drops else frozenset(actions[i].drop) - {unit}
            actions[i] = dropping(actions[i], drop, self.costs)
        return make_candidate(parent.places, actions)
