"""A loaded network -> its units in execution order, as one run of blocks."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from . import diffusers_unet, ldm, transformer
from .layout import Block, Layout, mismatch
from .shortcut import Shortcut, shortcut

__all__ = ["FINDERS", "Block", "Layout", "Shortcut", "find_layout", "shortcut"]

FINDERS: list[Callable[[nn.Module], Layout | None]] = [ldm.find, diffusers_unet.find, transformer.find]
"""What knows a layout: each answers for the networks whose attributes it knows, and None for all others."""


def find_layout(network: nn.Module) -> Layout:
    """The layout of a loaded network, by the first of `FINDERS` that knows it. Reads modules only; touches nothing.

    Raises:
        ModelMismatch: no finder knows it, or it has the names of a layout but not its structure.
    """
    for find in FINDERS:
        layout = find(network)
        if layout is not None:
            return layout
    raise mismatch(network, "neither the blocks of a U-Net nor those of a transformer")
