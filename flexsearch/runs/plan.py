"""Schedules planned in seconds, from tables of a model that are measured once: errors are predicted, not measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flexiffusion import codec
from flexiffusion.cost import CostTable
from flexiffusion.search import macro_steps
from flexiffusion.search.planner import Planned, Planner
from flexsearch.errors import ConfigError
from flexsearch.models.identity import cache_folder
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.export import schedule_file, with_weights
from flexsearch.runs.final_table import described
from flexsearch.runs.progress import Progress
from flexsearch.runs.settings import Settings


@dataclass(frozen=True)
class PlannedSchedules:
    """A planned schedule for each asked speed-up, and the costs that it was planned by."""

    experiment: Experiment
    costs: CostTable
    schedules: tuple[tuple[float, Planned], ...]


def plan(settings: Settings, profile: CostTable | None, progress: Progress) -> PlannedSchedules:
    """Plan for every asked speed-up; `profile` is another device's table of milliseconds, None: multiply-adds.

    Raises ConfigError, before anything is measured, for a profile of another model and for a speed-up that no plan has.
    """
    experiment = Experiment(settings, cache_folder() / "references")
    progress.say(f"model: {experiment.described()}")
    if profile is not None:
        experiment.check_profile(profile)
    costs = profile or experiment.macs
    for speedup, target in zip(settings.speedups, settings.targets, strict=True):
        if _cheapest(experiment) > target + 1e-9:
            raise _too_fast(experiment, speedup)
    with progress.stage("planner's tables", experiment.step_error_levels, "levels") as at:
        step_errors = experiment.step_errors(at.advance)
    planner = Planner(step_errors, costs, max(settings.targets))
    schedules = []
    for speedup, target in zip(settings.speedups, settings.targets, strict=True):
        planned = planner.best(target)
        if planned is None:
            raise _too_fast(experiment, speedup)
        schedules.append((speedup, planned))
    return PlannedSchedules(experiment, costs, tuple(schedules))


def _cheapest(experiment: Experiment) -> int:
    """Full steps of the cheapest plan: macro-steps as long as they can be, over the whole grid."""
    return -(-len(macro_steps.grid_of(experiment.model.levels)) // macro_steps.REACH)


def _too_fast(experiment: Experiment, speedup: float) -> ConfigError:
    most = experiment.settings.steps / _cheapest(experiment)
    return ConfigError("--speedup", f"no plan is {speedup:g}x as fast", f"Ask for at most {most:.1f}")


def write(found: PlannedSchedules, folder: Path) -> list[str]:
    """A file for each schedule. Raises ConfigError where the folder cannot be written."""
    experiment, files = found.experiment, []
    settings = experiment.settings
    for speedup, planned in found.schedules:
        name = f"{experiment.model.family}-{settings.solver_name}-{settings.steps}-{speedup:g}x-planned"
        text = f"{described(planned.candidate)}; planned for {speedup:g}x, not measured"
        steps = planned.candidate.steps_plan(experiment.model.levels)
        if settings.fits:
            steps = with_weights(steps, experiment.search_evaluator.fit(planned.candidate))
        path = folder / f"{name}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            codec.write(path, schedule_file(experiment, name, text, planned.candidate, steps, 0))
        except OSError as error:
            raise ConfigError(f"--out {folder}", f"it cannot be written ({error})", "Give another folder") from error
        files.append(str(path))
    return files
