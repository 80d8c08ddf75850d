"""Diffusion transformers: the trunk is one run of blocks, whatever the host calls its lists.

Nothing else is known of a class: the blocks are called once and in this order by every trunk that diffusers, ComfyUI,
Forge and Forge Neo have, and a partial step lets the network's own loop run, with the skipped blocks replaced (see
`cut`). Block 0 is the first of the first list. Refiners before the trunk, embeddings and the output head always run.

Branch b >= 0 runs blocks 0 to b; what is remembered is the *change* that the others make to what block b returns. At
b = -1 no block runs and the whole of what the last block returns is remembered: all streams, text and image.

VACE (arXiv 2503.07598) has blocks beside the trunk, each of which reads what the one before it made, and makes a hint
that the host adds to what one block of the trunk returned. At -1 hints are added to placeholders, so these blocks are
skipped too, unless there is one for the last block. From 0 on they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from .layout import Block, Layout, mismatch

# Names of the block lists in the order in which a forward goes through them. The first row of which a network has one
# is taken; more special names come first. A list may be absent or empty (HunyuanVideo 1.5 has no single blocks).
LISTS: tuple[tuple[str, ...], ...] = (
    ("double_blocks", "single_blocks"),  # Flux, Flux 2, Chroma, HunyuanVideo in ComfyUI and Forge
    ("double_layers", "single_layers"),  # AuraFlow in ComfyUI
    ("double_stream_blocks", "single_stream_blocks"),  # HiDream
    ("double_stream_layers", "single_stream_layers"),  # Boogu in ComfyUI
    ("joint_transformer_blocks", "transformer_blocks", "single_transformer_blocks"),  # diffusers: most of them
    ("visual_transformer_blocks",),  # Kandinsky 5
    ("joint_blocks",),  # SD3 in ComfyUI and Forge
    ("layers",),  # Lumina 2, Z-Image, Ernie
    ("blocks",),  # Wan, Cosmos-Predict2, Anima, Krea 2, PixArt in ComfyUI
)
FEWEST_BLOCKS = 4  # with fewer a "partial step" is no small part of a full one, and the trunk was likely told wrong


@dataclass(frozen=True, eq=False)
class TransformerLayout(Layout):
    """The blocks of one transformer; `lists` has their number in each list, such as (19, 38) of Flux."""

    lists: tuple[int, ...]

    @property
    def units(self) -> Block:
        """The trunk's blocks in execution order; -1 may skip others too."""
        return tuple(block for _, (block,) in self.blocks)

    def base(self, branch: int) -> nn.Module | None:
        return self.units[branch] if branch >= 0 else None

    @property
    def droppable(self) -> dict[str, nn.Module]:
        return {name: block for name, (block,) in self.blocks}


def names_of(network: nn.Module) -> tuple[str, ...]:
    """The block lists that a network has; empty: it has none, so it is no transformer that is known."""
    for row in LISTS:
        present = tuple(name for name in row if isinstance(getattr(network, name, None), nn.ModuleList | nn.ModuleDict))
        if present:
            return present
    return ()


def find(network: nn.Module) -> Layout | None:
    """The layout of a transformer; None: the network has no block list of a known name.

    Raises:
        ModelMismatch: its blocks are no lists, too few, or one of them stands in two places.
    """
    names = names_of(network)
    if not names:
        return None
    for name in names:
        if not isinstance(getattr(network, name), nn.ModuleList):
            raise mismatch(network, f"`{name}`, a {type(getattr(network, name)).__name__} and no list of blocks")
    lists = tuple(len(getattr(network, name)) for name in names)
    units: Block = tuple(_blocks(network, names))
    if len(units) < FEWEST_BLOCKS:
        raise mismatch(network, f"{len(units)} blocks in {' and '.join(names)}, of which it takes {FEWEST_BLOCKS}")
    if len(set(units)) != len(units):
        raise mismatch(network, "one module in two places")
    return TransformerLayout(
        kind="transformer",
        blocks=tuple((f"blocks.{i}", (unit,)) for i, unit in enumerate(units)),
        skipped=((*_needless(network, len(units)), *units), *(units[branch + 1 :] for branch in range(len(units) - 1))),
        lists=tuple(count for count in lists if count),
    )


def _blocks(network: nn.Module, names: tuple[str, ...]) -> Iterator[nn.Module]:
    for name in names:
        yield from getattr(network, name)


def _needless(network: nn.Module, count: int) -> Block:
    """VACE's blocks beside a trunk of so many blocks, where no hint of theirs is added to what the last one returns.

    diffusers lists the blocks that get hints in its configuration, ComfyUI in a mapping.
    """
    blocks = getattr(network, "vace_blocks", None)
    places = getattr(getattr(network, "config", None), "vace_layers", None)
    places = list(getattr(network, "vace_layers_mapping", ()) if places is None else places)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) != len(places) or count - 1 in places:
        return ()
    return tuple(blocks)
