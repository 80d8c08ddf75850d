"""Where the marks of the front lie in a page's SVG: cost against error, both with ticks; drawn by the template."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexsearch.report.palette import HOLLOW_KINDS, KIND_LOOKS
from flexsearch.report.rows import KINDS, Row, RowKind

WIDTH, HEIGHT = 480, 400  # narrow, so that words stay readable where a phone shrinks it
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 44

SEARCHED = "searched"  # the panel of what the search minimised: of other images, mostly of another statistic

Scale = Callable[[float], float]  # a value -> its place


@dataclass(frozen=True)
class Mark:
    """A row of the final table: its place, and the ends of its interval on the same vertical."""

    row: int
    kind: RowKind
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One error's plot. Ticks are (place, text); `lines` the points of each kind's line; `cloud`, in the panel called
    `SEARCHED` alone, the search's front."""

    error: str
    marks: tuple[Mark, ...]
    lines: tuple[tuple[RowKind, str], ...]
    ticks: tuple[tuple[float, str], ...]
    cloud: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Front:
    """What all panels share: ticks of the cost, and of the speed-up above them."""

    panels: tuple[Panel, ...]
    costs: tuple[tuple[float, str], ...]
    speedups: tuple[tuple[float, str], ...]


# Each kind's sign around (0, 0), so that colour is not all that tells them apart.
_SIGNS: dict[RowKind, str] = {
    "teacher": "M0-9 2.4-3 8.6-2.8 3.8 1.2 5.3 7.3 0 3.9-5.3 7.3-3.8 1.2-8.6-2.8-2.4-3Z",
    "found": "M-6 0A6 6 0 1 1 6 0A6 6 0 1 1-6 0Z",
    "plain": "M-5.5-5.5H5.5V5.5H-5.5Z",
    "uni_pc": "M-6-4-4-6 0-2 4-6 6-4 2 0 6 4 4 6 0 2-4 6-6 4-2 0Z",
    "dpmpp_3m": "M0-7 6.7-2.2 4.1 5.7H-4.1L-6.7-2.2Z",
    "plain_fitted": "M-5.5-5.5H5.5V5.5H-5.5Z",
    "plain_searched": "M0-9.5 9.5 0 0 9.5-9.5 0Z",
    "placed_fitted": "M0-7 6-3.5V3.5L0 7-6 3.5V-3.5Z",
    "deepcache": "M0-7 7 5.5H-7Z",
    "spectrum": "M0 7-7-5.5H7Z",
    "easycache": "M-2-6.5H2V-2H6.5V2H2V6.5H-2V2H-6.5V-2H-2Z",
    "taylorseer": "M-7 0 5.5-7V7Z",
    "first_block_cache": "M7 0-5.5-7V7Z",
}


def sign(kind: RowKind) -> str:
    """The path of a kind's mark, about 12 wide."""
    return _SIGNS[kind]


def colour(kind: RowKind) -> str:
    return KIND_LOOKS[kind][0]


def paint(kind: RowKind) -> str:
    """The attributes that fill a kind's mark, or draw its outline and make it larger."""
    if kind in HOLLOW_KINDS:
        return f'fill="none" stroke="{colour(kind)}" stroke-width="1.8"'
    return f'fill="{colour(kind)}"'


def kinds(rows: Sequence[Row]) -> tuple[RowKind, ...]:
    """The kinds that occur, in their order."""
    return tuple(kind for kind in KINDS if any(row.kind == kind for row in rows))


def front(rows: Sequence[Row], searched: Sequence[tuple[float, float]], teacher_cost: float) -> Front:
    """`searched`: (cost, error) of the search's own front, in a panel of its own."""
    errors = list(dict.fromkeys(key for row in rows for key in row.errors))
    costliest = max([row.cost_full_steps for row in rows] + [teacher_cost])

    def across(cost: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * cost / (costliest * 1.04)

    panels = [_panel(error, rows, across, ()) for error in errors]
    if searched:
        panels.append(_panel(SEARCHED, (), across, tuple(searched)))
    step = next(size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500) if costliest / size <= 8)
    costs = tuple((across(cost), str(cost)) for cost in range(0, int(costliest) + 1, step))
    speedups: list[tuple[float, str]] = []
    for speedup in (1, 1.5, 2, 3, 5, 10, 20):
        place = across(teacher_cost / speedup)
        if all(abs(place - other) > 34 for other, _ in speedups) and place > LEFT + 8:
            speedups.append((place, f"{speedup:g}x"))
    return Front(tuple(panels), costs, tuple(speedups))


def _panel(error: str, rows: Sequence[Row], across: Scale, cloud: Sequence[tuple[float, float]]) -> Panel:
    measured = [(i, row, row.errors[error]) for i, row in enumerate(rows) if error in row.errors]
    shown = [entry for entry in measured if 0 < entry[2].mean < math.inf]  # the axis is logarithmic
    cloud = [point for point in cloud if 0 < point[1] < math.inf]
    ends = [end for _, _, e in shown for end in (e.low, e.mean, e.high) if end > 0]
    values = ends + [error for _, error in cloud] or [1.0]
    bottom, top = math.log10(min(values)) - 0.08, math.log10(max(values)) + 0.08

    def up(value: float) -> float:
        share = (math.log10(max(value, min(values))) - bottom) / (top - bottom)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    marks = tuple(
        Mark(i, row.kind, across(row.cost_full_steps), up(e.mean), up(e.low), up(e.high)) for i, row, e in shown
    )
    lines = []
    for kind in KINDS:
        members = sorted((mark for mark in marks if mark.kind == kind), key=lambda mark: mark.x)
        if len(members) > 1:
            lines.append((kind, " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in members)))
    return Panel(error, marks, tuple(lines), _ticks(bottom, top, up), tuple((across(c), up(e)) for c, e in cloud))


def _ticks(bottom: float, top: float, up: Scale) -> tuple[tuple[float, str], ...]:
    """Powers of ten; where fewer than two lie in the range, 2 and 5 times them as well."""
    powers = range(math.floor(bottom), math.ceil(top) + 1)
    for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        values = [(factor * 10.0**power, f"{factor:g}e{power}") for power in powers for factor in factors]
        inside = [(up(value), text) for value, text in values if bottom <= math.log10(value) <= top]
        if len(inside) >= 3:
            break
    return tuple(inside)
