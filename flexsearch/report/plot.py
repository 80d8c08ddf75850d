"""Where the marks of the front lie in a page's SVG: cost against error, both with ticks; drawn by the template."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexsearch.report.palette import KIND_LOOKS, RowLook
from flexsearch.report.rows import KINDS, Row, RowKind

WIDTH, HEIGHT = 480, 400  # narrow, so that words stay readable where a phone shrinks it
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 44

COST_NAME = "cost in full network calls"
SPEEDUP_NAME = "speed-up by multiply-adds"

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


def sign(kind: RowKind) -> str:
    """The path of a kind's mark."""
    return "M" + " ".join(f"{x:g},{y:g}" for x, y in KIND_LOOKS[kind].mark) + "Z"


def look(kind: RowKind) -> RowLook:
    return KIND_LOOKS[kind]


def paint(kind: RowKind) -> str:
    """The attributes that fill a kind's mark, or draw its outline."""
    drawn = KIND_LOOKS[kind]
    return f'fill="none" stroke="{drawn.colour}" stroke-width="1.8"' if drawn.hollow else f'fill="{drawn.colour}"'


def kinds(rows: Sequence[Row]) -> tuple[RowKind, ...]:
    """The kinds that occur, in their order."""
    return tuple(kind for kind in KINDS if any(row.kind == kind for row in rows))


def speedups(teacher_cost: float, low: float, high: float, gap: float) -> list[float]:
    """The speed-ups to name on an axis of costs from `low` to `high`, at least `gap` apart: the usual ones first, then
    others where there is room."""
    shown: list[float] = []
    for speedup in (1, 1.5, 2, 3, 5, 1.25, 4, 6, 8, 10, 15, 20, 30):
        cost = teacher_cost / speedup
        if low <= cost <= high and all(abs(cost - teacher_cost / other) > gap for other in shown):
            shown.append(speedup)
    return shown


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
    a_pixel = costliest * 1.04 / (WIDTH - LEFT - RIGHT)
    shown = speedups(teacher_cost, 8 * a_pixel, costliest * 1.04, gap=34 * a_pixel)
    return Front(tuple(panels), costs, tuple((across(teacher_cost / speedup), f"{speedup:g}x") for speedup in shown))


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
