"""What `evaluate` and `compare` read and show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from flexsearch.cli import output
from flexsearch.cli.progress import Terminal
from flexsearch.cli.schedule_argument import read_schedule
from flexsearch.devices import in_words
from flexsearch.runs.measure_files import Measured, measure_files
from flexsearch.runs.settings import Settings
from flexsearch.sampling.prompts import given_prompts


def measure(files: Sequence[str], prompts_file: str | None, rivals: bool, picture: str | None, **options: Any) -> None:
    """Measure schedule files; with `rivals`, also fewer steps and DeepCache at the cost of each."""
    schedules = [(file, read_schedule(file)) for file in files]
    prompts, held_out = given_prompts(prompts_file)
    asked = Settings(**options, prompts=prompts, held_out_prompts=held_out)
    drawn = None if picture is None else Path(picture)
    _show(measure_files(schedules, asked, Terminal(), rivals=rivals, picture=drawn))


def _show(measured: Measured) -> None:
    if output.wants_json():
        documents = [item.to_dict() for item in measured.comparisons]
        rows = [row.to_dict() for row in measured.rows]
        output.emit({"rows": rows, "comparisons": documents, "peak_memory": measured.peak_memory})
        return
    from rich.console import Console

    from flexsearch.report.table import FinalTable

    Console().print(FinalTable(measured.rows))
    click.echo(f"peak memory  {in_words(measured.peak_memory)}")
