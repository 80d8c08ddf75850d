"""`flexsearch resume RUN`: go on with an interrupted run, or report a finished one again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from flexsearch.cli import output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place
from flexsearch.cli.options import engine_options, with_options


@click.command(cls=Command)
@click.argument("folder", type=Place(folder=True), metavar="RUN")
@with_options(engine_options(resumed=True))
@output.json_option
def resume(folder: str, **engine: Any) -> None:
    """Continue the interrupted run in the folder RUN, with its own settings.

    At most the evaluations that were under way are lost.
    """
    from flexsearch.runs.run_folder import RunFolder
    from flexsearch.runs.settings import require_engine

    opened, settings = RunFolder.open(Path(folder))
    given = {name: value for name, value in engine.items() if value is not None}
    if given.get("engine") == "local":
        given = {"ray_address": None, "workers": None, "synchronous": False, **given}
    settings = dataclasses.replace(settings, **given)
    require_engine(settings)
    from flexsearch.cli.run_output import go_on

    go_on(opened, settings)
