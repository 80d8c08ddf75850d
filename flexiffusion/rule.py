"""The schedule for "twice as fast" where no search was made: a pure function of the host's list and the speed-up.

The user's sampler and spacing stay: all steps are at levels of the list. The first and the last run in full, and so
many others that T / speed-up do altogether, as evenly as whole numbers allow. Between two of them only the output head
runs (branch -1), on the feature that is predicted linearly from the last two full steps.

Of diffusion models ("vp") the shorter gaps between full steps come first, and no level is left out. Flow models are
predicted in the first half of the list only, with the longer gaps first, and in the second half the levels between are
taken out: near the picture, under strong guidance, their features jump, and a line through two of them leads astray.

Both were chosen among more than twenty rules by `benchmarks/rules.py`: benchmarks/README.md has the table, with the
models, solvers, guidance scales and lengths that it holds for. A network that cannot be cut has all the levels between
taken out (null steps).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .errors import ScheduleError
from .metadata import HAND_MADE, ModelInfo, Sampling
from .schedule import NoiseKind, Schedule, Segment, SegmentsPlan

FASTEST = 4.0
FEWEST_FULL = 3  # the first, the last, and one between: below, nothing is left of the teacher's way
PREDICTED: dict[NoiseKind, float] = {"vp": 1.0, "flow": 0.5}  # part of the list in which steps may be partial


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
    fulls = places(total, speedup, noise)
    end = PREDICTED[noise] * total if cut else 0
    segments = []
    for here, following in itertools.pairwise((*fulls, total)):
        partials = sum(place < end for place in range(here + 1, following))
        segments.append(Segment(following - here, 1 + partials, -1, "linear"))
    actions = [action.kind for segment in segments for action in segment.actions("front")]
    partial, null = actions.count("partial"), actions.count("null")
    return Schedule(
        name=f"rule-{speedup:g}x",
        description=f"{len(fulls)} of {total} steps in full, the first and the last among them; "
        f"{partial} run the output head alone, {null} are left out.",
        model=model,
        sampling=Sampling(None, None, total, None, None, "flow" if noise == "flow" else None),
        plan=SegmentsPlan(tuple(segments), noise=noise),
        provenance=HAND_MADE,
    )


def places(total: int, speedup: float, noise: NoiseKind = "vp") -> tuple[int, ...]:
    """Places on a list of `total` levels that run in full, from 0."""
    between = gaps(total - 1, full_steps(total, speedup) - 1)
    return (0, *itertools.accumulate(between if noise == "vp" else between[::-1]))


def full_steps(total: int, speedup: float) -> int:
    """How many of `total` steps run in full."""
    return min(total, max(FEWEST_FULL, int(total / speedup + 1e-9)))


def gaps(whole: int, count: int) -> tuple[int, ...]:
    """`count` whole numbers, as equal as can be, that add up to `whole`; the smaller ones first."""
    each, rest = divmod(whole, count)
    return (each,) * (count - rest) + (each + 1,) * rest
