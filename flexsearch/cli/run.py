"""`flexsearch run`: search a model's schedules and export them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from flexsearch.choices import COSTS, ERRORS, METHODS, SPACINGS, STATISTICS
from flexsearch.cli import output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import OpenChoice, Place
from flexsearch.cli.options import IMAGES, MODEL, SOLVER, SPEEDUP, engine_options, with_options


@click.command(cls=Command)
@with_options(MODEL)
@click.option(
    "--method",
    type=OpenChoice(METHODS),
    default="placement",
    show_default=True,
    help="placement: levels, kinds, branches and predictors; joint: dropped layers too; flexiffusion: segments, and "
    "autodiffusion: timesteps and dropped layers, as the papers have them; or package.module:name.",
)
@click.option("--timesteps", type=int, help="Of autodiffusion: how many. [default: what the speed-up pays for]")
@with_options(SOLVER)
@click.option(
    "--spacing", type=click.Choice(SPACINGS), default="uniform", show_default=True, help="Of the teacher's levels."
)
@with_options(SPEEDUP)
@click.option(
    "--reference",
    type=Place(words=("teacher", "converged")),
    metavar="WORD|PATH",
    default="teacher",
    show_default=True,
    help="What errors are measured to: teacher, or converged (what every solver tends to); or FID is measured to real "
    "pictures: a folder of them, or an .npz with mu and sigma.",
)
@click.option(
    "--error",
    type=OpenChoice(ERRORS),
    help="What is minimised: paired errors, FID relative to the teacher or to real pictures, or package.module:name. "
    "[default: latent; of --method flexiffusion: rfid; with real pictures: fid]",
)
@click.option("--statistic", type=click.Choice(STATISTICS), default="mean", show_default=True, help="Of paired errors.")
@click.option(
    "--cost",
    type=click.Choice(COSTS),
    default="macs",
    show_default=True,
    help="What a speed-up is counted in: macs (multiply-adds), latency (milliseconds on this device), or "
    "units (executed layers).",
)
@click.option(
    "--profile",
    "profile_file",
    type=Place(),
    metavar="FILE",
    help="Count the milliseconds of another device, by `flexsearch profile --out`; with --cost latency.",
)
@click.option("--evaluations", type=int, default=100, show_default=True, help="Schedules to evaluate, seeds included.")
@click.option("--images", type=int, default=16, show_default=True, help="Images a schedule is searched on.")
@click.option("--held-out", type=int, default=32, show_default=True, help="Other images for the final table.")
@click.option(
    "--planner/--no-planner",
    default=True,
    show_default=True,
    help="Begin with schedules planned from tables of short steps on a few images.",
)
@click.option(
    "--racing/--no-racing",
    default=True,
    show_default=True,
    help="A schedule meets 8, 32, 128, ... images and leaves when it is clearly worse than one that costs no more.",
)
@click.option(
    "--memory",
    type=int,
    metavar="MIB",
    default=1024,
    show_default=True,
    help="For states that schedules with the same first steps share, in all; 0: each is sampled from the noise.",
)
@click.option("--plain-only", is_flag=True, help="Search only where full steps lie: the rival of the full search.")
@with_options(IMAGES)
@with_options(engine_options(resumed=False))
@click.option("--storage", metavar="URL", help="Optuna storage. [default: SQLite in the run folder]")
@click.option("--out", type=Place(folder=True), metavar="FOLDER", help="The run folder. [default: runs/<date-time>]")
@output.json_option
def run(out: str | None, prompts_file: str | None, profile_file: str | None, **options: Any) -> None:
    """Search schedules for a model; end with a table, pictures and schedule files.

    Interrupt it at any time: `flexsearch resume FOLDER` goes on and ends as if nothing had happened.
    """
    from flexsearch.cli.profile_argument import read_profile
    from flexsearch.runs.run_folder import RunFolder
    from flexsearch.runs.settings import Settings, require_engine
    from flexsearch.sampling.prompts import given_prompts

    # Whatever can be refused is refused before torch is imported, which takes seconds.
    prompts, held_out = given_prompts(prompts_file)
    profile = None if profile_file is None else read_profile(Path(profile_file)).to_dict()
    settings = Settings(**options, prompts=prompts, held_out_prompts=held_out, profile=profile)
    require_engine(settings)
    path = Path(out or f"runs/{datetime.now():%Y%m%d-%H%M%S}")
    RunFolder.require_free(path)
    from flexsearch.cli.run_output import begin

    begin(path, settings)
