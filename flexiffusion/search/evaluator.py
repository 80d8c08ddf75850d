"""What the search loop asks of an evaluator: take a candidate, hand back what was learnt of it, in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .candidate import Candidate
from .method import Evaluated, Genes
from .objective import Objective
from .paired import Errors
from .racing import Judgement


@dataclass(frozen=True, eq=False)
class Job:
    """A trial's candidate, to be judged; with a rival's errors it races against them.

    `before` is what was known when it was proposed, `genes` are the candidate's.
    """

    number: int
    candidate: Candidate
    objective: Objective
    rival: Errors | None = None
    before: Sequence[Evaluated] = ()
    genes: Genes = field(default_factory=dict)


class Evaluator(Protocol):
    """Judges up to `slots` jobs at a time, on `count` images each."""

    slots: int

    @property
    def count(self) -> int: ...

    @property
    def note(self) -> str:
        """A few words on how it goes, for a progress bar."""

    def submit(self, job: Job) -> None:
        """Take a job; there are fewer than `slots` under way."""

    def finished(self) -> tuple[Job, Judgement]:
        """Wait for any job that was taken."""


class OneByOne(ABC):
    """An evaluator that judges its only job when it is asked for the result."""

    slots = 1
    note = ""
    _job: Job

    @abstractmethod
    def judge(self, candidate: Candidate, objective: Objective, rival: Errors | None = None) -> Judgement:
        """What a search learns of a candidate."""

    def submit(self, job: Job) -> None:
        self._job = job

    def finished(self) -> tuple[Job, Judgement]:
        return self._job, self.judge(self._job.candidate, self._job.objective, self._job.rival)
