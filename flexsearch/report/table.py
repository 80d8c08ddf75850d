"""The final table, for the terminal (rich) and as Markdown: what was measured, then who wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexiffusion.search.objective import ErrorName, Objective
from flexiffusion.search.paired import Estimate
from flexsearch.report.rows import (
    KIND_WORDS,
    UNCLEAR,
    Comparison,
    Row,
    RowKind,
    Verdict,
    comparisons,
    groups,
    rivals_met,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

ERROR_TITLES = {
    "latent/teacher": "latent error\nto teacher",
    "latent/converged": "latent error\nto converged",
    "features/teacher": "feature error\nto teacher",
}
NOTE = (
    "Held-out noise and prompts. F: full steps, p: partial steps; seconds are of one image; rel. FID is of the "
    "features that --features names. Errors are paired; below them the 95 % bootstrap interval of the mean. "
    "Better or worse is said only where the 95 % interval of their paired ratio lies wholly on one side of 1, and from "
    "eight images on; in brackets found / rival: below 1 the found one is nearer. Where no difference of the means is "
    "clear, it is said on how many images the found one is nearer. Lower errors are better."
)
WIDE = 104  # columns of a terminal that the measured table needs; a narrower one gets it in two parts
_NARROW_RIVALS = 3  # that a narrow terminal has room for side by side
_STYLES: dict[Verdict, str] = {
    "better": "green",
    "worse": "red",
    UNCLEAR: "yellow",
    "too few images": "dim",
}
_SAME_COST = 0.02  # a rival whose cost differs by more than this share has the ratio of costs written out
_MISSING = "–"
DIVERGED = "diverged"
_COSTS = 5  # the first so many columns tell what it costs, the others how far off it is


_SEARCHED: dict[ErrorName, str] = {
    "latent": "latent error",
    "features": "feature error",
    "lpips": "LPIPS",
    "rfid": "relative FID",
    "fid": "FID to real pictures",
}


def searched_words(objective: Objective) -> str:
    """What a search minimised, for the axis of a plot."""
    words = _SEARCHED.get(objective.error, objective.error)  # or a package.module:name
    if not objective.paired:
        return words
    return f"mean root {words}" if objective.statistic == "mean" else f"mean root {words} of the worst tenth"


@dataclass(frozen=True)
class FinalTable:
    """Rows as a rich renderable: `Console().print(FinalTable(rows))`."""

    rows: Sequence[Row]
    error_keys: Sequence[str] = ("latent/teacher", "latent/converged")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        count = len(_headings(self.error_keys))
        if options.max_width >= WIDE:
            yield self._measured(list(range(count)))
        else:
            yield self._measured(list(range(_COSTS)))
            yield self._measured([0, 1, *range(_COSTS, count)])
        against = rivals_met(comparisons(tuple(self.rows)))
        most = len(against) if options.max_width >= WIDE else _NARROW_RIVALS
        for first in range(0, len(against), max(most, 1)):
            yield self._verdicts(against[first : first + most])
        yield Text(NOTE, style="dim")

    def _measured(self, columns: Sequence[int]) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
        headings = _headings(self.error_keys)
        for index in columns:
            table.add_column(Text(headings[index]), justify="left" if index < 2 else "right", no_wrap=index != 1)
        for _, members in groups(tuple(self.rows)):
            for position, row in enumerate(members):
                cells = _cells(row, self.error_keys, first=position == 0)
                style = "bold" if row.kind == "found" else ""
                table.add_row(*(Text(cells[index]) for index in columns), style=style)
            table.add_section()
        return table

    def _verdicts(self, rivals: Sequence[RowKind]) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for title in _verdict_headings(rivals):
            table.add_column(Text(title))
        for asked, error, against in _verdict_rows(comparisons(tuple(self.rows)), self.error_keys, rivals):
            cells = [Text(_verdict(c), style=_STYLES[c.verdict] if c else "") for c in against]
            table.add_row(Text(asked), Text(error), *cells)
        return table


def markdown(rows: Sequence[Row], error_keys: Sequence[str] = tuple(ERROR_TITLES)) -> str:
    """The same tables as Markdown."""
    measured = [
        _cells(row, error_keys, first=position == 0)
        for _, members in groups(tuple(rows))
        for position, row in enumerate(members)
    ]
    lines = _markdown_table([_headings(error_keys), *measured])
    found = comparisons(tuple(rows))
    rivals = rivals_met(found)
    verdicts = _verdict_rows(found, error_keys, rivals)
    if verdicts:
        body = [[asked, error, *(_verdict(c) for c in against)] for asked, error, against in verdicts]
        lines += ["", *_markdown_table([_verdict_headings(rivals), *body])]
    return "\n".join([*lines, "", NOTE, ""])


def multiply_adds(value: float) -> str:
    """`4.016e11` -> `402 G`."""
    for limit, suffix in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def error_text(mean: float, interval: tuple[float, float] | None) -> str:
    """`4.72e-5 (4.25 to 5.43e-5)`, in the same power of ten; `diverged` where it is not finite."""
    if not math.isfinite(mean):
        return DIVERGED
    if mean == 0:
        return "0"
    mantissa, exponent = f"{mean:.2e}".split("e")
    power = f"e{int(exponent)}"
    if interval is None:
        return mantissa + power
    low, high = (end / 10.0 ** int(exponent) for end in interval)
    return f"{mantissa}{power} ({low:.2f} to {high:.2f}{power})"


def _headings(error_keys: Sequence[str]) -> list[str]:
    errors = [ERROR_TITLES.get(key, key) for key in error_keys]
    costs = ["cost in\nfull steps", "MACs/image\nspeed-up", "measured\nspeed-up"]
    return ["asked", "schedule", *costs, *errors, "rel. FID\n(n)"]


def _cells(row: Row, error_keys: Sequence[str], first: bool) -> list[str]:
    """One cell for each heading; the asked speed-up only on the first row of its group."""
    measured = "not timed" if row.speedup_measured is None else f"{row.speedup_measured:.2f}x"
    return [
        f"{row.speedup_asked:.3g}x" if first and row.speedup_asked is not None else "",
        row.label,
        f"{row.cost_full_steps:.2f}\n{row.full} F + {row.partial} p",
        f"{multiply_adds(row.macs)}\n{row.speedup_macs:.2f}x",
        measured if row.seconds_per_image is None else f"{measured}\n{row.seconds_per_image:.3g} s",
        *(_error(row.errors.get(key)) for key in error_keys),
        _MISSING if row.relative_fid is None else f"{fid_text(row.relative_fid)}\n({row.relative_fid_n}){_real(row)}",
    ]


def _real(row: Row) -> str:
    return "" if row.real_fid is None else f"\nreal {fid_text(row.real_fid)}"


def fid_text(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else DIVERGED


def _error(estimate: Estimate | None) -> str:
    """`4.72e-5` and below it `4.25 to 5.43e-5`, in the same power of ten."""
    if estimate is None:
        return _MISSING
    value, _, interval = error_text(estimate.mean, (estimate.low, estimate.high)).partition(" ")
    return f"{value}\n{interval[1:-1]}" if interval else value


def _verdict_headings(rivals: Sequence[RowKind]) -> list[str]:
    return ["asked", "found one's error", *(f"against {KIND_WORDS[rival]}" for rival in rivals)]


def _verdict_rows(
    found: Sequence[Comparison], error_keys: Sequence[str], rivals: Sequence[RowKind]
) -> list[tuple[str, str, list[Comparison | None]]]:
    """(asked speed-up, error, comparison against each rival) for every asked speed-up and error."""
    by_place = {(c.speedup_asked, c.error, c.rival): c for c in found}
    body: list[tuple[str, str, list[Comparison | None]]] = []
    for speedup in sorted({c.speedup_asked for c in found}):
        asked = f"{speedup:.3g}x"
        for key in error_keys:
            against = [by_place.get((speedup, key, rival)) for rival in rivals]
            if any(against):
                body.append((asked, ERROR_TITLES.get(key, key).replace("\n", " "), against))
                asked = ""
    return body


def _verdict(comparison: Comparison | None) -> str:
    if comparison is None:
        return _MISSING
    ratio = "" if comparison.ratio is None else f" ({comparison.ratio:.2f})"
    lines = [f"{comparison.verdict}{ratio}"]
    if comparison.verdict == UNCLEAR and comparison.images:
        lines.append(f"nearer on {comparison.nearer} of {comparison.images}")
    if abs(comparison.cost_ratio - 1) > _SAME_COST:
        lines.append(f"at {comparison.cost_ratio:.2f} of its cost")
    return "\n".join(lines)


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]
