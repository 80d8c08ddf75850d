"""`flexsearch evaluate FILE`: what one schedule does on a model, on images of your choosing."""

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
@click.argument("file", type=Place(), metavar="FILE")
@with_options(MODEL)
@click.option("--images", "held_out", type=int, default=64, show_default=True, help="Images to measure on.")
@with_options(IMAGES)
@png_option
@output.json_option
def evaluate(file: str, picture: str | None, **options: Any) -> None:
    """Measure the schedule in FILE against its teacher, the full-length sampling: errors, relative FID, speed-up."""
    if picture is not None:
        require_file("--png", Path(picture))
    from flexsearch.cli.measured_output import measure
    from flexsearch.cli.quiet import quiet

    quiet()
    measure([file], rivals=False, picture=picture, **options)
