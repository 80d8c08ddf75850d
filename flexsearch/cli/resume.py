"""`flexsearch resume RUN`: go on with an interrupted run, or report a finished one again."""

from __future__ import annotations

from pathlib import Path

import click

from flexsearch.cli import output
from flexsearch.cli.command import Command


@click.command(cls=Command)
@click.argument("folder", metavar="RUN")
@output.json_option
def resume(folder: str) -> None:
    """Go on where RUN stopped, with its own settings; at most the evaluation under way was lost."""
    from flexsearch.cli.searching import conduct
    from flexsearch.search.run_folder import RunFolder

    opened, settings = RunFolder.open(Path(folder))
    conduct(opened, settings)
