"""What `plan` reads and shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from flexiffusion.summary import counts
from flexsearch.cli import output
from flexsearch.cli.profile_argument import read_profile
from flexsearch.cli.progress import Terminal
from flexsearch.runs.final_table import described
from flexsearch.runs.plan import PlannedSchedules, plan, write
from flexsearch.runs.settings import Settings
from flexsearch.sampling.prompts import given_prompts


def conduct(profile_file: str | None, out: str | None, prompts_file: str | None, **options: Any) -> None:
    """Plan for every asked speed-up; show, and write files if a folder is given."""
    prompts, held_out = given_prompts(prompts_file)
    settings = Settings(**options, prompts=prompts, held_out_prompts=held_out)
    profile = None if profile_file is None else read_profile(Path(profile_file))
    plans = plan(settings, profile, Terminal())
    _show(plans, [None] * len(plans.schedules) if out is None else write(plans, Path(out)))


def _show(plans: PlannedSchedules, files: Sequence[str | None]) -> None:
    experiment, table = plans.experiment, plans.costs
    steps = experiment.settings.steps
    rows = [
        {
            "asked": speedup,
            "schedule": planned.candidate.text(),
            "full": counts(planned.candidate.actions)["full"],
            "partial": counts(planned.candidate.actions)["partial"],
            "speedup": {table.unit: table.speedup(planned.candidate.actions, steps)},
            "predicted_latent_error": planned.error**2,
            "file": file,
        }
        for (speedup, planned), file in zip(plans.schedules, files, strict=True)
    ]
    if output.wants_json():
        output.emit({"model": experiment.model.source, "solver": experiment.settings.solver_name, "plans": rows})
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"planned for {experiment.model.source}, {experiment.settings.solver_name}, {steps} steps")
    unit = "multiply-adds" if table.unit == "macs" else "milliseconds"
    for heading in ("asked", "steps", f"speed-up ({unit})", "predicted error", "schedule"):
        shown.add_column(heading)
    for row, (speedup, planned) in zip(rows, plans.schedules, strict=True):
        factor = table.speedup(planned.candidate.actions, steps)
        shown.add_row(
            f"{speedup:g}x",
            described(planned.candidate),
            f"{factor:.2f}x",
            f"{planned.error**2:.2g}",
            str(row["schedule"]),
        )
    Console().print(shown)
    click.echo(
        "Errors are predicted (paired latent error to the converged solution). `flexsearch compare` measures them."
    )
    for file in filter(None, files):
        click.echo(f"schedule  {file}")
