"""A cluster that takes no time: workers answer in the order of a simulated clock, and die when they are told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from flexiffusion.search.evaluator import Job, OneByOne
from flexsearch.evaluators.pool import WorkerLost


@dataclass(eq=False)
class Future:
    due: float
    worker: int
    answer: Callable[[], Any]


@dataclass
class SimulatedCluster:
    """`seconds(job)` is how long a job takes; `dies(worker, job)` is asked for each job and, with None, each start."""

    evaluator: OneByOne
    workers: int
    seconds: Callable[[Job], float] = lambda job: 1.0
    dies: Callable[[int, Job | None], WorkerLost | None] = lambda worker, job: None
    clock: float = 0.0
    given: list[tuple[int, Job]] = field(default_factory=list)
    starts: int = 0

    def start(self, worker: int) -> Future:
        self.starts += 1
        return Future(self.clock, worker, lambda: self._answer(worker, None))

    def judge(self, worker: int, job: Job) -> Future:
        self.given.append((worker, job))
        return Future(self.clock + self.seconds(job), worker, lambda: self._answer(worker, job))

    def wait(self, futures: Sequence[Future], timeout: float | None) -> Future | None:
        first = min(futures, key=lambda future: (future.due, future.worker))
        self.clock = max(self.clock, first.due)
        return first

    def result(self, future: Future) -> Any:
        return future.answer()

    def _answer(self, worker: int, job: Job | None) -> Any:
        lost = self.dies(worker, job)
        if lost is not None:
            raise lost
        return "here" if job is None else self.evaluator.judge(job.candidate, job.objective, job.rival)
