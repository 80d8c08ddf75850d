"""Schedule files measured on fresh images, alone or beside their rivals at the cost of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexiffusion.schedule import Schedule
from flexsearch.devices import peak_memory
from flexsearch.models.identity import cache_folder
from flexsearch.report import figures
from flexsearch.report.rows import Comparison, Row, comparisons
from flexsearch.runs import final_table
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.from_file import entry_of, shared_settings
from flexsearch.runs.progress import Progress
from flexsearch.runs.settings import Settings


@dataclass(frozen=True)
class Measured:
    """The table's rows; `peak_memory` is in bytes."""

    rows: tuple[Row, ...]
    peak_memory: int

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Each file against the rivals at its cost."""
        return comparisons(self.rows)


def measure_files(
    schedules: Sequence[tuple[str, Schedule]],
    base: Settings,
    progress: Progress,
    *,
    rivals: bool = False,
    picture: Path | None = None,
) -> Measured:
    """Measure schedules, each with the name of its file; with `rivals`, also fewer steps and DeepCache at their costs.

    They are sampled as they were made for, where `base` does not say otherwise. `picture`: where to draw their images.
    Raises ConfigError for schedules of different samplings, and ModelMismatch for those of another model.
    """
    experiment = Experiment(shared_settings(schedules, base), cache_folder() / "references")
    progress.say(f"model: {experiment.described()}")
    found, entries, known = [], [final_table.teacher(experiment)], final_table.Known(experiment)
    for _, schedule in schedules:
        if schedule.model.sha256 not in (None, experiment.model.sha256):
            progress.say(f"note: {schedule.name} was searched on another checkpoint, {str(schedule.model.sha256)[:10]}")
        entry = entry_of(schedule.name, schedule, experiment, progress)
        entries.append(entry)
        if rivals:
            cost = entry.candidate.cost(experiment.macs)
            entries += final_table.rivals(experiment, experiment.settings.steps / cost, cost, known)
        found.append(entry)
    evaluator = experiment.held_out_evaluator
    with progress.stage("measure", len(entries), "schedules") as at:
        measured = final_table.measure(evaluator, entries, lambda label: at.advance(note=label))
    files = {entry.key: file for entry, (file, _) in zip(found, schedules, strict=True)}
    rows = final_table.rows(evaluator, measured, final_table.time_all(evaluator, measured, progress), files)
    if picture is not None:
        figures.samples(picture, [(entry.label, outcome.pictures) for entry, outcome in measured])
    return Measured(rows, peak_memory(experiment.model.device))
