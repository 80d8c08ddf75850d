"""How the steps of a strip look, in every host, picture and terminal: a colour, and a letter that says the same.

Colours that colour-blind readers can tell apart: Okabe and Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .schedule import Action, StepKind

ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
PALE_GREY = "#DCDCDC"

ROW = 50  # steps of a strip in one line, where it has letters

# Where a strip is too small for letters, a step is a bar, whose height tells its kind as well as its colour does.
KIND_COLOURS: dict[StepKind, str] = {"full": BLUE, "partial": ORANGE, "null": PALE_GREY}
KIND_HEIGHTS: dict[StepKind, float] = {"full": 1.0, "partial": 0.45, "null": 0.06}


class Look(NamedTuple):
    """A kind of step in a strip: a letter, its colour, the colour of text on it, and words for the legend."""

    letter: str
    colour: str
    ink: str
    words: str


_FULL = Look("F", KIND_COLOURS["full"], "white", "full")
_NULL = Look("·", KIND_COLOURS["null"], "black", "null, left out")
_PARTIAL = {
    "reuse": Look("p", KIND_COLOURS["partial"], "black", "partial, reuse"),
    "linear": Look("l", YELLOW, "black", "partial, linear"),
    "quadratic": Look("q", SKY, "black", "partial, quadratic"),
    "spectrum": Look("s", GREEN, "white", "partial, Spectrum"),
}


def look(action: Action) -> Look:
    """How a step of a strip is drawn."""
    if action.kind == "partial":
        return _PARTIAL[action.predictor]
    return _FULL if action.kind == "full" else _NULL


def sign(action: Action) -> str:
    """What stands in the step's box: the number of its branch, or its letter."""
    return look(action).letter if action.branch is None else str(action.branch)


def legend(actions: Sequence[Action]) -> tuple[Look, ...]:
    """The looks that occur in `actions`, in a fixed order."""
    used = {look(action) for action in actions}
    return tuple(entry for entry in (_FULL, *_PARTIAL.values(), _NULL) if entry in used)
