"""From a run's settings to what judges its candidates."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from flexsearch.engines.pool import Pool
from flexsearch.engines.worker import Order
from flexsearch.errors import ConfigError
from flexsearch.search.evaluator import Evaluator
from flexsearch.search.sampler import MethodSampler
from flexsearch.search.session import Session
from flexsearch.search.settings import Settings
from flexsearch.search.speculation import Synchronous


def require(settings: Settings) -> None:
    """Raises ConfigError where the asked engine is not installed; to be called before any work."""
    if settings.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError("--engine ray", "Ray is not installed", "Run: pip install 'flexiffusion[cluster]'")


@contextmanager
def opened(session: Session, sampler: MethodSampler, say: Callable[[str], None]) -> Iterator[Evaluator]:
    """The evaluator of a run; its workers end with the block. `say` is told what a person may want to know."""
    settings, engine = session.settings, session.search_engine
    if settings.engine == "local":
        yield engine
        return
    from flexsearch.engines.ray_cluster import RayCluster

    cuda = session.model.device.type == "cuda"
    order = Order(
        # A driver on the second GPU has workers that see one GPU each, whatever its number.
        settings=replace(settings, device="cuda" if cuda else settings.device),
        references={name: replace(item, states=torch.empty(0)) for name, item in engine.references.items()},
        batch=session.batch,
        threads=torch.get_num_threads(),
        sha256=session.model.sha256,
        folder=os.getcwd(),
    )
    cluster = RayCluster(order, settings.ray_address, settings.workers, cuda)
    try:
        pool = Pool(cluster, engine.count, say)
        if not settings.synchronous:
            yield pool
            return
        judge = Synchronous(pool, sampler, session.costs, settings.evaluations, settings.racing)
        yield judge
        say(
            f"synchronous: {judge.right} of {judge.expected} trials were foreseen; {judge.wasted} network calls in vain"
        )
    finally:
        cluster.close()
