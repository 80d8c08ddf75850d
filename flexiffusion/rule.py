"""The schedule for "twice as fast" where no search was made: a pure function of the host's list and the speed-up.

The user's sampler and spacing stay. All levels of the list stay too; the first and the last run in full, and so many
others that T / speed-up do altogether, as evenly as whole numbers allow, the shorter gaps first. Between two of them
only the output head runs (branch -1), on the feature that is predicted linearly from the last two full steps.

Guided flow models are the exception: near the picture, under strong guidance, their features jump, and a line through
two of them leads astray. No rule that was tried is never worse there than plain fewer steps, so that is what they get:
T / speed-up full steps, even on the list.

Both were chosen among more than twenty rules by `benchmarks/rules.py`: benchmarks/README.md has the table, with the
models, solvers, guidance scales and lengths that it holds for. A network that cannot be cut has the levels between
full steps taken out (null steps).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from .errors import ScheduleError
from .metadata import HAND_MADE, ModelInfo, Sampling
from .schedule import FULL, NoiseKind, Schedule, Segment, SegmentsPlan, Step, StepsPlan

FASTEST = 4.0
FEWEST_FULL = 3  # the first, the last, and one between: below, nothing is left of the teacher's way


def rule(
    levels: Sequence[float],
    speedup: float,
    model: ModelInfo,
    noise: NoiseKind = "vp",
    guided: bool = True,
    cut: bool = True,
) -> Schedule:
    """The schedule over the host's own list that is about `speedup` times faster.

    levels: noise levels that are evaluated, falling, without the final 0
    model:  the network that it is for, as the file will say
    guided: sampled with classifier-free guidance, of a scale above 1
    cut:    the network can run in part; else levels are taken out

    Raises:
        ScheduleError: a speed-up outside 1 to 4, or fewer than three levels.
    """
    if not 1 <= speedup <= FASTEST:
        raise ScheduleError("speed-up", f"{speedup:g} is outside 1 to {FASTEST:g}", f"Give 1 to {FASTEST:g}")
    total = len(levels)
    if total < FEWEST_FULL:
        raise ScheduleError("levels", f"there are {total}", f"Give at least {FEWEST_FULL}")
    count = full_steps(total, speedup)
    plan: SegmentsPlan | StepsPlan
    if noise == "flow" and guided and cut:
        plan = StepsPlan(tuple(Step(level, FULL) for level in spaced(levels, count)), noise)
        how = "even on the list"
    else:
        between = (*gaps(total - 1, count - 1), 1)
        plan = SegmentsPlan(tuple(Segment(gap, gap if cut else 1, -1, "linear") for gap in between), noise=noise)
        how = "between two of them only the output head runs" if cut else "the levels between are left out"
    return Schedule(
        name=f"rule-{speedup:g}x",
        description=f"{count} full steps in the place of {total}; {how}.",
        model=model,
        sampling=Sampling(None, None, total, None, None, "flow" if noise == "flow" else None),
        plan=plan,
        provenance=HAND_MADE,
    )


def spaced(levels: Sequence[float], count: int) -> list[float]:
    """`count` levels at the positions i T / count of a list, from its first one on: even in log sigma between two."""
    found = []
    for i in range(count):
        below, part = divmod(i * len(levels) / count, 1)
        here = math.log(levels[int(below)])
        following = math.log(levels[int(below) + 1]) if part else here
        found.append(math.exp(here + part * (following - here)) if part else levels[int(below)])
    return found


def places(total: int, speedup: float) -> tuple[int, ...]:
    """Places on a list of `total` levels that run in full, from 0, where the others run in part."""
    return (0, *itertools.accumulate(gaps(total - 1, full_steps(total, speedup) - 1)))


def full_steps(total: int, speedup: float) -> int:
    """How many of `total` steps run in full."""
    return min(total, max(FEWEST_FULL, int(total / speedup + 1e-9)))


def gaps(whole: int, count: int) -> tuple[int, ...]:
    """`count` whole numbers, as equal as can be, that add up to `whole`; the smaller ones first."""
    each, rest = divmod(whole, count)
    return (each,) * (count - rest) + (each + 1,) * rest
