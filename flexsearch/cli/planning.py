"""What `plan` does: tables, planner, table of plans, schedule files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from flexiffusion import codec
from flexiffusion.cost import CostTable
from flexiffusion.search import macro_steps
from flexiffusion.search.planner import Planned, Planner
from flexsearch.cli import output
from flexsearch.cli.profile_argument import read_profile
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
    _require_reachable(session)
    with stage("planner's tables", session.table_levels, "levels") as at:
        tables = session.tables(at.advance)
    planner = Planner(tables, table, max(settings.targets))
    plans: list[tuple[float, Planned]] = []
    for speedup, target in zip(settings.speedups, settings.targets, strict=True):
        planned = planner.plan(target)
        if planned is None:
            raise _too_fast(session, speedup)
        plans.append((speedup, planned))
    files: Sequence[str | None] = [None] * len(plans) if out is None else _write(session, Path(out), plans)
    _show(session, table, plans, files)


def _require_reachable(session: Session) -> None:
    """Raises ConfigError for a speed-up that no plan has, before the tables are measured."""
    for speedup, target in zip(session.settings.speedups, session.settings.targets, strict=True):
        if _cheapest(session) > target + 1e-9:
            raise _too_fast(session, speedup)


def _cheapest(session: Session) -> int:
    """Full steps of the cheapest plan: macro-steps as long as they can be, over the whole grid."""
    return -(-len(macro_steps.grid_of(session.model.levels)) // macro_steps.REACH)


def _too_fast(session: Session, speedup: float) -> ConfigError:
    most = session.settings.steps / _cheapest(session)
    return ConfigError("--speedup", f"no plan is {speedup:g}x as fast", f"Ask for at most {most:.1f}")


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
