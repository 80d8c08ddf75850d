"""Many workers, and the very search that one would make: trials in order, each proposed from all trials before it.

While the workers wait for a trial, they judge those that are expected to follow it, as a processor runs ahead of a
branch: the methods are asked what they would propose if the trial under way turned out bad, as most do. When its turn
comes, a trial is really proposed, and an expectation that was right has its result already; a wrong one is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flexiffusion.cost import CostTable
from flexiffusion.search.evaluator import Job
from flexiffusion.search.method import Evaluated, Method, stream_of, unknown
from flexiffusion.search.paired import Errors
from flexiffusion.search.racing import Judgement, race, rival_of
from flexsearch.evaluators.pool import PoolEvaluator

DEPTH = 4  # trials ahead for each worker


class SynchronousEvaluator:
    """An evaluator of one slot over a pool of workers. `wasted` counts the network calls of wrong expectations."""

    slots = 1

    def __init__(
        self, pool: PoolEvaluator, method: Method, seed: int, costs: CostTable, evaluations: int, racing: bool
    ) -> None:
        self.pool, self.method, self.seed, self.costs = pool, method, seed, costs
        self.evaluations, self.racing = evaluations, racing
        self.count = pool.count
        self.expected = self.right = self.wasted = 0
        self._head: Job
        self._source: Job  # the job whose result is the head's: itself, or an expectation
        self._ahead: dict[int, tuple[Job, Evaluated]] = {}  # expectations by number; what is known while it is judged
        self._doubted: set[int] = set()  # of these, those to be asked for once more, after one that was wrong
        self._results: dict[Job, Judgement] = {}

    @property
    def note(self) -> str:
        return self.pool.note

    def submit(self, job: Job) -> None:
        guess, _ = self._ahead.pop(job.number, (None, None))
        self._head = self._source = job
        if guess is not None and guess.candidate.key == job.candidate.key:
            self._source = guess
            return
        self._forget(guess)
        self._doubted = set(self._ahead)
        self.pool.submit(job, urgent=True)

    def finished(self) -> tuple[Job, Judgement]:
        head = self._head
        while True:
            if self._source in self._results:
                found = self._results.pop(self._source)
                judgement = raced_again(found, self._source.rival, head, self.count)
                if judgement is not None:
                    self.right += self._source is not head
                    return head, judgement
                self.wasted += found.calls
                self._source = head
                self.pool.submit(head, urgent=True)
            self._look_ahead()
            done = self.pool.step()
            if done is not None:
                job, judgement = done
                if job is self._source or job in [guess for guess, _ in self._ahead.values()]:
                    self._results[job] = judgement
                else:
                    self.wasted += judgement.calls

    def _look_ahead(self) -> None:
        """Give idle workers what is expected to come next."""
        head = self._head
        known = [*head.before, unknown(head.number, head.genes, head.candidate, head.candidate.cost(self.costs))]
        for number in range(head.number + 1, min(head.number + DEPTH * self.pool.workers, self.evaluations - 1) + 1):
            if not self.pool.idle:
                return
            if (number not in self._ahead or number in self._doubted) and not self._expect(number, known):
                return
            job, item = self._ahead[number]
            found = self._results.get(job)
            known.append(item if found is None else replace(item, error=found.error, errors=found.errors))

    def _expect(self, number: int, known: Sequence[Evaluated]) -> bool:
        """Foresee a trial, and have it judged; False where the method knows of none."""
        self._doubted.discard(number)
        genes = self.method.propose(number, known, stream_of(self.seed, number))
        if genes is None:
            return False
        candidate = self.method.candidate(genes)
        before, _ = self._ahead.get(number, (None, None))
        if before is None or before.candidate.key != candidate.key:
            self._forget(before)
            cost = candidate.cost(self.costs)
            rival = (
                rival_of(candidate, cost, known, self.count) if self.racing and self.method.objective.races else None
            )
            job = Job(number, candidate, self.method.objective, rival, genes=genes)
            self._ahead[number] = job, unknown(number, genes, candidate, cost)
            self.expected += 1
            self.pool.submit(job)
        return True

    def _forget(self, guess: Job | None) -> None:
        found = None if guess is None else self._results.pop(guess, None)
        self.wasted += 0 if found is None else found.calls


def raced_again(judgement: Judgement, met: Errors | None, job: Job, images: int) -> Judgement | None:
    """What a candidate that raced against `met` would have been given against its job's rival, from the errors that are
    known; None where more images are needed, or images that were sampled in other batches."""
    rival = job.rival
    if met is rival or (met is not None and rival is not None and np.array_equal(met, rival)):
        return judgement
    if met is None or rival is None or not len(judgement.errors):
        return None

    def known(first: int, last: int) -> Errors:
        if last > len(judgement.errors):
            raise LookupError
        return judgement.errors[first:last]

    try:
        return replace(race(known, images, rival, job.objective), calls=judgement.calls)
    except LookupError:
        return None
