"""`flexsearch show FILE`: what a schedule does, where it comes from, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexiffusion.summary import counts, counts_text, sampling_text
from flexsearch.cli import output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place
from flexsearch.cli.schedule_argument import read_schedule

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from flexiffusion.schedule import Action, Metric, Schedule


@click.command(cls=Command)
@click.argument("file", type=Place(), metavar="FILE")
@click.option(
    "--png", metavar="OUT", type=Place(dir_okay=False, path_type=Path), help="Also draw the steps as a PNG picture."
)
@output.json_option
def show(file: str, png: Path | None) -> None:
    """Show what a schedule file does: its plan step by step, its cost, what was measured, where it comes from.

    `-` as FILE reads standard input. A PNG picture that carries a schedule is read too.
    """
    schedule = read_schedule(file)
    if png is not None:
        from flexsearch.report.figures import schedule_strip

        try:
            schedule_strip(png, schedule)
        except OSError as error:
            hint = f"{png} cannot be written ({error.strerror})"
            raise click.BadParameter(hint, param_hint="'--png'") from error
    if output.wants_json():
        output.emit(document(file, schedule))
    else:
        from rich.console import Console

        print_sheet(Console(highlight=False), schedule)


def document(file: str, schedule: Schedule) -> dict[str, object]:
    from flexiffusion import codec
    from flexiffusion.strip import look

    actions = schedule.plan.actions()
    return {
        "file": file,
        "schedule": json.loads(codec.dumps(schedule)),
        "strip": "".join(look(action).letter for action in actions),
        "counts": counts(actions),
        "dropped_units": sum(len(action.drop) for action in actions),
    }


def print_sheet(console: Console, schedule: Schedule, more: Sequence[tuple[str, str]] = ()) -> None:
    """Everything that a schedule says, as lines and as a strip; `more` are further lines: their names and texts."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (*_facts(schedule), *more):
        table.add_row(name, Text(output.printable(value)))
    console.print(Text(output.printable(schedule.name), style="bold"))
    console.print(table)
    for line in _strip(schedule.plan.actions()):
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _facts(schedule: Schedule) -> Iterator[tuple[str, str]]:
    """Every line of the sheet: its name and its text; what the file does not say is left out."""
    from flexiffusion.schedule import SegmentsPlan

    if schedule.description:
        yield "about", schedule.description
    if schedule.author:
        yield "author", schedule.author
    yield "licence", schedule.license
    model = schedule.model
    checkpoint = f", checkpoint {model.sha256[:12]}…" if model.sha256 else ""
    blocks = f", {model.blocks} blocks" if model.blocks is not None else ""
    yield "model", f"{model.family}, {model.branches} branches{blocks}{checkpoint}"
    yield "sampling", sampling_text(schedule.sampling)
    yield "steps", counts_text(schedule.plan.actions())
    levels = schedule.levels if isinstance(schedule.plan, SegmentsPlan) else schedule.plan.levels
    if levels:
        unit = "sigma" if schedule.plan.noise == "vp" else "s"
        yield "noise", f"{unit} {levels[0]:.4g} down to {levels[-1]:.4g}"
    weights = None if isinstance(schedule.plan, SegmentsPlan) else schedule.plan.weights
    if weights is not None:
        read = max(len(row) for row in weights)
        yield "solver", f"its own: weights of up to {read} predictions a step, in place of the sampler's"
    yield "speed-up", _speedup(schedule)
    for metric in schedule.metrics:
        yield metric.name.replace("_", " "), _metric(metric)
    origin = schedule.provenance
    words = [
        "found by a search" if origin.kind == "searched" else "a hand-made rule, not searched",
        f"by {origin.tool}" if origin.tool else None,
        f"{origin.evaluations} evaluations" if origin.evaluations is not None else None,
        f"seed {origin.seed}" if origin.seed is not None else None,
    ]
    yield "origin", ", ".join(word for word in words if word)


def _speedup(schedule: Schedule) -> str:
    from flexsearch.report.table import multiply_adds

    cost = schedule.cost
    parts: list[str] = []
    if cost is not None and cost.speedup_macs is not None:
        parts.append(f"{cost.speedup_macs:.2f}x by multiply-adds")
    if cost is not None and cost.macs is not None:
        parts.append(f"{multiply_adds(cost.macs)} multiply-adds per image")
    if cost is not None:
        parts += [f"{ms:.4g} ms on {device}" for device, ms in cost.ms.items()]
    return ", ".join(parts) or "not in the file"


def _metric(metric: Metric) -> str:
    interval = f" (95 %: {metric.interval[0]:.3g} to {metric.interval[1]:.3g})" if metric.interval else ""
    against = f", against {metric.reference}" if metric.reference else ""
    features = f", features {metric.features}" if metric.features else ""
    return f"{metric.value:.3g}{interval}, n = {metric.n}{against}{features}"


def _strip(actions: tuple[Action, ...]) -> Iterator[Text]:
    """The plan from the first step (most noise) to the last: letters, below them the branches, then the legend."""
    from rich.text import Text

    from flexiffusion.strip import ROW, legend, look

    width = len(str(len(actions)))
    for start in range(0, len(actions), ROW):
        row = actions[start : start + ROW]
        steps = Text(f"\n{start + 1:>{width}}  ")
        branches = Text(" " * (width + 2))
        for action in row:
            steps.append(look(action).letter, style=f"{look(action).ink} on {look(action).colour}")
            branches.append(_branch_sign(action), style="dim")
        yield steps
        if any(action.branch is not None for action in row):
            yield branches
        if any(action.drop for action in row):
            yield Text(" " * (width + 2) + "".join(_sign(len(action.drop)) for action in row), style="dim")
    signs = Text("\n" + " " * (width + 2))
    for entry in legend(actions):
        signs.append(entry.letter, style=f"{entry.ink} on {entry.colour}")
        signs.append(f" {entry.words}   ")
    yield signs
    if any(action.branch is not None for action in actions):
        yield Text(" " * (width + 2) + "below: the branch of a partial step, - for the output head only", style="dim")
    if any(action.drop for action in actions):
        yield Text(" " * (width + 2) + "last row: how many units a step drops; a is 10, b is 11, ...", style="dim")


def _branch_sign(action: Action) -> str:
    """One character: 0-9, then a for 10 and so on; - for branch -1."""
    if action.branch is None:
        return " "
    return "-" if action.branch < 0 else _sign(action.branch, zero="0")


def _sign(number: int, zero: str = " ") -> str:
    digits = f"{zero}123456789abcdefghijklmnopqrstuvwxyz"
    return digits[number] if number < len(digits) else "+"
