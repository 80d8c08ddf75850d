"""Non-dominated sorting and crowding: NSGA-II selection (Deb et al. 2002, sections III.A and III.B), two objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .paired import DIVERGED

Point = tuple[float, float]  # (error, cost), both minimised


def ranks(points: Sequence[Point]) -> list[int]:
    """Rank of every point: 0 on the front, 1 on the front once that is taken away, and so on.

    With two objectives, in the order of (cost, error), a point's front is the first one whose last error is larger:
    sorting, then for each point a look at the fronts so far. Equal points share a front.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][1], points[i][0]))
    tails: list[Point] = []  # the last point put on each front
    result = [0] * len(points)
    for i in order:
        front = next((f for f, tail in enumerate(tails) if points[i][0] < tail[0] or points[i] == tail), len(tails))
        tails[front : front + 1] = [points[i]]
        result[i] = front
    return result


def crowding(points: Sequence[Point]) -> list[float]:
    """Crowding distance of the points of one front; infinite at its ends. The error axis is logarithmic, since errors
    at the two ends of a front differ by orders of magnitude."""
    distances = [0.0] * len(points)
    for axis in (0, 1):
        values = [math.log(max(p[0], 1e-300)) if axis == 0 else p[1] for p in points]
        order = sorted(range(len(points)), key=lambda i: values[i])
        spread = values[order[-1]] - values[order[0]] if order else 0.0
        for place, i in enumerate(order):
            if place in (0, len(order) - 1):
                distances[i] = math.inf
            elif spread > 0:
                distances[i] += (values[order[place + 1]] - values[order[place - 1]]) / spread
    return distances


def best_first(points: Sequence[Point]) -> list[int]:
    """Indices in NSGA-II's order of preference: lower rank first, then the less crowded."""
    rank = ranks(points)
    preference: list[tuple[int, float, int]] = []
    for level in sorted(set(rank)):
        members = [i for i, r in enumerate(rank) if r == level]
        apart = crowding([points[i] for i in members])
        preference += [(level, -distance, i) for i, distance in zip(members, apart, strict=True)]
    return [i for _, _, i in sorted(preference)]


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the non-dominated points, by rising cost; of equal points the first. What diverged is never one."""
    able = [i for i, (error, _) in enumerate(points) if error < DIVERGED]
    rank = ranks([points[i] for i in able])
    chosen: dict[Point, int] = {}
    for i, level in zip(able, rank, strict=True):
        if level == 0:
            chosen.setdefault(points[i], i)
    return sorted(chosen.values(), key=lambda i: points[i][1])
