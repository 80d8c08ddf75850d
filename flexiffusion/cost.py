"""Cost tables and the arithmetic of speed-ups: multiply-adds (MACs), milliseconds or executed units per kind of step.

Cost of a segment (arXiv 2409.17566v2): C_full + (k - 1) C_partial(b); null steps cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .checks import MAX_BRANCHES, FrozenMapping, identifier, instance, one_of, real, shown, store, whole
from .errors import ScheduleError
from .schedule import Action

Unit = Literal["macs", "ms", "units"]
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True, slots=True)
class Saving:
    """What a step saves that drops one unit of the network.

    cost:   of the unit, less that of its shortcut, in the table's unit
    branch: the lowest branch at which a partial step runs the unit; None: only full steps do
    """

    cost: float
    branch: int | None = None

    def __post_init__(self) -> None:
        store(self, "cost", real("Saving.cost", self.cost, low=0.0))
        if self.branch is not None:
            store(self, "branch", whole("Saving.branch", self.branch, 0, MAX_BRANCHES - 1))

    def at(self, action: Action) -> float:
        """What is saved where the action drops the unit: nothing, if it does not come to it anyway."""
        if action.branch is None:
            return self.cost
        return self.cost if self.branch is not None and self.branch <= action.branch else 0.0


@dataclass(frozen=True, slots=True)
class CostTable:
    """What one network call costs, in `unit`: in full, and partial by branch (-1: only the output head runs); and what
    it saves to drop a unit of the network, by the unit's name.

    Every cost is one call's on one and the same batch. Raises ScheduleError for a cost that is not a finite number
    greater than 0, for a branch outside -1..63, and for units that cost as much as a step.
    """

    unit: Unit
    full: float
    partial: Mapping[int, float]
    units: Mapping[str, Saving] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("CostTable.unit", self.unit, UNITS)
        store(self, "full", real("CostTable.full", self.full, above=0.0))
        if not isinstance(self.partial, Mapping):
            raise ScheduleError(
                "CostTable.partial", f"{shown(self.partial)} is not a mapping", "Give the cost by branch"
            )
        partial = {
            whole("CostTable.partial key", branch, -1, MAX_BRANCHES - 1): self.partial[branch]
            for branch in self.partial
        }
        checked = {branch: real(f"CostTable.partial[{branch}]", partial[branch], above=0.0) for branch in partial}
        store(self, "partial", FrozenMapping(checked))
        if not isinstance(self.units, Mapping):
            raise ScheduleError("CostTable.units", f"{shown(self.units)} is not a mapping", "Give the saving by unit")
        instance("CostTable.units", tuple(self.units.values()), Saving)
        units = {identifier("CostTable.units key", name, 128): self.units[name] for name in self.units}
        store(self, "units", FrozenMapping(units))
        for action in (Action("full"), *(Action("partial", branch) for branch in self.partial)):
            if sum(saving.at(action) for saving in self.units.values()) >= self.of(action):
                raise ScheduleError(
                    "CostTable.units", f"a {action.kind} step's units cost all of it", "Measure both on one batch"
                )

    def of(self, action: Action) -> float:
        """The cost of one step, in `unit`. Raises ScheduleError for a branch, or a dropped unit, without a cost."""
        if action.kind == "null":
            return 0.0
        whole_step = self.full
        if action.kind == "partial":
            if action.branch is None or action.branch not in self.partial:
                known = ", ".join(str(b) for b in self.partial) or "none"
                raise ScheduleError(
                    "CostTable.partial", f"no cost is known for branch {action.branch}", f"Known branches: {known}"
                )
            whole_step = self.partial[action.branch]
        for name in action.drop:
            if name not in self.units:
                raise ScheduleError(
                    "CostTable.units", f"no cost is known for the unit {name}", "Use a table of the same network"
                )
            whole_step -= self.units[name].at(action)
        return whole_step

    def total(self, actions: Iterable[Action]) -> float:
        """The cost of all steps together, in `unit`."""
        return sum((self.of(action) for action in actions), 0.0)

    def in_full_steps(self, actions: Iterable[Action]) -> float:
        """The same, counted in full steps."""
        return self.total(actions) / self.full

    def speedup(self, actions: Iterable[Action], teacher_steps: int) -> float:
        """How many times cheaper the actions are than `teacher_steps` full steps."""
        spent = self.in_full_steps(actions)
        if spent == 0:
            raise ScheduleError("CostTable.speedup", "the actions run nothing", "Give at least one full step")
        return whole("CostTable.speedup teacher_steps", teacher_steps, 1, 10**6) / spent

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: branches become texts."""
        return {
            "unit": self.unit,
            "full": self.full,
            "partial": {str(b): self.partial[b] for b in self.partial},
            "units": {name: [saving.cost, saving.branch] for name, saving in self.units.items()},
        }

    @staticmethod
    def from_dict(document: object) -> CostTable:
        """The table that `to_dict` wrote. Raises ScheduleError for anything else."""
        if not isinstance(document, Mapping) or set(document) - {"units"} != {"unit", "full", "partial"}:
            raise ScheduleError(
                "CostTable", f"{shown(document)} is no cost table", "Give the keys unit, full, partial and units"
            )
        partial = document["partial"]
        if not isinstance(partial, Mapping):
            raise ScheduleError("CostTable.partial", f"{shown(partial)} is not an object", "Give the cost by branch")
        branches = {}
        for key in partial:
            try:
                branch = int(key)
            except (TypeError, ValueError):
                branch = None
            if branch is None or str(branch) != str(key):
                raise ScheduleError(
                    "CostTable.partial key", f"{shown(key)} is no branch", 'Write a branch such as "-1" or "3"'
                )
            branches[branch] = partial[key]
        units = document.get("units", {})  # unknown where a table was written by hand
        if not isinstance(units, Mapping):
            raise ScheduleError("CostTable.units", f"{shown(units)} is not an object", "Give the saving by unit")
        savings = {}
        for name, saving in units.items():
            if not isinstance(saving, (list, tuple)) or len(saving) != 2:
                raise ScheduleError(f"CostTable.units.{name}", f"{shown(saving)} is no pair", "Give cost and branch")
            savings[name] = Saving(*saving)
        return CostTable(document["unit"], document["full"], branches, savings)
