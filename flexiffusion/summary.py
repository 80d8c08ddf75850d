"""What a schedule does, counted: the same numbers and words in every host, table and picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from .schedule import Action, StepKind

KINDS: tuple[StepKind, ...] = get_args(StepKind)


def counts(actions: Sequence[Action]) -> dict[StepKind, int]:
    """How many steps are full, partial and null, in this order."""
    return {kind: sum(action.kind == kind for action in actions) for kind in KINDS}


def dropped(actions: Sequence[Action]) -> int:
    """Dropped units, summed over the steps."""
    return sum(len(action.drop) for action in actions)


def counts_text(actions: Sequence[Action]) -> str:
    """Such as `10 full, 10 partial, 4 units dropped`; what there is none of is left out."""
    parts = [f"{count} {kind}" for kind, count in counts(actions).items() if count]
    units = dropped(actions)
    return ", ".join([*parts, f"{units} units dropped"] if units else parts)
