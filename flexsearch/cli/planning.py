"""What `plan` does: tables, planner, table of plans, schedule files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from flexiffusion import codec
from flexiffusion.cost import CostTable
from flexiffusion.errors import ScheduleError
from flexiffusion.search import macro_steps
from flexiffusion.search.planner import Planned, Planner
from flexsearch.cli import output
from flexsearch.cli.progress import stage
from flexsearch.errors import ConfigError
from flexsearch.models.identity import cache_folder
from flexsearch.runs.export import schedule_file
from flexsearch.runs.final_table import described
from flexsearch.runs.session import Session
from flexsearch.runs.settings import Settings
from flexsearch.sampling.prompts import given_prompts


def conduct(profile_file: str | None, out: str | None, prompts_file: str | None, **options: Any) -> None:
    """Plan for every asked speed-up; show, and write files if a folder is given."""
    prompts, held_out = given_prompts(prompts_file)
    settings = Settings(**options, prompts=prompts, held_out_prompts=held_out)
    session = Session(settings, cache_folder() / "references")
    output.say(f"model: {session.described()}")
    table = session.table
    if profile_file is not None:
        table = read_profile(Path(profile_file))
        session.check_profile(table)
    with stage("planner's tables", session.table_levels, "levels") as at:
        tables = session.tables(at.advance)
    planner = Planner(tables, table, max(settings.targets))
    plans: list[tuple[float, Planned]] = []
    for speedup, target in zip(settings.speedups, settings.targets, strict=True):
        planned = planner.plan(target)
        if planned is None:
            cheapest = -(-len(tables.grid) // macro_steps.REACH)
            raise ConfigError(
                "--speedup", f"no plan is {speedup:g}x as fast", f"Ask for at most {settings.steps / cheapest:.1f}"
            )
        plans.append((speedup, planned))
    files: Sequence[str | None] = [None] * len(plans) if out is None else _write(session, Path(out), plans)
    _show(session, table, plans, files)


def read_profile(path: Path) -> CostTable:
    """The milliseconds in a file of `flexsearch profile --out`. Raises ConfigError."""
    place = f"--profile {path}"
    try:
        return CostTable.from_dict(json.loads(path.read_text(encoding="utf-8"))["ms"])
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(place, f"it cannot be read ({error})", "Give another file") from error
    except (ValueError, KeyError, TypeError, ScheduleError) as error:
        raise ConfigError(place, f"it is no profile ({error})", "Make one with `flexsearch profile --out`") from error


def _write(session: Session, folder: Path, plans: list[tuple[float, Planned]]) -> list[str]:
    settings, files = session.settings, []
    for speedup, planned in plans:
        name = f"{session.model.family}-{settings.solver}-{settings.steps}-{speedup:g}x-planned"
        text = f"{described(planned.candidate)}; planned for {speedup:g}x, not measured"
        plan = planned.candidate.steps_plan(session.model.levels)
        path = folder / f"{name}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            codec.write(path, schedule_file(session, name, text, planned.candidate, plan, 0))
        except OSError as error:
            raise ConfigError(f"--out {folder}", f"it cannot be written ({error})", "Give another folder") from error
        files.append(str(path))
    return files


def _show(session: Session, table: CostTable, plans: list[tuple[float, Planned]], files: Sequence[str | None]) -> None:
    steps = session.settings.steps
    rows = [
        {
            "asked": speedup,
            "schedule": planned.candidate.text(),
            "full": sum(action.kind == "full" for action in planned.candidate.actions),
            "partial": sum(action.kind == "partial" for action in planned.candidate.actions),
            "speedup": {table.unit: table.speedup(planned.candidate.actions, steps)},
            "predicted_latent_error": planned.error**2,
            "file": file,
        }
        for (speedup, planned), file in zip(plans, files, strict=True)
    ]
    if output.wants_json():
        output.emit({"model": session.model.source, "solver": session.settings.solver, "plans": rows})
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"planned for {session.model.source}, {session.settings.solver}, {steps} steps")
    unit = "multiply-adds" if table.unit == "macs" else "milliseconds"
    for heading in ("asked", "steps", f"speed-up ({unit})", "predicted error", "schedule"):
        shown.add_column(heading)
    for row, (speedup, planned) in zip(rows, plans, strict=True):
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
