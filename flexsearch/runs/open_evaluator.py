"""From a run's settings to what judges its candidates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from flexiffusion.search.evaluator import Evaluator
from flexiffusion.search.objective import ReferenceName
from flexsearch.evaluators.local import LocalEvaluator
from flexsearch.evaluators.pool import PoolEvaluator
from flexsearch.evaluators.synchronous import SynchronousEvaluator
from flexsearch.evaluators.worker import Order
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings
from flexsearch.sampling.references import Reference


def search_evaluator(
    settings: Settings, batch: int, references: dict[ReferenceName, Reference], memory: int
) -> LocalEvaluator:
    """What judges a run's candidates, made anew from its settings and the driver's references (on a worker).

    Raises what loading a model raises.
    """
    experiment = Experiment(replace(settings, memory=memory), Path())
    experiment.batch = batch
    return experiment.evaluator_for_search(references)


@contextmanager
def opened(experiment: Experiment, say: Callable[[str], None]) -> Iterator[Evaluator]:
    """The evaluator of a run; its workers end with the block. `say` is told what a person may want to know."""
    settings, evaluator = experiment.settings, experiment.search_evaluator
    if settings.engine == "local":
        yield evaluator
        return
    from flexsearch.evaluators.ray_cluster import RayCluster

    cuda = experiment.model.device.type == "cuda"
    # A driver on the second GPU has workers that see one GPU each, whatever its number.
    theirs = replace(settings, device="cuda" if cuda else settings.device)
    order = Order(
        build=partial(search_evaluator, theirs, experiment.batch),
        model=settings.model,
        references=evaluator.references,
        memory=settings.memory,
        threads=torch.get_num_threads(),
        sha256=experiment.model.sha256,
        folder=os.getcwd(),
    )
    cluster = RayCluster(order, settings.ray_address, settings.workers, cuda)
    try:
        pool = PoolEvaluator(cluster, evaluator.count, say)
        if not settings.synchronous:
            yield pool
            return
        judge = SynchronousEvaluator(
            pool, experiment.method, settings.seed, experiment.costs, settings.evaluations, settings.racing
        )
        yield judge
        say(
            f"synchronous: {judge.right} of {judge.expected} trials were foreseen; "
            f"{judge.wasted} network calls were of no use"
        )
    finally:
        cluster.close()
