"""What a layout is: the units of a loaded network in execution order, and which of them a partial step passes by.

A *unit* is a module that a partial step can skip: in a U-Net a child of a block (a residual block, an attention, a
down- or upsampler, the first convolution), in a transformer a whole block. Branch b says how much of the network a
partial step still computes; at b = -1 only the output head runs, in every network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..errors import ModelMismatch

Block = tuple[nn.Module, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """The units of one network.

    Attributes:
        kind: which layout the network has: "ldm", "diffusers" (U-Nets) or "transformer".
        blocks: every block with its name, in execution order.
        skipped: for every branch from -1 upward the units that a partial step skips, in execution order.
    """

    kind: str
    blocks: tuple[tuple[str, Block], ...]
    skipped: tuple[Block, ...]

    @property
    def branches(self) -> int:
        """Number of branches from 0 upward that skip anything; -1 comes on top. SD1.x and SD2.x 12, SDXL 9, Flux 56."""
        return len(self.skipped) - 1

    @property
    def units(self) -> Block:
        """Every unit in execution order: what branch -1 skips."""
        return self.skipped[0]

    def deep(self, branch: int) -> Block:
        """Units that a partial step of this branch skips, in execution order; the last one delivers the feature.

        Raises:
            ModelMismatch: the network has no such branch.
        """
        if not -1 <= branch < self.branches:
            raise ModelMismatch(
                f"branch {branch}: this {self.kind} network has branches -1 to {self.branches - 1}. "
                f"Use a schedule made for a model with at least {branch + 1} branches"
            )
        return self.skipped[branch + 1]

    def base(self, branch: int) -> nn.Module | None:
        """The unit to whose output the feature of this branch is added; None: the feature is the output itself."""
        return None

    @property
    def droppable(self) -> dict[str, nn.Module]:
        """The units that a step can leave out, by name, in execution order."""
        return {}

    @property
    def reached(self) -> dict[str, int | None]:
        """The lowest branch at which a partial step runs each droppable unit; None: only full steps do."""

        def lowest(unit: nn.Module) -> int | None:
            return next((branch for branch in range(-1, self.branches) if unit not in self.deep(branch)), None)

        return {name: lowest(unit) for name, unit in self.droppable.items()}

    def named(self, names: Iterable[str]) -> Block:
        """The droppable units of these names.

        Raises:
            ModelMismatch: there is no such unit, or it cannot be dropped.
        """
        known = self.droppable
        for name in names:
            if name not in known:
                raise ModelMismatch(
                    f"dropped unit {name}: this {self.kind} network has none of that name that can be left out. "
                    "Use a schedule made for this model family"
                )
        return tuple(known[name] for name in names)


def mismatch(network: nn.Module, found: str) -> ModelMismatch:
    """The refusal of a network that has none of the known layouts."""
    return ModelMismatch(
        f"{type(network).__name__}: not a network that can be cut, found {found}. Known are U-Nets in the LDM layout "
        "(input_blocks, middle_block, output_blocks), diffusers' UNet2DModel and UNet2DConditionModel, transformers "
        "with their blocks in one or two lists (transformer_blocks, double_blocks, joint_blocks, layers, blocks ...)"
    )
