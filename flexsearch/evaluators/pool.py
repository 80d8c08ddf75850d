"""Candidates over many workers: who gets which, and what happens to the candidate of a worker that is lost.

What a worker is, is a `Cluster`'s business; here nothing is known of Ray.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flexiffusion.search.candidate import Candidate
from flexiffusion.search.evaluator import Job
from flexiffusion.search.racing import Judgement
from flexsearch.errors import ClusterError

ATTEMPTS = 4  # a candidate that was lost with this many workers is not given to another
PAUSES = (10.0, 30.0)  # seconds before a worker that could not be started is started again; then it is given up
PATIENCE = 3  # a candidate that was passed over this often goes next, whoever knows its first steps
REMEMBERED = 256  # candidates of a worker whose first steps it may still know
START_SECONDS = 900.0  # to wait for the first worker; a large checkpoint on a slow disk takes minutes


class WorkerLost(Exception):
    """A worker did not answer: `gone` with its process, or alive but out of memory. `cause` is what it raised."""

    def __init__(self, reason: str, gone: bool = True, cause: BaseException | None = None) -> None:
        super().__init__(reason, gone, cause)
        self.reason, self.gone, self.cause = reason, gone, cause


class Cluster(Protocol):
    """Workers, by number from 0. What they are asked is answered through futures."""

    workers: int

    def start(self, worker: int) -> Hashable:
        """Start a worker, in the place of one that was lost. The future's result says where it is."""

    def judge(self, worker: int, job: Job) -> Hashable:
        """The future's result is a `Judgement`."""

    def wait(self, futures: Sequence[Any], timeout: float | None) -> Hashable | None:
        """A future that is done; None after `timeout` seconds."""

    def result(self, future: Any) -> Any:
        """Raises WorkerLost, or what the worker raised."""


@dataclass(eq=False)
class _Member:
    number: int
    future: Hashable | None = None  # of its start, or of its job
    job: Job | None = None
    ready: bool = False
    failures: int = 0  # to start, in a row
    met: deque[Candidate] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    failed: set[int] = field(default_factory=set)  # numbers of jobs that did not fit into its memory


@dataclass(eq=False)
class _Waiting:
    job: Job
    passed: int = 0
    known: dict[_Member, int] = field(default_factory=dict)  # leading steps that a worker has seen before


class PoolEvaluator:
    """An evaluator of many workers; more candidates than workers are under way, so that none waits for the driver.

    A candidate goes to the worker that knows most of its first steps, if that is free, or soon (see
    `sampling/prefixes.py`). The candidate of a lost worker goes to the next free one. Raises ClusterError when a
    candidate was lost too often, and when no worker is left.
    """

    def __init__(
        self,
        cluster: Cluster,
        count: int,
        say: Callable[[str], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.cluster = cluster
        self.count = count
        self.workers = cluster.workers
        self.slots = self.workers + self.workers // 2
        self._say, self._pause = say, pause
        self._waiting: list[_Waiting] = []
        self._attempts: Counter[int] = Counter()
        self._members = [_Member(number) for number in range(self.workers)]
        for member in self._members:
            member.future = cluster.start(member.number)

    @property
    def note(self) -> str:
        """How many workers there are, for a progress bar."""
        return f"{self.ready} of {self.workers} worker{'s' if self.workers > 1 else ''}"

    @property
    def ready(self) -> int:
        """How many workers have started."""
        return sum(member.ready for member in self._members)

    @property
    def idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return not self._waiting and any(member.ready and member.job is None for member in self._members)

    def submit(self, job: Job, urgent: bool = False) -> None:
        """Take a job; an urgent one goes to the first worker that is free."""
        self._waiting.append(self._queued(job, urgent))
        self._dispatch()

    def finished(self) -> tuple[Job, Judgement]:
        while (done := self.step()) is None:
            pass
        return done

    def step(self) -> tuple[Job, Judgement] | None:
        """Wait for whatever comes next: a result, or a worker that came or went (None)."""
        self._dispatch()
        busy = {member.future: member for member in self._members if member.future is not None}
        waited = None if any(member.ready for member in self._members) else START_SECONDS
        future = self.cluster.wait(list(busy), waited)
        if future is None:
            raise ClusterError(
                "--engine ray",
                f"no worker has started in {START_SECONDS / 60:.0f} minutes",
                "See `ray status`: is there room for it, and does the model load there?",
            )
        member = busy[future]
        job, member.job, member.future = member.job, None, None
        try:
            result = self.cluster.result(future)
        except WorkerLost as lost:
            self._lost(member, job, lost)
            return None
        if job is None:
            member.ready, member.failures = True, 0
            return None
        return job, result

    def _lost(self, member: _Member, job: Job | None, lost: WorkerLost) -> None:
        name = f"worker {member.number + 1}"
        if lost.gone or job is None:
            member.ready = False
            self._forget(member)
            member.failures += job is None
            if member.failures > len(PAUSES):
                self._members.remove(member)
                self._say(f"{name} is given up, after {member.failures} starts: {lost.reason}")
            else:
                if member.failures:
                    self._say(f"{name}: {lost.reason}; it is started again")
                    self._pause(PAUSES[member.failures - 1])  # memory or room may be short for a moment only
                member.future = self.cluster.start(member.number)
        if job is not None:
            self._attempts[job.number] += 1
            if self._attempts[job.number] >= ATTEMPTS:
                raise ClusterError(
                    f"trial {job.number}, {job.candidate.text()}",
                    f"its worker was lost {ATTEMPTS} times, the last time because {lost.reason}",
                    "What is finished is kept. `flexsearch resume`, with fewer --workers if memory is short, goes on",
                ) from lost.cause
            if not lost.gone:
                member.failed.add(job.number)
            self._waiting.insert(0, self._queued(job, urgent=True))
            self._say(f"{name}: {lost.reason}; trial {job.number} goes to another")
        if not self._members:
            raise ClusterError(
                "--engine ray", f"no worker is left: {lost.reason}", "`flexsearch resume` goes on when there is room"
            ) from lost.cause

    def _queued(self, job: Job, urgent: bool) -> _Waiting:
        known = {
            member: max((shared_steps(job.candidate, other) for other in member.met), default=0)
            for member in self._members
        }
        return _Waiting(job, PATIENCE if urgent else 0, known)

    def _forget(self, member: _Member) -> None:
        """What a lost worker knew, and where it failed, says nothing of the one that takes its place."""
        member.met.clear()
        member.failed.clear()
        for waiting in self._waiting:
            waiting.known[member] = 0

    def _dispatch(self) -> None:
        while (match := self._match()) is not None:
            member, chosen = match
            self._waiting.remove(chosen)
            candidate = chosen.job.candidate
            for other in self._waiting:
                other.passed += 1
                other.known[member] = max(other.known[member], shared_steps(other.job.candidate, candidate))
            member.met.append(candidate)
            member.job = chosen.job
            member.future = self.cluster.judge(member.number, chosen.job)

    def _match(self) -> tuple[_Member, _Waiting] | None:
        """A free worker, and the candidate that it is best for, by how many more first steps it knows than any other: a
        candidate whose first steps a busy worker knows is left to that one, unless it has waited long. Where a worker
        ran out of memory, another one tries, if there is one."""
        pairs = [
            (member, waiting)
            for waiting in self._waiting
            for member in self._members
            if member.ready and member.job is None and self._may(member, waiting.job.number)
        ]
        late = [pair for pair in pairs if pair[1].passed >= PATIENCE]
        if late:
            return max((pair for pair in late if pair[1] is late[0][1]), key=lambda pair: pair[1].known[pair[0]])
        return max(pairs, key=lambda pair: self._lead(*pair), default=None)

    def _may(self, member: _Member, number: int) -> bool:
        return number not in member.failed or all(number in other.failed for other in self._members)

    def _lead(self, member: _Member, waiting: _Waiting) -> int:
        others = [waiting.known[other] for other in self._members if other is not member]
        return waiting.known[member] - max(others, default=0)


def shared_steps(one: Candidate, other: Candidate) -> int:
    """How many leading steps two schedules have in common, and can share the state after."""
    pairs = zip(zip(one.places, one.actions), zip(other.places, other.actions))  # noqa: B905
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
