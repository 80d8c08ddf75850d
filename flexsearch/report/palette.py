"""How the final table's rows look in pictures: the colours of `flexiffusion.strip` and their own, and a mark each."""

from __future__ import annotations

from flexiffusion.strip import BLUE, GREEN, ORANGE, SKY
from flexsearch.report.rows import RowKind

BLACK = "#000000"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#9A9A9A"

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
