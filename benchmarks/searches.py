"""A search as `flexsearch run` makes it, without its table, for benchmarks that look at the trials."""

from __future__ import annotations

import sys
from pathlib import Path

from flexsearch.search.driver import search
from flexsearch.search.method import Evaluated
from flexsearch.search.run_folder import RunFolder
from flexsearch.search.sampler import MethodSampler
from flexsearch.search.session import Session
from flexsearch.search.settings import Settings


def searched(path: Path, settings: Settings) -> tuple[Session, list[Evaluated]]:
    """The finished trials of the run folder `path`, which is gone on with if it is there; progress to stderr.

    References are shared with the folders beside it.
    """
    folder = RunFolder.open(path)[0] if (path / "settings.json").exists() else RunFolder.create(path, settings)
    session = Session(settings, path.parent / "references")
    sampler = MethodSampler(session.method, settings.seed)
    study = folder.study(settings, sampler)

    def told(number: int, error: float, cost: float) -> None:
        progress(path.name, number, settings.evaluations)

    search(study, sampler, session.search_engine, session.costs, settings.evaluations, settings.racing, told)
    return session, list(sampler.evaluated(study.get_trials(deepcopy=False)))


def progress(name: str, number: int, count: int) -> None:
    """A line for every twentieth trial."""
    if number % 20 == 0:
        print(f"{name}: {number}/{count}", file=sys.stderr, flush=True)
