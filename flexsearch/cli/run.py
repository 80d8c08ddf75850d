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
    help="What is searched. placement: noise levels, kinds of steps, branches and predictors; joint: dropped layers "
    "too; flexiffusion (segments) and autodiffusion (timesteps and dropped layers): as in their papers; or "
    "package.module:name.",
)
@click.option(
    "--timesteps",
    type=int,
    help="Number of timesteps, for --method autodiffusion. [default: as many as the speed-up allows]",
)
@with_options(SOLVER)
@click.option(
    "--spacing",
    type=click.Choice(SPACINGS),
    default="uniform",
    show_default=True,
    help="Spacing of the teacher's noise levels.",
)
@with_options(SPEEDUP)
@click.option(
    "--reference",
    type=Place(words=("teacher", "converged")),
    metavar="WORD|PATH",
    default="teacher",
    show_default=True,
    help="What schedules are compared with. teacher; converged: the solution with very many steps; or real pictures, "
    "for FID: a folder of them, or an .npz file with mu and sigma.",
)
@click.option(
    "--error",
    type=OpenChoice(ERRORS),
    help="The error to minimise. latent, features, lpips: image by image; rfid: FID to the teacher's pictures; "
    "fid: FID to real pictures; or package.module:name. [default: latent; with --method flexiffusion rfid; with real "
    "pictures fid]",
)
@click.option("--statistic", type=click.Choice(STATISTICS), default="mean", show_default=True,
              help="Statistic of image-by-image errors: the mean, or that of the worst tenth.")  # fmt: skip
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
    help="With --cost latency: milliseconds of another device, a file of `flexsearch profile --out`.",
)
@click.option(
    "--evaluations",
    type=int,
    default=100,
    show_default=True,
    help="Schedules to evaluate, those that the search begins with included.",
)
@click.option("--images", type=int, default=16, show_default=True, help="Images that each schedule is evaluated on.")
@click.option(
    "--held-out",
    type=int,
    default=32,
    show_default=True,
    help="Other images, never seen by the search, for the final table.",
)
@click.option(
    "--planner/--no-planner",
    default=True,
    show_default=True,
    help="Begin with schedules that are planned from errors of single steps, measured on four images.",
)
@click.option(
    "--racing/--no-racing",
    default=True,
    show_default=True,
    help="Evaluate on 8, 32, 128, ... images, and drop a schedule once it is clearly worse than one of no higher cost.",
)
@click.option(
    "--memory",
    type=int,
    metavar="MIB",
    default=1024,
    show_default=True,
    help="Memory for intermediate states, which schedules with the same first steps share; 0: no sharing.",
)
@click.option(
    "--plain-only",
    is_flag=True,
    help="Search the noise levels of full steps only: the strongest rival of the whole search.",
)
@with_options(IMAGES)
@with_options(engine_options(resumed=False))
@click.option("--storage", metavar="URL", help="Optuna storage for the trials. [default: SQLite in the run folder]")
@click.option("--out", type=Place(folder=True), metavar="FOLDER", help="The run folder. [default: runs/<date-time>]")
@output.json_option
def run(out: str | None, prompts_file: str | None, profile_file: str | None, **options: Any) -> None:
    """Search faster schedules for a model, and export them: schedule files, a table, pictures.

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
