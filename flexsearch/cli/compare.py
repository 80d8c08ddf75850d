"""`flexsearch compare FILE...`: schedules side by side, each beside what could be typed at its cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flexsearch.cli import output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place
from flexsearch.cli.options import IMAGES, MODEL, png_option, with_options
from flexsearch.cli.places import require_file


@click.command(cls=Command)
@click.argument("files", type=Place(), metavar="FILE...", nargs=-1, required=True)
@with_options(MODEL)
@click.option("--images", "held_out", type=int, default=64, show_default=True, help="Images to measure on.")
@click.option(
    "--choose-on",
    "images",
    type=int,
    default=16,
    show_default=True,
    help="Other images, on which the best of the hand-made rivals is chosen.",
)
@with_options(IMAGES)
@png_option
@output.json_option
def compare(files: tuple[str, ...], picture: str | None, **options: Any) -> None:
    """Measure schedules beside their rivals: fewer plain steps, DeepCache and others at the same cost.

    All FILEs must be made for the same teacher: the same sampler and number of steps.
    """
    if picture is not None:
        require_file("--png", Path(picture))
    from flexsearch.cli.measured_output import measure
    from flexsearch.cli.quiet import quiet

    quiet()
    measure(files, rivals=True, picture=picture, **options)
