"""What runs on a worker of a cluster, here in this process: the same judgements as the driver's own evaluator."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cli.conftest import multiply_adds_counted_once, short_measurements  # noqa: F401

from flexsearch.errors import ClusterError, ConfigError
from flexsearch.evaluators.worker import Order, Worker
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.open_evaluator import search_evaluator
from flexsearch.runs.settings import Settings, require_engine

SETTINGS = Settings(steps=8, speedups=(2.0,), images=3, planner=False)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(SETTINGS, tmp_path_factory.mktemp("references"))


@pytest.fixture(scope="module")
def order(experiment: Experiment) -> Order:
    references = experiment.search_evaluator.references
    return Order(
        build=partial(search_evaluator, SETTINGS, experiment.batch),
        model=SETTINGS.model,
        references=references,
        memory=SETTINGS.memory,
        threads=torch.get_num_threads(),
        sha256=experiment.model.sha256,
        folder=os.getcwd(),
    )


def test_bitwise_what_the_local_engine_says(experiment: Experiment, order: Order) -> None:
    worker = Worker()
    worker.load(pickle.loads(pickle.dumps(order)))  # as Ray hands it over
    for seed in experiment.seeds[:2]:
        ours = experiment.search_evaluator.judge(seed.candidate, SETTINGS.objective)
        theirs = worker.judge(seed.candidate, SETTINGS.objective, None)
        assert theirs.error == ours.error and np.array_equal(theirs.errors, ours.errors)
    assert worker.evaluator.prefixes is not None and worker.evaluator.prefixes.limit == SETTINGS.memory << 20


def test_relative_paths_begin_where_the_driver_is(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Worker().load(order)
    assert os.getcwd() == order.folder


def test_another_checkpoint_is_refused(order: Order) -> None:
    with pytest.raises(ClusterError, match=r"has SHA-256 .* there, 0000000000 here"):
        Worker().load(replace(order, sha256="0" * 64))


def test_another_version_is_refused(order: Order) -> None:
    with pytest.raises(ClusterError, match=r"is installed there, 99\.0 here.*Install the same version"):
        Worker().load(replace(order, version="99.0"))


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    require_engine(SETTINGS)
    with pytest.raises(ConfigError, match=r"Ray is not installed\. Run: pip install 'flexiffusion\[cluster\]'"):
        require_engine(replace(SETTINGS, engine="ray"))
