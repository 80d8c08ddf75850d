"""Ray's side of a cluster, with workers that need no model: who dies, who is started again, what is said."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

ray = pytest.importorskip("ray")

from flexiffusion.search.candidate import Candidate, plain  # noqa: E402
from flexiffusion.search.evaluator import Job  # noqa: E402
from flexiffusion.search.objective import Objective  # noqa: E402
from flexiffusion.search.racing import Judgement  # noqa: E402
from flexsearch.errors import ClusterError, ConfigError, ModelError  # noqa: E402
from flexsearch.evaluators import ray_cluster  # noqa: E402
from flexsearch.evaluators.local import LocalEvaluator  # noqa: E402
from flexsearch.evaluators.pool import ATTEMPTS, PoolEvaluator  # noqa: E402
from flexsearch.evaluators.ray_cluster import RayCluster, connect  # noqa: E402
from flexsearch.evaluators.worker import Order  # noqa: E402

pytestmark = pytest.mark.cluster


def no_evaluator(*_: Any) -> LocalEvaluator:
    raise AssertionError("the stand-in for a worker builds none")


ORDER = Order(no_evaluator, "tiny", {}, 1000, 1, "0" * 64, "/")
KILLS, TOO_LARGE, FAULTY = 66, 77, 55  # last timesteps with which something happens


class Stub:
    """Says where it runs, and what of `--memory` is its own."""

    def load(self, order: Order) -> str:
        self.order = order
        return "here"

    def judge(self, candidate: Candidate, *_: Any) -> Judgement:
        time.sleep(0.05)
        last = candidate.places[-1]
        if last == KILLS:
            os.kill(os.getpid(), 9)
        if last == TOO_LARGE:
            raise ModelError("m", "not even one picture fits into the memory of cpu", "r")
        if last == FAULTY:
            raise ValueError("a fault")
        return Judgement(float(self.order.memory), np.array([last]), os.getpid())


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_cluster, "Worker", Stub)
        made = RayCluster(ORDER, None, 2, False)
        try:
            yield made
        finally:
            made.close()


def job(number: int, last: int) -> Job:
    return Job(number, plain((999, last)), Objective("latent"))


def test_all_candidates_come_back_though_a_worker_is_killed(cluster: RayCluster) -> None:
    said: list[str] = []
    pool = PoolEvaluator(cluster, 1, said.append)
    while pool.ready < pool.workers:
        pool.step()
    done = []
    for number in range(pool.slots):
        pool.submit(job(number, 500 + number))
    for number in range(pool.slots, 40):
        finished, judgement = pool.finished()
        assert judgement.error == 500  # half of --memory for each of two
        assert judgement.errors[0] == finished.candidate.places[-1]
        done.append(finished.number)
        if number == 20:
            os.kill(judgement.calls, 9)
        pool.submit(job(number, 500 + number))
    done += [pool.finished()[0].number for _ in range(pool.slots)]
    assert sorted(done) == list(range(40))
    assert any("its process died; trial" in line for line in said)


def test_what_ends_a_search(cluster: RayCluster) -> None:
    pool = PoolEvaluator(cluster, 1, lambda _: None)
    pool.submit(job(0, FAULTY))
    with pytest.raises(ValueError, match="a fault"):
        pool.finished()
    pool.submit(job(1, TOO_LARGE))
    with pytest.raises(ClusterError, match=f"trial 1, .* lost {ATTEMPTS} times, .*out of memory") as caught:
        pool.finished()
    assert isinstance(caught.value.__cause__, ModelError)
    pool.submit(job(2, KILLS))
    with pytest.raises(ClusterError, match=f"trial 2, .* lost {ATTEMPTS} times, .*its process died"):
        pool.finished()


def test_a_cluster_that_is_too_small(cluster: RayCluster) -> None:
    with pytest.raises(ConfigError, match="10000 workers need as many cores"):
        RayCluster(ORDER, None, 10_000, False)
    with pytest.raises(ConfigError, match="need as many GPUs; the cluster has 0"):
        RayCluster(ORDER, None, 1, True)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ClusterError, match=r"--ray-address 127\.0\.0\.1:1: Ray cannot be reached"):
        connect("127.0.0.1:1", 1, 0)
