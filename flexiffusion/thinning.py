"""Fewer steps than a schedule lists: what is left of a schedule of steps where the user asked for less.

No torch. `plan` uses it, so that no host ever runs more network calls with a schedule than without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .steps import Action


def thinned(
    levels: Sequence[float], actions: Sequence[Action], count: int
) -> tuple[tuple[float, ...], tuple[Action, ...]]:
    """`count` steps in the place of more: noise levels of the same spacing, actions of the same rhythm.

    The first and the last level stay; those between lie where the given ones do, interpolated in log sigma, so that a
    dense stretch stays dense. A full step keeps the partial steps that follow it, and whole groups of a full step and
    its partial ones are left out, evenly over the list: FPFPFPFP at five steps is FPFPF. (Leaving out single steps
    would leave all full ones, or none, of such a list.)

    levels:  sigmas, falling
    actions: full or partial, one per level; the first is full
    count:   at least 1; one that is not below the number of levels changes nothing
    """
    total = len(levels)
    if count >= total:
        return tuple(levels), tuple(actions)
    kept = []
    at = 0  # of the given steps, the one that the last kept action is of
    for i in range(count):
        if i and at + 1 < total and actions[at + 1].kind == "partial":
            at += 1
        else:
            # the group that lies at this part of the list; it comes after the one before, as total > count
            at = max(j for j in range(i * total // count + 1) if actions[j].kind == "full")
        kept.append(actions[at])
    return _respaced(levels, count), tuple(kept)


def _respaced(levels: Sequence[float], count: int) -> tuple[float, ...]:
    result = []
    for i in range(count):
        place = i * (len(levels) - 1) / max(count - 1, 1)
        below = math.floor(place)
        part = place - below
        if part:
            high, low = math.log(levels[below]), math.log(levels[below + 1])
            result.append(math.exp(high + part * (low - high)))
        else:
            result.append(levels[below])
    return tuple(result)
