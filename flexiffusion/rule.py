"""The schedule for "twice as fast" where no search was made: a pure function of the host's list and the speed-up.

All levels of the list stay, so that the user's sampler and spacing do. The first and the last run in full, and so many
others that T / speed-up do altogether, as evenly as whole numbers allow, the shorter gaps first. Between two of them
only the output head runs (branch -1), on the feature that is predicted linearly from the last two full steps. It was
chosen among some twenty rules by `benchmarks/rules.py`: benchmarks/README.md has the table, with the models, solvers,
guidance scales and lengths that it holds for.

A network that cannot be cut has the levels between taken out of the list instead (null steps).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .errors import ScheduleError
from .metadata import HAND_MADE, ModelInfo, Sampling
from .schedule import NoiseKind, Schedule, Segment, SegmentsPlan

FASTEST = 4.0
FEWEST_FULL = 3  # the first, the last, and one between: below, nothing is left of the teacher's way
MEASURED_WITH = ("euler", "dpmpp_2m", "uni_pc")  # solvers; and DPM-Solver++ 3M on a flow model


def rule(
    levels: Sequence[float], speedup: float, model: ModelInfo, noise: NoiseKind = "vp", cut: bool = True
) -> Schedule:
    """The schedule over the host's own list that is about `speedup` times faster.

    levels: noise levels that are evaluated, falling, without the final 0
    model:  the network that it is for, as the file will say
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
    segments = tuple(Segment(gap, gap if cut else 1, -1, "linear") for gap in (*gaps(total - 1, count - 1), 1))
    between = "only the output head runs" if cut else "levels are left out"
    return Schedule(
        name=f"rule-{speedup:g}x",
        description=f"{count} of {total} steps in full, the first and the last among them; between two {between}.",
        model=model,
        sampling=Sampling(None, None, total, None, None, "flow" if noise == "flow" else None),
        plan=SegmentsPlan(segments, noise=noise),
        provenance=HAND_MADE,
    )


def full_steps(total: int, speedup: float) -> int:
    """How many of `total` steps run in full."""
    return min(total, max(FEWEST_FULL, int(total / speedup + 1e-9)))


def gaps(whole: int, count: int) -> tuple[int, ...]:
    """`count` whole numbers, as equal as can be, that add up to `whole`; the smaller ones first."""
    each, rest = divmod(whole, count)
    return (each,) * (count - rest) + (each + 1,) * rest


def places(total: int, speedup: float) -> tuple[int, ...]:
    """Places on the list that run in full, from 0."""
    return (0, *itertools.accumulate(gaps(total - 1, full_steps(total, speedup) - 1)))
