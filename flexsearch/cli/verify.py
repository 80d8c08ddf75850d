"""`flexsearch verify PRESET --model FILE`: are a preset's claims true of your checkpoint?"""

from __future__ import annotations

from typing import Any

import click

from flexsearch.cli import exit_codes, output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place
from flexsearch.cli.options import FEATURES, MODEL, with_options
from flexsearch.cli.presets import complete_name


@click.command(cls=Command)
@click.argument("preset", metavar="PRESET", shell_complete=complete_name)
@with_options(MODEL)
@click.option("--images", type=int, help="Images to measure on. [default: as many as the claim is of, 16 to 256]")
@click.option(
    "--choose-on",
    type=int,
    default=16,
    show_default=True,
    help="Other images, on which the best of the hand-made rivals is chosen.",
)
@with_options(FEATURES)
@click.option("--seed", type=int, help="Random seed of the noise. [default: one that the search did not use]")
@click.option(
    "--share",
    metavar="FILE",
    type=Place(dir_okay=False),
    help="Also write the measurement as a small JSON file to publish: hashes, settings, errors, device, seconds.",
)
@output.json_option
@click.pass_context
def verify(ctx: click.Context, /, preset: str, **options: Any) -> None:
    """Measure what PRESET claims on your checkpoint, with fresh noise: confirmed, weaker or refuted, with figures.

    PRESET is a name of `flexsearch presets list`, or a file. Weaker: the error is clearly larger than claimed, yet
    clearly smaller than that of fewer plain steps at the same cost. Refuted: not even that; exit code 7.

    With --share others can gather what you measured (flexsearch presets gather); nothing private is in the file.
    """
    from flexsearch.cli.quiet import quiet
    from flexsearch.cli.verify_output import conduct
    from flexsearch.runs.claims import overall

    quiet()
    found = conduct(preset, **options)
    ctx.exit(exit_codes.REFUTED if overall(found) == "refuted" else exit_codes.OK)
