"""The genome of schedules whose steps also drop units of the network (AutoDiffusion, arXiv 2309.10438).

To the genes of a `PlacementSpace` each slot adds one mask of dropped units, bit i for the i-th unit. A trial store
keeps numbers as doubles, so a mask is cut into words of `WORD` bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ...cost import CostTable
from ...schedule import Action
from ..candidate import Candidate, make_candidate
from .space import PlacementSpace

WORD = 30


@dataclass(frozen=True)
class UnitSpace:
    """The candidates of `placement`, any of whose steps may drop any of `units`."""

    placement: PlacementSpace
    units: tuple[str, ...]

    @property
    def first(self) -> int:
        return self.placement.first

    @property
    def slots(self) -> int:
        return self.placement.slots

    @property
    def branches(self) -> int:
        return self.placement.branches

    @cached_property
    def _masks(self) -> list[list[str]]:
        """The names of the mask genes, by slot."""
        words = range(math.ceil(len(self.units) / WORD))
        return [[f"drop{slot:02d}_{word}" for word in words] for slot in range(self.slots)]

    @cached_property
    def genes(self) -> dict[str, range]:
        masks = {name: range(2**WORD) for names in self._masks for name in names}
        return {**self.placement.genes, **masks}

    def encode(self, candidate: Candidate) -> dict[str, int]:
        """Candidate -> parameters. Raises ValueError for more steps than slots, and for units that are not known."""
        whole = replace(candidate, actions=tuple(replace(action, drop=()) for action in candidate.actions))
        genes = self.placement.encode(whole)
        for slot, names in enumerate(self._masks):
            drop = candidate.actions[slot].drop if slot < len(candidate.actions) else ()
            mask = sum(1 << self.units.index(name) for name in drop)
            for word, name in enumerate(names):
                genes[name] = mask >> (WORD * word) & (2**WORD - 1)
        return genes

    def decode(self, parameters: Mapping[str, int]) -> Candidate:
        """Parameters -> candidate."""
        whole = self.placement.decode(parameters)
        actions = []
        for action, names in zip(whole.actions, self._masks, strict=False):
            mask = sum(int(parameters[name]) << (WORD * word) for word, name in enumerate(names))
            drop = tuple(unit for i, unit in enumerate(self.units) if mask >> i & 1)
            actions.append(replace(action, drop=drop))
        return make_candidate(whole.places, actions)


def dropping(action: Action, drop: frozenset[str], costs: CostTable) -> Action:
    """The action with these units dropped: those that it comes to at all, so that what runs the same is the same."""
    return replace(action, drop=tuple(unit for unit in drop if costs.units[unit].at(action) > 0))
