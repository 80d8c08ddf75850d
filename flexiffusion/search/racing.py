"""Racing: a candidate meets few images first, and more only while it may still beat its rival (docs/method.md 5).

Image i has prompt i, going round, so the images of every stage hold each prompt equally often, as far as they go.
A race in the sense of Maron & Moore 1997 and of F-Race (Birattari et al. 2002), with one rival: the best candidate so
far that costs no more. What is compared are paired distances, whose mean the search minimises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .candidate import Candidate
from .method import Evaluated
from .objective import Objective
from .paired import Errors, mean_root

T = TypeVar("T")

STAGES = (8, 32, 128)  # images met after each stage
CLEAR = 3.0  # standard errors by which a candidate must lag to leave: with 8 images, Student's one-sided 1 %
# By which a schedule may exceed the asked cost. A step of the output head alone costs a five-hundredth of a full one:
# without it, no budget of a whole number of full steps could hold one.
SLACK = 0.005


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a search learns of a candidate: its error, and the errors of the images that it met, in their order.

    `calls` are the network calls that it took, of one image each.
    """

    error: float
    errors: Errors
    calls: int = 0


def stages(images: int) -> tuple[int, ...]:
    """How many images a candidate has met after each stage; the last number is `images`."""
    return (*(stage for stage in STAGES if stage < images), images)


def least(
    options: Iterable[T], judge: Callable[[T, Errors | None], Judgement], images: int, objective: Objective
) -> T | None:
    """The option of the least error on so many images, the first of equals; None: there are none.

    `judge` is given the best one's errors so far, to race against, where there are any.
    """
    best: tuple[T, Judgement] | None = None
    for option in options:
        whole = best is not None and objective.races and len(best[1].errors) == images
        judgement = judge(option, best[1].errors if best is not None and whole else None)
        if best is None or judgement.error < best[1].error:
            best = option, judgement
    return None if best is None else best[0]


def race(errors_of: Callable[[int, int], Errors], images: int, rival: Errors | None, objective: Objective) -> Judgement:
    """Judge a candidate against the rival's errors on all `images`; without a rival it meets all of them.

    `errors_of(first, last)` gives its errors on these images. A candidate that leaves early is given the rival's error
    times the ratio on the images that both met: common noise makes that the better estimate of what is left.
    """
    errors = np.empty(0)
    for last in stages(images) if rival is not None else (images,):
        errors = np.concatenate([errors, errors_of(len(errors), last)])
        if not np.isfinite(errors).all():
            break
        if rival is not None and last < images and lags(errors, rival[:last]):
            return Judgement(mean_root(rival) * mean_root(errors) / mean_root(rival[:last]), errors)
    return Judgement(objective.of(errors), errors)


def lags(errors: Errors, rival: Errors) -> bool:
    """Whether the candidate is clearly the worse one on these images. Not where the rival is exact on all of them:
    nothing could be said then of how much worse it is."""
    if not rival.any():
        return False
    differences = np.sqrt(errors) - np.sqrt(rival)
    return bool(differences.mean() > CLEAR * differences.std(ddof=1) / np.sqrt(len(differences)))


def rival_of(candidate: Candidate, cost: float, evaluated: Sequence[Evaluated], images: int) -> Errors | None:
    """Errors of the best evaluated candidate that costs no more (but for `SLACK`) and met all images, or None.

    Plain candidates race against plain ones: the search keeps the best of them as a row of its final table, and one
    that was only compared with partial steps on eight images would be a poor rival there.
    """
    able = [
        item
        for item in evaluated
        if item.cost <= cost * (1 + SLACK)
        and len(item.errors) == images
        and (item.candidate.plain or not candidate.plain)
    ]
    return min(able, key=lambda item: item.error).errors if able else None
