"""U-Nets: their units in the flat order of the original LDM layout, numbered by branch.

Units are grouped as in the original LDM layout (Rombach et al., arXiv 2112.10752, `openaimodel.UNetModel`): n input
blocks, one middle block, n output blocks. Output block j concatenates the skip of input block n-1-j to what enters it.

Branch b is the index of the deepest skip that a partial step still computes (DeepCache, arXiv 2312.00858, counted from
0): input blocks 0..b and the last b+1 output blocks run, all else is deep. The feature is what enters output block
n-1-b on the main path, before the skip is concatenated; at branch -1 what enters the output head. # (B, C, H, W)

Units are named by their place, as in LDM's state dictionaries: `input_blocks.4.1` is the second unit of input block 4,
whatever layout the network at hand has.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .layout import Block, Layout, mismatch
from .shortcut import shortcut


@dataclass(frozen=True, eq=False)
class UNetLayout(Layout):
    """The units of one U-Net.

    Attributes:
        inputs: units of every input block; `inputs[b]` makes skip b; `inputs[0]` is the first convolution.
        middle: units of the middle block; empty where the network has none.
        outputs: units of every output block; `outputs[j]` reads skip n-1-j.
    """

    inputs: tuple[Block, ...]
    middle: Block
    outputs: tuple[Block, ...]

    @property
    def droppable(self) -> dict[str, nn.Module]:
        return {f"{name}.{i}": unit for name, block in self.blocks for i, unit in enumerate(block) if shortcut(unit)}


def unet_layout(
    unet: nn.Module, kind: str, inputs: tuple[Block, ...], middle: Block, outputs: tuple[Block, ...]
) -> UNetLayout:
    """The layout with these units.

    Raises:
        ModelMismatch: their numbers do not fit to each other, or one module stands in two places.
    """
    count = len(inputs)
    if count != len(outputs) or not count:
        raise mismatch(unet, f"{count} input blocks but {len(outputs)} output blocks")
    blocks = (
        *((f"input_blocks.{i}", block) for i, block in enumerate(inputs)),
        ("middle_block", middle),
        *((f"output_blocks.{j}", block) for j, block in enumerate(outputs)),
    )
    deep = (
        tuple(unit for block in (*inputs[branch + 1 :], middle, *outputs[: count - 1 - branch]) for unit in block)
        for branch in range(-1, count)
    )
    # without a middle block the deepest branch would skip nothing
    layout = UNetLayout(kind, blocks, tuple(units for units in deep if units), inputs, middle, outputs)
    if len(set(layout.units)) != len(layout.units):
        raise mismatch(unet, "one module in two places")
    return layout
