"""What a schedule does, counted: the same numbers and words in every host, table and picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from .schedule import Action, Sampling, StepKind

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


def sampling_text(sampling: Sampling) -> str:
    """What a schedule was made with: `dpmpp_2m, karras, 30 steps, cfg 7, 512 x 512 pixels, epsilon`."""
    parts = [
        sampling.sampler or "any sampler",
        sampling.scheduler,
        f"{sampling.steps} steps",
        None if sampling.cfg is None else f"cfg {sampling.cfg:g}",
        None if sampling.size is None else f"{sampling.size[0]} x {sampling.size[1]} pixels",
        sampling.prediction,
    ]
    return ", ".join(part for part in parts if part)
