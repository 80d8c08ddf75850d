"""`flexsearch evaluate FILE`: what one schedule does on a model, on images of your choosing."""

from __future__ import annotations

from typing import Any

import click

from flexsearch.cli import output
from flexsearch.cli.command import Command
from flexsearch.cli.options import IMAGES, MODEL, with_options


@click.command(cls=Command)
@click.argument("file", metavar="FILE")
@with_options(MODEL)
@click.option("--images", "held_out", type=int, default=64, show_default=True, help="Images to measure on.")
@with_options(IMAGES)
@click.option("--png", "picture", metavar="OUT", help="Write the pictures, teacher above.")
@output.json_option
def evaluate(file: str, **options: Any) -> None:
    """Measure the schedule in FILE against its full-length teacher: errors, relative FID, speed-up."""
    from flexsearch.cli.judging import judge

    judge([file], rivals=False, **options)
