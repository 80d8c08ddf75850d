"""The one question that a search method answers: what is evaluated as trial n, given the trials before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..schedule import SegmentsPlan, StepsPlan
from .candidate import Candidate
from .objective import Objective
from .paired import Errors

Stream = np.random.Generator
Genes = Mapping[str, int]

UNKNOWN = 1e30  # the error of a trial under way, for those that are proposed meanwhile: not a parent, nor forgotten


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A finished trial."""

    number: int
    genes: Genes
    candidate: Candidate
    error: float
    cost: float  # in full steps
    errors: Errors = field(default_factory=lambda: np.empty(0))  # of the images that it met; none for relative FID
    calls: int = 0  # network calls that it took, of one image each


class Method(ABC):
    """A search method. It keeps no state: all that it knows is handed in, so a resumed search equals a whole one."""

    objective: Objective
    """What the search minimises."""

    @property
    @abstractmethod
    def genes(self) -> dict[str, range]:
        """The genome: each gene's name and the whole numbers that it may be. Always the same ones, in one order."""

    @abstractmethod
    def propose(self, number: int, evaluated: Sequence[Evaluated], stream: Stream) -> dict[str, int] | None:
        """The genes of trial `number`, whose candidate is not among `evaluated`; None when no new one was found."""

    @abstractmethod
    def candidate(self, genes: Genes) -> Candidate:
        """What the genes stand for."""

    @abstractmethod
    def file_plan(self, genes: Genes) -> SegmentsPlan | StepsPlan:
        """The same as the plan of a schedule file."""


def stream_of(seed: int, number: int) -> Stream:
    """The random stream of one trial: it depends on nothing but the seed and the trial's number."""
    return np.random.default_rng([seed, number])


def unknown(number: int, genes: Genes, candidate: Candidate, cost: float) -> Evaluated:
    """A trial of which nothing is known yet but its candidate."""
    return Evaluated(number, genes, candidate, UNKNOWN, cost)
