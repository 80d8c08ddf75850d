"""`flexsearch plan`: schedules in seconds, from tables that were measured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flexsearch.cli import output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place
from flexsearch.cli.options import IMAGES, MODEL, SOLVER, SPEEDUP, with_options
from flexsearch.cli.places import require_folder


@click.command(cls=Command)
@with_options(MODEL)
@with_options(SOLVER, SPEEDUP)
@click.option(
    "--profile",
    "profile_file",
    type=Place(),
    metavar="FILE",
    help="Plan for the milliseconds of another device, a file of `flexsearch profile --out`.",
)
@with_options(IMAGES)
@click.option("--out", type=Place(folder=True), metavar="FOLDER", help="Write the schedule files there.")
@output.json_option
def plan(profile_file: str | None, out: str | None, prompts_file: str | None, **options: Any) -> None:
    """Plan a schedule for each speed-up, without a search.

    The first plan for a model measures the errors of single steps, which takes about as long as ten evaluations of a
    search. They are kept: every later plan takes seconds. Errors are predicted, not measured: `flexsearch compare`
    measures them.
    """
    if out is not None:
        require_folder("--out", Path(out))
    from flexsearch.cli.plan_output import conduct
    from flexsearch.cli.quiet import quiet

    quiet()
    conduct(profile_file, out, prompts_file, **options)
