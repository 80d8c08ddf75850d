"""How things look: colours that colour-blind readers can tell apart, and with each a sign that says the same.

Colours: Okabe and Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

from typing import NamedTuple

from flexiffusion.schedule import Action
from flexsearch.report.rows import RowKind

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILION = "#D55E00"
YELLOW = "#F0E442"
PURPLE = "#CC79A7"
GREY = "#9A9A9A"
PALE_GREY = "#DCDCDC"

# Row kinds: colour and matplotlib marker.
KIND_LOOKS: dict[RowKind, tuple[str, str]] = {
    "teacher": (BLACK, "*"),
    "found": (VERMILION, "o"),
    "plain": (BLUE, "s"),
    "uni_pc": (BLUE, "X"),
    "dpmpp_3m": (BLUE, "p"),
    "plain_fitted": (GREEN, "s"),
    "plain_searched": (GREEN, "D"),
    "placed_fitted": (GREEN, "h"),
    "deepcache": (PURPLE, "^"),
    "spectrum": (ORANGE, "v"),
    "easycache": (SKY, "P"),
    "taylorseer": (PURPLE, "<"),
    "first_block_cache": (ORANGE, ">"),
}
# Drawn as an outline, and larger: a searched placement often is the plain one, whose mark must show through.
HOLLOW_KINDS: frozenset[RowKind] = frozenset({"plain_searched"})


class Look(NamedTuple):
    """A kind of step in a strip: a letter, its colour, the colour of text on it, and words for the legend."""

    letter: str
    colour: str
    ink: str
    words: str


_FULL = Look("F", BLUE, "white", "full")
_NULL = Look("·", PALE_GREY, "black", "null, left out")
_PARTIAL = {
    "reuse": Look("p", ORANGE, "black", "partial, reuse"),
    "linear": Look("l", YELLOW, "black", "partial, linear"),
    "quadratic": Look("q", SKY, "black", "partial, quadratic"),
    "spectrum": Look("s", GREEN, "white", "partial, Spectrum"),
}


def look(action: Action) -> Look:
    """How a step of a strip is drawn, in the terminal and in a picture."""
    if action.kind == "partial":
        return _PARTIAL[action.predictor]
    return _FULL if action.kind == "full" else _NULL


def sign(action: Action) -> str:
    """What stands in the step's box: the number of its branch, or its letter."""
    return look(action).letter if action.branch is None else str(action.branch)


def legend(actions: tuple[Action, ...]) -> tuple[Look, ...]:
    """The looks that occur in `actions`, in a fixed order."""
    used = {look(action) for action in actions}
    return tuple(entry for entry in (_FULL, *_PARTIAL.values(), _NULL) if entry in used)
