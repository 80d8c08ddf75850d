"""What `evaluate` and `compare` do: measure schedule files on fresh images, alone or beside their rivals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from flexiffusion.schedule import Schedule
from flexsearch.cli import output
from flexsearch.cli.measuring import time_all
from flexsearch.cli.progress import stage
from flexsearch.cli.schedule_argument import read_schedule
from flexsearch.devices import in_words, peak_memory
from flexsearch.errors import ConfigError
from flexsearch.models.identity import cache_folder
from flexsearch.report import figures
from flexsearch.report.rows import Row, comparisons
from flexsearch.runs import final_table as verdict
from flexsearch.runs.final_table import Choice
from flexsearch.runs.from_file import settings_of, to_candidate
from flexsearch.runs.session import Session
from flexsearch.runs.settings import Settings
from flexsearch.sampling.prompts import given_prompts


def judge(files: Sequence[str], prompts_file: str | None, rivals: bool, picture: str | None, **options: Any) -> None:
    """Measure schedule files; with `rivals`, also fewer steps and DeepCache at the cost of each."""
    schedules = [read_schedule(file) for file in files]
    prompts, held_out = given_prompts(prompts_file)
    asked = Settings(**options, prompts=prompts, held_out_prompts=held_out)
    session = Session(_settings(schedules, files, asked), cache_folder() / "references")
    output.say(f"model: {session.described()}")
    for schedule in schedules:
        if schedule.model.sha256 not in (None, session.model.sha256):
            output.say(f"note: {schedule.name} was searched on another checkpoint, {str(schedule.model.sha256)[:10]}")
    candidates, choices, known = [], [verdict.teacher(session)], dict[str, float]()
    for schedule in schedules:
        candidate, warning = to_candidate(schedule, session.model, session.teacher)
        if warning is not None:
            output.say(f"note: {warning}")
        cost = candidate.cost(session.table)
        speedup = session.settings.steps / cost
        choices.append(Choice("found", speedup, schedule.name, candidate))
        if rivals:
            choices += verdict.rivals(session, speedup, cost, known)
        candidates.append(candidate)
    engine = session.held_out_engine
    with stage("measure", len(choices), "schedules") as at:
        measured = verdict.measure(engine, choices, lambda label: at.advance(note=label))
    keys = {candidate.key: file for candidate, file in zip(candidates, files, strict=True)}
    rows = verdict.rows(engine, measured, time_all(engine, measured), keys)
    if picture is not None:
        figures.samples(Path(picture), [(choice.label, outcome.pictures) for choice, outcome in measured])
    _show(rows, peak_memory(session.model.device))


def _settings(schedules: Sequence[Schedule], files: Sequence[str], base: Settings) -> Settings:
    """The settings that all files share. Raises ConfigError when they were made for different samplings."""
    wanted = [settings_of(schedule, base) for schedule in schedules]
    for file, settings in zip(files, wanted, strict=True):
        if settings != wanted[0]:
            raise ConfigError(file, f"it was made for another sampling than {files[0]}", "Compare files of one teacher")
    return wanted[0]


def _show(rows: tuple[Row, ...], peak: int) -> None:
    if output.wants_json():
        documents = [item.to_dict() for item in comparisons(rows)]
        output.emit({"rows": [row.to_dict() for row in rows], "comparisons": documents, "peak_memory": peak})
        return
    from rich.console import Console

    from flexsearch.report.table import FinalTable

    Console().print(FinalTable(rows))
    click.echo(f"peak memory  {in_words(peak)}")
