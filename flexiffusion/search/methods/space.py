"""The default search space: placement, kind, branch and predictor of every step, as fixed-length Optuna parameters.

A genome has `slots` genes. Gene i is one integer: level * len(actions) + action, where action 0 is null (the slot is
not used) and 1 is full. Slots are written in the order of sampling with the unused ones last, at level 0, so every
candidate has exactly one genome.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ...cost import CostTable
from ...schedule import FULL, NULL, PREDICTORS, Action
from ..candidate import Candidate, make_candidate

MANY = 12  # branches, more than which no U-Net has
TRIED = (-1, 0, 1, 3, 7)  # of a network with more: one block more or less makes no difference worth a search


def tried_branches(branches: int) -> tuple[int, ...]:
    """The branches that a search tries of a network with branches -1 .. branches - 1."""
    return tuple(range(-1, branches)) if branches <= MANY else TRIED


@dataclass(frozen=True)
class PlacementSpace:
    """Candidates of at most `slots` steps from place `first` down, with the `tried_branches` of a network."""

    first: int
    slots: int
    branches: int

    @cached_property
    def partials(self) -> tuple[Action, ...]:
        return tuple(
            Action("partial", branch, predictor) for branch in tried_branches(self.branches) for predictor in PREDICTORS
        )

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        return (NULL, FULL, *self.partials)

    @cached_property
    def genes(self) -> dict[str, range]:
        highest = self.first * len(self.actions) + len(self.actions) - 1
        return {f"step{slot:02d}": range(highest + 1) for slot in range(self.slots)}

    def encode(self, candidate: Candidate) -> dict[str, int]:
        """Candidate -> parameters. Raises ValueError when it has more steps than there are slots."""
        if len(candidate.places) > self.slots:
            raise ValueError(f"{len(candidate.places)} steps do not fit {self.slots} slots")
        genes = [
            place * len(self.actions) + self.actions.index(action)
            for place, action in zip(candidate.places, candidate.actions, strict=True)
        ]
        genes += [0] * (self.slots - len(genes))
        return dict(zip(self.genes, genes, strict=True))

    def decode(self, parameters: Mapping[str, int]) -> Candidate:
        """Parameters -> candidate."""
        steps = [divmod(int(parameters[name]), len(self.actions)) for name in self.genes]
        used = [(level, self.actions[action]) for level, action in steps if self.actions[action] != NULL]
        return make_candidate([level for level, _ in used], [action for _, action in used])


def slots_for(costs: CostTable, highest_cost: float, places: int) -> int:
    """Slots enough for a full step and a cheapest partial one by turns at the highest cost that is asked for."""
    cheapest = min(costs.partial.values(), default=costs.full) / costs.full
    return min(places, math.ceil(2 * highest_cost / (1 + cheapest)) + 2)
