"""A search as `flexsearch run` makes it, without its table, for benchmarks that look at the trials; what it cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexiffusion.search.candidate import Candidate
from flexiffusion.search.method import Evaluated
from flexsearch.runs.driver import search
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.optuna_sampler import MethodSampler
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings


def searched(path: Path, settings: Settings) -> tuple[Experiment, list[Evaluated]]:
    """The finished trials of the run folder `path`, which is gone on with if it is there; progress to stderr.

    References are shared with the folders beside it. Ends the program where the folder is of another search.
    """
    if (path / "settings.json").exists():
        folder, kept = RunFolder.open(path)
        if kept != settings:
            sys.exit(f"{path} is a search with other settings. Give another --work folder.")
    else:
        folder = RunFolder.create(path, settings)
    experiment = Experiment(settings, path.parent / "references")
    sampler = MethodSampler(experiment.method, settings.seed)
    study = folder.study(settings, sampler)

    def told(number: int, error: float, cost: float) -> None:
        progress(path.name, number, settings.evaluations)

    with folder.locked():
        search(
            study, sampler, experiment.search_evaluator, experiment.costs, settings.evaluations, settings.racing, told
        )
    return experiment, list(sampler.evaluated(study.get_trials(deepcopy=False)))


def finished(path: Path, **changes: Any) -> tuple[Experiment, list[Evaluated]]:
    """The trials of a finished run, and its experiment with some settings changed."""
    folder, settings = RunFolder.open(path)
    settings = replace(settings, **changes)
    experiment = Experiment(settings, folder.references)
    sampler = MethodSampler(experiment.method, settings.seed)
    return experiment, list(sampler.evaluated(folder.study(settings, sampler).get_trials(deepcopy=False)))


def work_of(calls: int, cost: float, candidate: Candidate) -> float:
    """A candidate's calls in full steps: each is the share of one that its multiply-adds are on average."""
    return calls * cost / len(candidate.places)


def spent(experiment: Experiment, evaluated: Sequence[Evaluated]) -> Iterator[tuple[int, float]]:
    """Network calls and their work, in full steps, up to and with each trial; the planner's tables are included."""
    calls, work = 0, 0.0
    if experiment.settings.uses_planner:
        step_errors = experiment.step_errors()
        calls, work = sum(step_errors.calls), step_errors.work(experiment.costs)
    for item in evaluated:
        calls += item.calls
        work += work_of(item.calls, item.cost, item.candidate)
        yield calls, work


def progress(name: str, number: int, count: int) -> None:
    """A line for every twentieth trial."""
    if number % 20 == 0:
        print(f"{name}: {number}/{count}", file=sys.stderr, flush=True)
