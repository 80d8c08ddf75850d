"""Cost tables and the arithmetic of speed-ups: multiply-adds (MACs) or milliseconds per kind of step.

Cost of a segment (arXiv 2409.17566v2): C_full + (k - 1) C_partial(b); null steps cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .checks import MAX_BRANCHES, FrozenMapping, choice, real, shown, store, whole
from .errors import ScheduleError
from .schedule import Action

Unit = Literal["macs", "ms"]
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True, slots=True)
class CostTable:
    """What one network call costs, in `unit`: in full, and partial by branch (-1: only the output head runs).

    Every cost is one call's on one and the same batch. Raises ScheduleError for a cost that is not a finite number
    greater than 0 and for a branch outside -1..63.
    """

    unit: Unit
    full: float
    partial: Mapping[int, float]

    def __post_init__(self) -> None:
        choice("CostTable.unit", self.unit, UNITS)
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

    def of(self, action: Action) -> float:
        """The cost of one step, in `unit`. Raises ScheduleError for a branch, or dropped layers, without a cost."""
        if action.drop:
            raise ScheduleError(
                "CostTable",
                f"no cost is known for a step that drops {len(action.drop)} layers",
                "Measure such a step by itself",
            )
        if action.kind == "null":
            return 0.0
        if action.kind == "full":
            return self.full
        branch = action.branch
        if branch is None or branch not in self.partial:
            known = ", ".join(str(b) for b in self.partial) or "none"
            raise ScheduleError(
                "CostTable.partial", f"no cost is known for branch {branch}", f"Known branches: {known}"
            )
        return self.partial[branch]

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
        return {"unit": self.unit, "full": self.full, "partial": {str(b): self.partial[b] for b in self.partial}}

    @staticmethod
    def from_dict(document: object) -> CostTable:
        """The table that `to_dict` wrote. Raises ScheduleError for anything else."""
        if not isinstance(document, Mapping) or set(document) != {"unit", "full", "partial"}:
            raise ScheduleError(
                "CostTable", f"{shown(document)} is no cost table", "Give the keys unit, full and partial"
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
        return CostTable(document["unit"], document["full"], branches)
