"""A preset's claims on a checkpoint: teacher, schedule and rivals on fresh noise, and what that says of the claims."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from flexiffusion import __version__
from flexiffusion.schedule import Schedule
from flexiffusion.search.objective import REFERENCES, ReferenceName
from flexiffusion.search.paired import Ratio
from flexsearch.evaluators.local import Outcome
from flexsearch.models.costs import device_name
from flexsearch.models.identity import cache_folder
from flexsearch.report.rows import Row
from flexsearch.runs import final_table
from flexsearch.runs.claims import Finding, findings, overall, plain_ratios
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.from_file import entry_of, settings_of, with_fitted_rivals
from flexsearch.runs.progress import Progress
from flexsearch.runs.settings import Settings
from flexsearch.sharing.measurement import Measurement, schedule_hash

FEWEST, MOST = 16, 256  # images, where the user does not say


@dataclass(frozen=True)
class Verification:
    """What was found of each claim, the rows that it was found by, and how it was measured.

    `same_checkpoint`: whether the model is the very file that the schedule was searched on; `measurement`: what others
    may have of it, None where an error was not finite.
    """

    name: str
    findings: tuple[Finding, ...]
    rows: tuple[Row, ...]
    settings: Settings
    same_checkpoint: bool
    measurement: Measurement | None


def usual_images(schedule: Schedule) -> int:
    """As many images as the claims are of, within `FEWEST` and `MOST`."""
    claimed = max((metric.n for metric in schedule.metrics), default=64)
    return min(max(claimed, FEWEST), MOST)


def unused_seed(schedule: Schedule) -> int:
    """A seed that the schedule was not searched with: the claim's own noise would only be counted again."""
    return (schedule.provenance.seed or 0) % (2**31 - 1) + 1


def verify(schedule: Schedule, base: Settings, progress: Progress) -> Verification:
    """Measure a schedule as it was made for, beside the best hand-made rivals at its cost, and judge its claims."""
    settings = with_fitted_rivals(settings_of(schedule, base), [schedule])
    experiment = Experiment(settings, cache_folder() / "references")
    progress.say(f"model: {experiment.described()}")
    same = schedule.model.sha256 == experiment.model.sha256
    if schedule.model.sha256 is not None and not same:
        progress.say(f"note: searched on another checkpoint of {schedule.model.family}, {schedule.model.sha256[:10]}")
    found = entry_of(schedule.name, schedule, experiment, progress)
    cost = found.candidate.cost(experiment.macs)
    beside = final_table.rivals(experiment, experiment.settings.steps / cost, cost, final_table.Known(experiment))
    entries = [final_table.teacher(experiment), found, *beside]
    evaluator = experiment.held_out_evaluator
    with progress.stage("measure", len(entries), "schedules") as at:
        measured = final_table.measure(evaluator, entries, lambda label: at.advance(note=label))
    rows = final_table.rows(evaluator, measured, final_table.time_all(evaluator, measured, progress), {})
    outcomes = {entry.kind: outcome for entry, outcome in measured}
    ratios = plain_ratios(_errors(outcomes["found"]), _errors(outcomes["plain"])) if "plain" in outcomes else {}
    judged = findings(schedule, next(row for row in rows if row.kind == "found"), ratios)
    shared = _measurement(schedule, experiment, rows, ratios.get("teacher"), overall(judged))
    return Verification(schedule.name, judged, rows, experiment.settings, same, shared)


def _measurement(
    schedule: Schedule, experiment: Experiment, rows: tuple[Row, ...], to_plain: Ratio | None, verdict: str | None
) -> Measurement | None:
    settings, model = experiment.settings, experiment.model
    found = next(row for row in rows if row.kind == "found")
    error = found.errors["latent/teacher"]
    if not math.isfinite(error.high) or not all(map(math.isfinite, to_plain or ())):
        return None
    return Measurement(
        name=schedule.name,
        schedule=schedule_hash(schedule),
        family=schedule.model.family,
        checkpoint=model.sha256,
        sampler=experiment.sampling.solver,
        steps=settings.steps,
        guidance=experiment.sampling.guidance,
        size=model.image_size,
        images=settings.held_out,
        seed=settings.seed,
        error=(error.mean, error.low, error.high),
        to_plain=to_plain,
        verdict=verdict,
        speedup_macs=found.speedup_macs,
        speedup_measured=found.speedup_measured,
        teacher_seconds=next(row for row in rows if row.kind == "teacher").seconds_per_image,
        device=device_name(model),
        dtype=str(model.dtype).removeprefix("torch."),
        flexiffusion=__version__,
        torch=torch.__version__,
    )


def _errors(outcome: Outcome) -> dict[ReferenceName, Any]:
    return {name: outcome.latent_errors(name) for name in REFERENCES}
