"""U-Nets in the LDM layout (`input_blocks`, `middle_block`, `output_blocks`): ldm, sgm, ComfyUI, A1111, Forge."""

from __future__ import annotations

from torch import nn

from .layout import Block, Layout, mismatch
from .unet import unet_layout


def find(network: nn.Module) -> Layout | None:
    """The layout of such a U-Net; None: the network is no such one.

    Raises:
        ModelMismatch: a block without units, or lists of different lengths.
    """
    if not all(isinstance(getattr(network, name, None), nn.ModuleList) for name in ("input_blocks", "output_blocks")):
        return None

    def children(block: object, place: str, may_be_empty: bool = False) -> Block:
        units = tuple(block.children()) if isinstance(block, nn.Sequential | nn.ModuleList) else ()
        if not units and not may_be_empty:
            raise mismatch(network, f"no children in `{place}`, a {type(block).__name__}")
        return units

    def blocks(name: str) -> tuple[Block, ...]:
        return tuple(children(block, f"{name}[{i}]") for i, block in enumerate(getattr(network, name)))

    middle = getattr(network, "middle_block", None)
    middle_units = children(middle, "middle_block", may_be_empty=middle is None)
    return unet_layout(network, "ldm", blocks("input_blocks"), middle_units, blocks("output_blocks"))
