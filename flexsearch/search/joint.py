"""The joint space: timesteps x {full, partial at a branch with a predictor} x dropped units, in one genome.

Segments, caching and layer dropping are points of it and compete at equal cost. The search is the placement search; its
variation has a few operators more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flexsearch.search.candidate import Candidate, make_candidate
from flexsearch.search.method import Stream
from flexsearch.search.operators import Variation
from flexsearch.search.units import UnitSpace, dropping

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
        return make_candidate(parent.timesteps, actions)

    def _cheaper(self, candidate: Candidate) -> list[Candidate]:
        options = super()._cheaper(candidate)
        for i, action in enumerate(candidate.actions):
            for unit in self.space.units:
                if unit not in action.drop and self.table.units[unit].at(action) > 0:
                    options.append(self._flipped(candidate, range(i, i + 1), unit))
        return options

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
            actions[i] = dropping(actions[i], drop, self.table)
        return make_candidate(parent.timesteps, actions)
