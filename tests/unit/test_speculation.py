"""Synchronous on many workers: trial by trial what one worker finds, sooner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from optuna.study import Study
from pool_fixtures import SimulatedCluster
from search_fixtures import TABLE, Engine
from test_driver import METHODS, trials_of

from flexsearch.engines.pool import Pool, WorkerLost
from flexsearch.metrics.paired import Errors
from flexsearch.search.candidate import Candidate
from flexsearch.search.driver import search
from flexsearch.search.evaluator import Job
from flexsearch.search.method import Fitness
from flexsearch.search.racing import Judgement, race
from flexsearch.search.run_folder import RunFolder
from flexsearch.search.sampler import MethodSampler
from flexsearch.search.settings import Settings
from flexsearch.search.speculation import Synchronous, raced_again


class Racing(Engine):
    """The formula's errors on forty images, with noise that is each candidate's own."""

    count = 40

    def judge(self, candidate: Candidate, fitness: Fitness, rival: Errors | None = None) -> Judgement:
        error = super().judge(candidate, fitness).error
        noise = np.random.default_rng(abs(hash(candidate.key)) % 2**32).normal(size=self.count)
        errors = (error * np.exp(0.3 * noise)) ** 2
        return race(lambda first, last: errors[first:last], self.count, rival)


def seconds(job: Job) -> float:
    return 0.2 + np.random.default_rng(job.number).random()


def go(
    folder: Path, name: str, workers: int, evaluations: int = 60, engine: Engine | None = None, deaths: float = 0.0
) -> tuple[Study, SimulatedCluster, Synchronous | None]:
    folder.mkdir(exist_ok=True)
    stream = np.random.default_rng(1)
    sampler = MethodSampler(METHODS[name], 0)
    study = RunFolder(folder).study(Settings(), sampler)
    engine = engine or Racing()
    cluster = SimulatedCluster(
        engine,
        workers,
        seconds,
        lambda worker, job: WorkerLost("it died") if job is not None and stream.random() < deaths else None,
    )
    if workers == 1:
        search(study, sampler, engine, TABLE, evaluations, True, lambda *_: None)
        return study, cluster, None
    judge = Synchronous(Pool(cluster, engine.count, lambda _: None), sampler, TABLE, evaluations, True)
    search(study, sampler, judge, TABLE, evaluations, True, lambda *_: None)
    return study, cluster, judge


@pytest.mark.parametrize("name", METHODS)
def test_trial_by_trial_the_search_of_one_worker(name: str, tmp_path: Path) -> None:
    alone, _, _ = go(tmp_path / "alone", name, 1)
    for workers, deaths in ((2, 0.0), (5, 0.0), (3, 0.1)):
        study, cluster, judge = go(tmp_path / f"{workers}", name, workers, deaths=deaths)
        assert trials_of(study) == trials_of(alone)
        assert [t.user_attrs["errors"] for t in study.get_trials()] == [
            t.user_attrs["errors"] for t in alone.get_trials()
        ]
        assert judge is not None and judge.right > 20
        assert len({worker for worker, _ in cluster.given}) == workers


def test_it_is_sooner(tmp_path: Path) -> None:
    _, cluster, _ = go(tmp_path / "run", "placement", 4)
    one_by_one = sum(seconds(Job(number, cluster.given[0][1].candidate, "latent")) for number in range(60))
    assert cluster.clock < 0.6 * one_by_one


def test_killed_again_and_again_it_still_is(tmp_path: Path) -> None:
    alone, _, _ = go(tmp_path / "alone", "placement", 1, 30)
    for stop_at in (0, 4, 9):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "killed", "placement", 3, 30, Racing(stop_at))
    study, _, _ = go(tmp_path / "killed", "placement", 3, 30)
    assert trials_of(study) == trials_of(alone)


class TestRacedAgain:
    ERRORS = np.random.default_rng(0).lognormal(size=40)

    def met(self, rival: Errors | None, scale: float = 1.0) -> Judgement:
        return race(lambda first, last: scale * self.ERRORS[first:last], 40, rival)

    def test_the_same_rival(self) -> None:
        judgement = self.met(self.ERRORS)
        assert raced_again(judgement, self.ERRORS, self.ERRORS.copy(), 40) is judgement
        alone = self.met(None)
        assert raced_again(alone, None, None, 40) is alone

    @pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
    def test_another_rival_as_if_it_had_been_met_at_once(self, scale: float) -> None:
        weak, strong = 30 * self.ERRORS[::-1], 0.1 * self.ERRORS
        again = raced_again(self.met(weak, scale), weak, strong, 40)
        wanted = self.met(strong, scale)
        assert again is not None and again.error == wanted.error and np.array_equal(again.errors, wanted.errors)

    def test_more_images_are_needed(self) -> None:
        strong = 0.1 * self.ERRORS
        left = self.met(strong)
        assert len(left.errors) < 40
        assert raced_again(left, strong, 30 * self.ERRORS, 40) is None

    def test_other_batches(self) -> None:
        assert raced_again(self.met(None), None, self.ERRORS, 40) is None
        assert raced_again(self.met(self.ERRORS), self.ERRORS, None, 40) is None
