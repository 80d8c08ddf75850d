"""How the final table's rows look in every picture: a colour, and a mark, which the PNG and the page draw alike."""

from __future__ import annotations

import math
from typing import NamedTuple

from flexiffusion.strip import BLUE, GREEN, ORANGE, SKY
from flexsearch.report.rows import RowKind

BLACK = "#000000"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#9A9A9A"  # what the search saw
DIM = "#5B5B5B"  # words beside the main ones
GRID = "#E4E4E4"

Outline = tuple[tuple[float, float], ...]  # corners around (0, 0), y downwards, about 12 wide


class RowLook(NamedTuple):
    """A kind of row: its colour, its mark, and whether that is drawn as an outline; `width` is its line's."""

    colour: str
    mark: Outline
    hollow: bool = False
    width: float = 1.4


def _around(corners: int, radius: float, inner: float | None = None, turn: float = 0.0) -> Outline:
    """A regular polygon, or a star with the corners between at `inner`; the first corner above, turned clockwise."""
    radii = [radius] if inner is None else [radius, inner]
    count = corners * len(radii)
    angles = [math.tau * (i / count + turn) for i in range(count)]
    ends = [radii[i % len(radii)] for i in range(count)]
    return tuple((round(r * math.sin(a), 2), round(-r * math.cos(a), 2)) for a, r in zip(angles, ends, strict=True))


def _turned(mark: Outline) -> Outline:
    """By a quarter, counterclockwise."""
    return tuple((y, -x) for x, y in mark)


_SQUARE = ((-5.0, -5.0), (5.0, -5.0), (5.0, 5.0), (-5.0, 5.0))
_TRIANGLE = ((0.0, -7.0), (7.0, 5.5), (-7.0, 5.5))
_ARM, _END = 2.0, 6.5  # half the width of a cross's arms, and how far they reach
_CROSS = ((-_ARM, -_END), (_ARM, -_END), (_ARM, -_ARM), (_END, -_ARM), (_END, _ARM), (_ARM, _ARM),
          (_ARM, _END), (-_ARM, _END), (-_ARM, _ARM), (-_END, _ARM), (-_END, -_ARM), (-_ARM, -_ARM))  # fmt: skip
_DIAGONAL = tuple(((x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5)) for x, y in _CROSS)

KIND_LOOKS: dict[RowKind, RowLook] = {
    "teacher": RowLook(BLACK, _around(5, 9.0, inner=3.9)),
    "found": RowLook(VERMILION, _around(32, 6.0), width=2.4),
    "plain": RowLook(BLUE, _SQUARE),
    "uni_pc": RowLook(BLUE, _DIAGONAL),
    "dpmpp_3m": RowLook(BLUE, _around(5, 7.0)),
    "plain_fitted": RowLook(GREEN, _SQUARE),
    # An outline, and larger: a searched placement often is the plain one, whose mark must show through.
    "plain_searched": RowLook(GREEN, _around(4, 11.0), hollow=True),
    "placed_fitted": RowLook(GREEN, _around(6, 7.0)),
    "deepcache": RowLook(PURPLE, _TRIANGLE),
    "spectrum": RowLook(ORANGE, _turned(_turned(_TRIANGLE))),
    "easycache": RowLook(SKY, _CROSS),
    "taylorseer": RowLook(PURPLE, _turned(_TRIANGLE)),
    "first_block_cache": RowLook(ORANGE, _turned(_turned(_turned(_TRIANGLE)))),
}
