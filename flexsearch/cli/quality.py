"""`flexsearch quality PRESET... --model FILE`: pictures of schedules beside the teacher's, as papers report it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flexsearch.cli import output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place, Word
from flexsearch.cli.options import MODEL, with_options
from flexsearch.cli.presets import complete_name


@click.command(cls=Command)
@click.argument("presets", metavar="PRESET...", nargs=-1, required=True, shell_complete=complete_name)
@with_options(MODEL)
@click.option("--count", type=click.IntRange(min=2), default=5000, show_default=True, help="How many pictures.")
@click.option(
    "--prompts",
    "prompts_file",
    metavar="FILE",
    type=Place(),
    help="Text file with one prompt per line, used in turn; or coco:captions_val2017.json, the first caption of each "
    "image. [default: bundled prompts]",
)
@click.option(
    "--steps", type=click.IntRange(min=2), help="Steps of the teacher. [default: those that the presets were made for]"
)
@click.option("--choose-on", "images", type=int, default=16, show_default=True,
              help="Other images, on which the best of the hand-made rivals is chosen.")  # fmt: skip
@click.option("--features", type=Word("auto", "bundled", "model", "inception:"), default="auto", show_default=True,
              metavar="MODULE", help="Image features for FID, as in flexsearch run.")  # fmt: skip
@click.option("--clip", metavar="DIR", type=Place(folder=True, file_okay=False, path_type=Path),
              help="Folder of a CLIP model, for the CLIP score.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the noise.")
@click.option("--out", metavar="DIR", type=Place(folder=True, file_okay=False, path_type=Path),
              help="Folder for the results; the same command continues from what is there.")  # fmt: skip
@output.json_option
def quality(presets: tuple[str, ...], **options: Any) -> None:
    """Draw many pictures with the teacher and with PRESETs, and compare them pair by pair: PSNR, SSIM, LPIPS, FID.

    The protocol of SADA's tables (arXiv 2507.17135), with fewer plain steps and the other rivals at the cost of each
    preset beside it. FID is between teacher's and student's pictures. LPIPS and CLIP score need weights that are at
    hand: nothing is downloaded.
    """
    from flexsearch.cli.quality_output import conduct
    from flexsearch.cli.quiet import quiet

    quiet()
    conduct(presets, **options)
