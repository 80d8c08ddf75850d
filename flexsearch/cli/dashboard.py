"""`flexsearch dashboard RUN`: look at a run's trials in a browser."""

from __future__ import annotations

import click

from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place


@click.command(cls=Command)
@click.argument("folder", type=Place(folder=True), metavar="RUN")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all of this machine's."
)
@click.option("--port", type=int, default=8080, show_default=True, help="Port to listen on; 0: any free one.")
@click.option("--open/--no-open", "opened", default=True, show_default=True, help="Open the page in a browser.")
def dashboard(folder: str, host: str, port: int, opened: bool) -> None:
    """Show the trials of RUN in optuna-dashboard, during the run or later; Ctrl+C ends it.

    It can change and delete studies, so it listens on this machine only, unless --host says otherwise.
    """
    from pathlib import Path

    from flexsearch.cli.dashboard_server import serve
    from flexsearch.runs.run_folder import RunFolder

    serve(*RunFolder.open(Path(folder)), host, port, opened)
