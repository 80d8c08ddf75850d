"""What `run` and `resume` show: the work's progress, then the table and what to do with it."""

from __future__ import annotations

from pathlib import Path

import click

from flexsearch.cli import output
from flexsearch.cli.progress import Terminal
from flexsearch.cli.quiet import quiet
from flexsearch.devices import in_words
from flexsearch.report.advice import advice
from flexsearch.report.table import FinalTable
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.search_run import Result, resume, start
from flexsearch.runs.settings import Settings


def begin(path: Path, settings: Settings) -> None:
    """A new run, to its end."""
    quiet()
    _show(start(path, settings, Terminal()))


def go_on(folder: RunFolder, settings: Settings) -> None:
    """An interrupted run, or a finished one once more."""
    quiet()
    _show(resume(folder, settings, Terminal()))


def _show(result: Result) -> None:
    rows, schedules = result.rows, result.folder / "schedules"
    if output.wants_json():
        output.emit(
            {
                "run": str(result.folder),
                "peak_memory": result.peak_memory,
                "rows": [row.to_dict() for row in rows],
                "comparisons": [item.to_dict() for item in result.comparisons],
            }
        )
        return
    from rich.console import Console

    Console().print(FinalTable(rows))
    for sentence in advice(rows, result.error):
        click.echo(sentence)
    click.echo(f"next         flexsearch report {result.folder}    flexsearch presets add {schedules}/NAME.json")
    click.echo(f"schedules    {schedules}\npictures     {result.folder / 'front.png'}  {result.folder / 'samples.png'}")
    click.echo(f"peak memory  {in_words(result.peak_memory)}")
