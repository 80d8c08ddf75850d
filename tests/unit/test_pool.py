"""Candidates over workers: each is judged once, whoever is lost; first steps stay where they are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from pool_fixtures import SimulatedCluster
from search_fixtures import FormulaEvaluator

from flexiffusion.search.candidate import Candidate, plain
from flexiffusion.search.evaluator import Job
from flexiffusion.search.objective import Objective
from flexsearch.errors import ClusterError, ModelError
from flexsearch.evaluators.pool import ATTEMPTS, PATIENCE, PAUSES, PoolEvaluator, WorkerLost, shared_steps

GONE = WorkerLost("its process died")
LATENT = Objective("latent")
Deaths = Callable[[int, Job | None], WorkerLost | None]


def job(number: int, *timesteps: int) -> Job:
    return Job(number, plain(timesteps or (999, 500 - number)), LATENT)


def pool_of(workers: int, dies: Deaths = lambda worker, job: None, said: list[str] | None = None) -> PoolEvaluator:
    cluster = SimulatedCluster(FormulaEvaluator(), workers, lambda job: 1 + np.sin(job.number) / 2, dies)
    return PoolEvaluator(cluster, 1, (said if said is not None else []).append, pause=lambda seconds: None)


def work_off(pool: PoolEvaluator, jobs: list[Job]) -> list[int]:
    """The numbers of the results, with as many jobs under way as the pool has slots."""
    done, left, under_way = [], list(jobs), 0
    while left or under_way:
        while left and under_way < pool.slots:
            pool.submit(left.pop(0))
            under_way += 1
        done.append(pool.finished()[0].number)
        under_way -= 1
    return done


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_job_is_judged_once(workers: int) -> None:
    pool = pool_of(workers)
    assert sorted(work_off(pool, [job(i) for i in range(30)])) == list(range(30))
    assert isinstance(pool.cluster, SimulatedCluster)
    assert {worker for worker, _ in pool.cluster.given} == set(range(workers))
    assert pool.note == f"{workers} of {workers} worker{'s' if workers > 1 else ''}"


def test_the_candidate_of_a_lost_worker_goes_to_another_at_once() -> None:
    lost: list[int] = []

    def dies(worker: int, job: Job | None) -> WorkerLost | None:
        if job is not None and job.number == 7 and not lost:
            lost.append(worker)
            return GONE
        return None

    said: list[str] = []
    pool = pool_of(3, dies, said)
    assert sorted(work_off(pool, [job(i) for i in range(20)])) == list(range(20))
    assert isinstance(pool.cluster, SimulatedCluster)
    assert pool.cluster.starts == 4
    assert said == [f"worker {lost[0] + 1}: its process died; trial 7 goes to another"]


def test_workers_that_die_all_the_time_lose_nothing() -> None:
    stream = np.random.default_rng(0)
    pool = pool_of(2, lambda worker, job: GONE if job is not None and stream.random() < 0.15 else None)
    assert sorted(work_off(pool, [job(i) for i in range(60)])) == list(range(60))


def test_a_candidate_that_kills_every_worker_ends_the_search() -> None:
    pool = pool_of(3, lambda worker, job: GONE if job is not None and job.number == 4 else None)
    with pytest.raises(ClusterError, match=rf"trial 4, 999F 496F: its worker was lost {ATTEMPTS} times.*process died"):
        work_off(pool, [job(i) for i in range(10)])


def test_a_worker_out_of_memory_is_not_started_again() -> None:
    cause = ModelError("m", "not even one picture fits into the memory", "r")
    full = WorkerLost("it ran out of memory", gone=False, cause=cause)
    first: list[int] = []

    def dies(worker: int, job: Job | None) -> WorkerLost | None:
        if job is not None and job.number == 1:
            first.append(worker)
            return full if worker == first[0] else None
        return None

    pool = pool_of(2, dies)
    assert sorted(work_off(pool, [job(i) for i in range(10)])) == list(range(10))
    assert isinstance(pool.cluster, SimulatedCluster) and pool.cluster.starts == 2
    assert first == [first[0], 1 - first[0]]  # tried once by each


def test_a_candidate_that_fits_into_no_workers_memory() -> None:
    cause = ModelError("m", "not even one picture fits into the memory", "r")
    full = WorkerLost("it ran out of memory", gone=False, cause=cause)
    pool = pool_of(2, lambda worker, job: full if job is not None and job.number == 1 else None)
    with pytest.raises(ClusterError, match=r"trial 1, .*it ran out of memory") as caught:
        work_off(pool, [job(i) for i in range(10)])
    assert caught.value.__cause__ is cause


def test_a_worker_that_never_starts_is_given_up_and_the_others_go_on() -> None:
    said: list[str] = []
    pool = pool_of(2, lambda worker, job: GONE if worker == 1 else None, said)
    assert sorted(work_off(pool, [job(i) for i in range(10)])) == list(range(10))
    assert pool.note == "1 of 2 workers"
    assert said.count("worker 2: its process died; it is started again") == len(PAUSES)
    assert "worker 2 is given up, after 3 starts: its process died" in said


@pytest.mark.parametrize("lost", [GONE, WorkerLost("it ran out of memory", gone=False)])
def test_no_worker_is_left(lost: WorkerLost) -> None:
    pool = pool_of(2, lambda worker, job: lost)
    with pytest.raises(ClusterError, match=f"no worker is left: {lost.reason}"):
        work_off(pool, [job(0)])


def test_what_a_model_raises_comes_through() -> None:
    class Broken(FormulaEvaluator):
        def judge(self, candidate: Candidate, *_: object) -> None:  # type: ignore[override]
            raise ValueError("size mismatch")

    with pytest.raises(ValueError, match="size mismatch"):
        work_off(PoolEvaluator(SimulatedCluster(Broken(), 1), 1, print), [job(0)])


class TestFirstSteps:
    A, B = (999, 900, 800), (999, 700, 600)

    def test_how_many_are_shared(self) -> None:
        assert shared_steps(plain((*self.A, 100)), plain((*self.A, 50, 20))) == 3
        assert shared_steps(plain(self.A), plain(self.B)) == 1

    def test_a_candidate_goes_where_its_first_steps_are_known(self) -> None:
        cluster = SimulatedCluster(FormulaEvaluator(), 2, lambda job: 1.0)
        pool = PoolEvaluator(cluster, 1, print)
        jobs = [job(i, *(self.A if i % 3 else self.B), 100 - i) for i in range(40)]
        work_off(pool, jobs)
        by_family = Counter((worker, one.number % 3 == 0) for worker, one in cluster.given)
        # two thirds of the work share one beginning: some of it must go to the other worker, little of the rest
        stays = max(by_family[0, True], by_family[1, True]) / (by_family[0, True] + by_family[1, True])
        assert stays >= 0.75
        by_turns = Counter((i % 2, i % 3 == 0) for i in range(40))
        assert max(by_turns[0, True], by_turns[1, True]) / 14 < 0.6

    def test_nobody_waits_for_ever(self) -> None:
        cluster = SimulatedCluster(FormulaEvaluator(), 2, lambda job: 1.0)
        pool = PoolEvaluator(cluster, 1, print)
        work_off(pool, [job(0, *self.A, 50), job(1, *self.A, 49)])
        odd = job(2, *self.B)
        for one in (odd, *(job(i, *self.A, 48 - i) for i in range(3, 6))):
            pool.submit(one)
        for i in range(6, 30):
            pool.finished()
            pool.submit(job(i, *self.A, 48 - i))
        place = [one.number for _, one in cluster.given].index(2)
        assert place <= 2 + 2 + PATIENCE
