"""PNG pictures: the front, the samples, the strip of a schedule. Drawn by Agg, without pyplot's global state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, MaxNLocator
from numpy.typing import NDArray

from flexiffusion import codec
from flexiffusion.schedule import Action, Schedule
from flexiffusion.search.paired import DIVERGED
from flexiffusion.strip import ROW, legend, look, sign
from flexiffusion.summary import counts_text
from flexiffusion.whole_file import whole_file
from flexsearch.report import palette, plot
from flexsearch.report.rows import KIND_WORDS, KINDS, RowKind

_DPI = 150
_SHOWN = 80  # pixels of an inch in a page
_MARK = 0.55  # points of a mark for each unit of its outline


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A schedule in the plane of cost (full steps) and paired error; `low` and `high` are its 95 % interval."""

    cost: float
    error: float
    kind: RowKind
    label: str = ""
    low: float | None = None
    high: float | None = None


def front(
    path: Path,
    points: Sequence[FrontPoint],
    *,
    evaluated: Sequence[tuple[float, float]] = (),
    evaluated_name: str = "the search's error",
    title: str = "",
    error_name: str = "paired latent error to the teacher",
    teacher_cost: float | None = None,
) -> None:
    """Error against cost, one line for each kind, and below it what the search saw.

    `evaluated` is that cloud of (cost, error): of other images, and mostly of another statistic than `points`, so it
    has axes of its own, called `evaluated_name`, with the costs in common. With `teacher_cost` (full steps) an upper
    axis gives the speed-up. Error axes are logarithmic: errors of zero, such as the teacher's to itself, are left out.
    """
    cloud = [(cost, error) for cost, error in evaluated if 0 < error < DIVERGED]
    if cloud:
        figure = _empty_figure(8.0, 7.8)
        axes, below = figure.subplots(2, sharex=True, height_ratios=(5, 2))
        _plot_cloud(below, cloud, evaluated_name)
    else:
        figure = _empty_figure(8.0, 5.4)
        axes = below = figure.add_subplot()
    for kind in KINDS:
        members = sorted((p for p in points if p.kind == kind and 0 < p.error < math.inf), key=lambda p: p.cost)
        if members:
            _plot_kind(axes, kind, members)
    axes.set_ylabel(error_name)
    for one in {axes, below}:
        _log_errors(one)
    below.set_xlabel(plot.COST_NAME)
    if teacher_cost is not None:
        _speedup_axis(axes, teacher_cost)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    if title:
        axes.set_title(title, fontsize=11, loc="left", pad=12, parse_math=False)
    _save(figure, path)


def _log_errors(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(LogFormatterSciNotation())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, which="major", color=palette.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _plot_cloud(axes: Axes, cloud: Sequence[tuple[float, float]], name: str) -> None:
    """The candidates that a search saw, and the least error up to each cost as a line."""
    costs, errors = zip(*sorted(cloud), strict=True)
    axes.scatter(costs, errors, s=8, color=palette.GREY, alpha=0.6, linewidths=0, label="evaluated")
    axes.step(costs, np.minimum.accumulate(errors), where="post", color=palette.VERMILION, linewidth=1.2, label="front")
    axes.set_ylabel(name)
    axes.legend(frameon=False, fontsize=9)


def samples(path: Path, strips: Sequence[tuple[str, NDArray[Any]]]) -> None:
    """Pictures in rows: the teacher above, schedules below, the same seed in each column.

    `strips` are (label, images (N, H, W, 3) in 0..1), all with the same N, H, W. Raises ValueError otherwise.
    """
    shapes = {images.shape for _, images in strips}
    if len(shapes) != 1 or next(iter(shapes))[3:] != (3,):
        raise ValueError(f"samples: strips must share one shape (N, H, W, 3), not {sorted(shapes)}")
    count, height, width, _ = next(iter(shapes))
    cell = min(1.1, 12.0 / count)  # inches
    label_width = 2.3
    row_height = cell * height / width
    figure = _empty_figure(label_width + cell * count, row_height * len(strips) + 0.4)
    axes = figure.add_subplot()
    gap = max(1, round(width * 0.04))
    for index, (label, images) in enumerate(strips):
        top = index * (height + gap)
        for column in range(count):
            left = column * (width + gap)
            picture = np.clip(images[column], 0.0, 1.0)
            axes.imshow(picture, extent=(left, left + width, top + height, top), interpolation="nearest")
        axes.text(
            -gap * 2, top + height / 2, label, ha="right", va="center", fontsize=9, parse_math=False, linespacing=1.3
        )
    axes.set_xlim(0, count * (width + gap) - gap)
    axes.set_ylim(len(strips) * (height + gap) - gap, 0)
    axes.set_axis_off()
    axes.set_title("one seed in each column", fontsize=10, loc="left")
    _save(figure, path, cropped=True)  # labels are of any width, and pictures keep their shape


def schedule_strip(path: Path, schedule: Schedule) -> int:
    """The strip of a schedule, which the picture carries along: `flexsearch presets add PICTURE` takes it out again.

    Returns how wide a page should show it, in pixels: then the steps of all strips are of one size.
    """
    actions = schedule.plan.actions()
    return strip(
        path, actions, title=f"{schedule.name} ({counts_text(actions)})", carried=codec.dumps(schedule).decode()
    )


def strip(path: Path, actions: Sequence[Action], *, title: str = "", carried: str | None = None) -> int:
    """The steps of a schedule as coloured boxes, from the first (most noise) to the last; fifty in a row.

    A partial step shows the number of its branch, the others their letter. `carried` is a schedule file's text. Returns
    how wide a page should show it, in pixels.
    """
    rows, columns = -(-len(actions) // ROW), min(ROW, len(actions))
    box = 0.27  # inches
    figure = _empty_figure(max(box * columns + 0.6, 0.08 * len(title), 4.5), box * 1.35 * rows + 0.9)
    axes = figure.add_subplot()
    for index, action in enumerate(actions):
        row, column = divmod(index, ROW)
        drawn = look(action)
        axes.add_patch(Rectangle((column + 0.05, row + 0.12), 0.9, 0.76, facecolor=drawn.colour))
        axes.text(column + 0.5, row + 0.51, sign(action), ha="center", va="center", fontsize=8, color=drawn.ink)
    for row in range(rows):
        axes.text(-0.3, row + 0.51, str(row * ROW + 1), ha="right", va="center", fontsize=8, color=palette.DIM)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_aspect(1.35, anchor="W")
    axes.set_axis_off()
    entries = legend(actions)
    handles = [Rectangle((0, 0), 1, 1, facecolor=entry.colour) for entry in entries]
    words = [entry.words for entry in entries]
    figure.legend(handles, words, loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9, x=0.01, ha="left", parse_math=False)
    _save(figure, path, {} if carried is None else {codec.PNG_KEY: carried})
    return round(figure.get_figwidth() * _SHOWN)


def _empty_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plot_kind(axes: Axes, kind: RowKind, members: Sequence[FrontPoint]) -> None:
    drawn = palette.KIND_LOOKS[kind]
    corners = [(x, -y) for x, y in drawn.mark]  # y upwards here
    costs = [point.cost for point in members]
    errors = [point.error for point in members]
    front_most = 3 if kind == "found" else 2
    axes.plot(
        costs,
        errors,
        color=drawn.colour,
        marker=Outline([*corners, corners[0]], closed=True),
        markersize=2 * _MARK * max(max(abs(x), abs(y)) for x, y in corners),  # a marker is scaled to its size
        markerfacecolor="none" if drawn.hollow else drawn.colour,
        markeredgewidth=1.5 if drawn.hollow else 0.5,
        linewidth=drawn.width,
        linestyle="--" if drawn.hollow else "-",
        zorder=front_most,
        label=KIND_WORDS[kind],
    )
    with_interval = [point for point in members if point.low is not None and point.high is not None]
    axes.vlines(
        [point.cost for point in with_interval],
        [max(float(point.low or 0.0), float(np.finfo(float).tiny)) for point in with_interval],
        [float(point.high or 0.0) for point in with_interval],
        color=drawn.colour,
        linewidth=1.0,
        zorder=front_most,
    )
    for point in members:
        if point.label:
            axes.annotate(
                point.label,
                (point.cost, point.error),
                textcoords="offset points",
                xytext=(6, 6 if kind != "found" else -12),
                fontsize=8,
                color=drawn.colour,
                parse_math=False,
            )


def _speedup_axis(axes: Axes, teacher_cost: float) -> None:
    upper = axes.twiny()
    low, high = axes.get_xlim()
    upper.set_xlim(max(low, teacher_cost * 1e-3), high)
    shown = plot.speedups(teacher_cost, low, high, gap=0.06 * (high - low))
    upper.set_xticks([teacher_cost / s for s in shown])
    upper.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{teacher_cost / cost:g}x"))
    upper.set_xlabel(plot.SPEEDUP_NAME, fontsize=9)
    upper.spines[["right"]].set_visible(False)


def _save(
    figure: Figure, path: Path, texts: Mapping[str, str] = MappingProxyType({}), *, cropped: bool = False
) -> None:
    """Written whole or not at all: a picture cut off by an interruption would look like a result.

    `cropped`: without the figure's empty margins.
    """
    box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.1} if cropped else {}
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", metadata={"Software": None, **texts}, **box)
