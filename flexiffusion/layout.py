"""A loaded U-Net -> its units in execution order, numbered by branch.

A *unit* is a child of a block: a residual block, an attention, a down- or upsampler, the first convolution. Units are
grouped as in the original LDM layout (Rombach et al., arXiv 2112.10752, `openaimodel.UNetModel`): n input blocks, one
middle block, n output blocks. Output block j concatenates the skip of input block n-1-j to what enters it.

Branch b is the index of the deepest skip that a partial step still computes (DeepCache, arXiv 2312.00858, counted from
0): input blocks 0..b and the last b+1 output blocks run, all else is deep. At b = -1 only the output head runs.

Units are named by their place, as in LDM's state dictionaries: `input_blocks.4.1` is the second unit of input block 4,
whatever layout the network at hand has. A residual block or an attention can be dropped (AutoDiffusion, arXiv
2309.10438): its shortcut is what is left of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from .errors import ModelMismatch

Kind = Literal["diffusers", "ldm"]
Block = tuple[nn.Module, ...]

# Blocks whose forward calls `resnets`, `attentions` and the samplers as the LDM layout does. Left out on purpose: the
# K- and Skip- families, whose skips are counted otherwise or run beside the main path, and all video blocks.
_DOWN = {
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "SimpleCrossAttnDownBlock2D",
}
_UP = {"UpBlock2D", "CrossAttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"}
_MIDDLE = {"UNetMidBlock2D", "UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn"}

# Units that add what they compute to what enters them. Not the video ones: they mix frames behind the sum.
_RESIDUAL = {"ResBlock", "ResnetBlock2D"}
_ATTENTION = {"SpatialTransformer", "AttentionBlock", "Transformer2DModel", "Attention"}
_NOT_ADDING = {"VideoResBlock", "SpatialVideoTransformer"}


@dataclass(frozen=True, slots=True, eq=False)
class Shortcut:
    """What is left of a dropped unit: (projection(x) or x) / scale.

    Attributes:
        projection: a residual block's 1x1 convolution where the channels change; None: the identity.
        scale: what diffusers' units divide their sum by; nearly always 1.
        in_tuple: whether the unit returns its tensor in a tuple.
    """

    projection: nn.Module | None = None
    scale: float = 1.0
    in_tuple: bool = False


def shortcut(unit: nn.Module) -> Shortcut | None:
    """What is left of a unit that is dropped; None: it cannot be (a first convolution, a down- or upsampler)."""
    names = {base.__name__ for base in type(unit).__mro__}
    if names & _NOT_ADDING:
        return None
    if names & _RESIDUAL:
        resamples = (getattr(unit, name, None) for name in ("updown", "upsample", "downsample"))
        if any(found not in (None, False) for found in resamples):
            return None
        projection = getattr(unit, "skip_connection", None) or getattr(unit, "conv_shortcut", None)
        if isinstance(projection, nn.Identity):
            projection = None
        return Shortcut(projection, float(getattr(unit, "output_scale_factor", 1.0)))
    if names & _ATTENTION:
        if getattr(unit, "residual_connection", True) is not True:
            return None
        return Shortcut(None, float(getattr(unit, "rescale_output_factor", 1.0)), "Transformer2DModel" in names)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The units of one U-Net, grouped in the flat order of the LDM layout.

    Attributes:
        kind: which layout the network has.
        inputs: units of every input block; `inputs[b]` makes skip b; `inputs[0]` is the first convolution.
        middle: units of the middle block; empty where the network has none.
        outputs: units of every output block; `outputs[j]` reads skip n-1-j.
    """

    kind: Kind
    inputs: tuple[Block, ...]
    middle: Block
    outputs: tuple[Block, ...]
    _deep: tuple[Block, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.inputs)
        deep = tuple(
            tuple(
                unit
                for block in (*self.inputs[branch + 1 :], self.middle, *self.outputs[: count - 1 - branch])
                for unit in block
            )
            for branch in range(-1, count)
        )
        # without a middle block the deepest branch would skip nothing
        object.__setattr__(self, "_deep", tuple(units for units in deep if units))

    @property
    def branches(self) -> int:
        """Number of branches from 0 upward that skip anything; -1 comes on top. SD1.x and SD2.x 12, SDXL 9."""
        return len(self._deep) - 1

    @property
    def units(self) -> Block:
        """Every unit in execution order: what branch -1 skips."""
        return self._deep[0]

    def deep(self, branch: int) -> Block:
        """Units that a partial step of this branch skips, in execution order; the last one delivers the feature.

        The feature is what enters output block n-1-branch on the main path, before the skip is concatenated; at
        branch -1 what enters the output head. # (B, C, H, W)

        Raises:
            ModelMismatch: the network has no such branch.
        """
        if not -1 <= branch < self.branches:
            raise ModelMismatch(
                f"branch {branch}: this {self.kind} network has branches -1 to {self.branches - 1}. "
                f"Use a schedule made for a model with at least {branch + 1} branches"
            )
        return self._deep[branch + 1]

    @property
    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Every block with its name in the LDM layout, in execution order."""
        yield from ((f"input_blocks.{i}", block) for i, block in enumerate(self.inputs))
        yield "middle_block", self.middle
        yield from ((f"output_blocks.{j}", block) for j, block in enumerate(self.outputs))

    @property
    def droppable(self) -> dict[str, nn.Module]:
        """The units that a step can leave out, by name, in execution order."""
        return {f"{name}.{i}": unit for name, block in self.blocks for i, unit in enumerate(block) if shortcut(unit)}

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
                    f"dropped layer {name}: this {self.kind} network has no residual block or attention there. "
                    "Use a schedule made for this model family"
                )
        return tuple(known[name] for name in names)


def find_layout(unet: nn.Module) -> Layout:
    """The layout of a loaded U-Net. Reads modules only; touches nothing.

    Found are the LDM layout (`input_blocks`, `middle_block`, `output_blocks`: ldm, sgm, ComfyUI, A1111, Forge) and
    diffusers' `UNet2DModel` and `UNet2DConditionModel` with plain, attention or residual samplers.

    Raises:
        ModelMismatch: any other network, a transformer for example.
    """
    if all(isinstance(getattr(unet, name, None), nn.ModuleList) for name in ("input_blocks", "output_blocks")):
        layout = _ldm(unet)
    elif all(isinstance(getattr(unet, name, None), nn.ModuleList) for name in ("down_blocks", "up_blocks")):
        layout = _diffusers(unet)
    else:
        raise _mismatch(unet, "neither `input_blocks` and `output_blocks` nor `down_blocks` and `up_blocks`")
    if len(layout.inputs) != len(layout.outputs) or not layout.inputs:
        raise _mismatch(unet, f"{len(layout.inputs)} input blocks but {len(layout.outputs)} output blocks")
    if len(set(layout.units)) != len(layout.units):
        raise _mismatch(unet, "one module in two places")
    return layout


def _ldm(unet: nn.Module) -> Layout:
    def children(block: object, place: str, may_be_empty: bool = False) -> Block:
        units = tuple(block.children()) if isinstance(block, nn.Sequential | nn.ModuleList) else ()
        if not units and not may_be_empty:
            raise _mismatch(unet, f"no children in `{place}`, a {type(block).__name__}")
        return units

    middle = getattr(unet, "middle_block", None)
    return Layout(
        kind="ldm",
        inputs=tuple(children(block, f"input_blocks[{i}]") for i, block in enumerate(_list(unet, "input_blocks"))),
        middle=children(middle, "middle_block", may_be_empty=middle is None),
        outputs=tuple(children(block, f"output_blocks[{i}]") for i, block in enumerate(_list(unet, "output_blocks"))),
    )


def _diffusers(unet: nn.Module) -> Layout:
    first = getattr(unet, "conv_in", None)
    if not isinstance(first, nn.Module):
        raise _mismatch(unet, "no module `conv_in`")
    inputs: list[Block] = [(first,)]
    for i, block in enumerate(_list(unet, "down_blocks")):
        place = f"down_blocks[{i}]"
        inputs += _layers(unet, block, place, _DOWN)
        # a downsampler makes a skip of its own
        if sampler := _sampler(unet, block, "downsamplers", place):
            inputs.append(sampler)

    outputs: list[Block] = []
    for i, block in enumerate(_list(unet, "up_blocks")):
        place = f"up_blocks[{i}]"
        layers = _layers(unet, block, place, _UP)
        # an upsampler reads no skip: it belongs to the last layer of its level
        layers[-1] += _sampler(unet, block, "upsamplers", place)
        outputs += layers

    middle = getattr(unet, "mid_block", None)
    units: list[nn.Module] = []
    if middle is not None:
        _require(unet, middle, "mid_block", _MIDDLE)
        resnets, attentions = _list(middle, "resnets"), _list(middle, "attentions")
        if len(resnets) != len(attentions) + 1:
            raise _mismatch(unet, f"`mid_block` with {len(resnets)} resnets and {len(attentions)} attentions")
        units.append(resnets[0])
        for attention, resnet in zip(attentions, resnets[1:], strict=True):
            units += _present(attention, resnet)
    return Layout(kind="diffusers", inputs=tuple(inputs), middle=tuple(units), outputs=tuple(outputs))


def _layers(unet: nn.Module, block: nn.Module, place: str, known: set[str]) -> list[Block]:
    """One tuple (resnet, attention) or (resnet,) for each layer of a diffusers block."""
    _require(unet, block, place, known)
    resnets = _list(block, "resnets")
    attentions: list[nn.Module | None] = [*_list(block, "attentions")] or [None] * len(resnets)
    if not resnets or len(resnets) != len(attentions):
        raise _mismatch(unet, f"`{place}` with {len(resnets)} resnets and {len(attentions)} attentions")
    return [_present(resnet, attention) for resnet, attention in zip(resnets, attentions, strict=True)]


def _sampler(unet: nn.Module, block: nn.Module, name: str, place: str) -> Block:
    samplers = _present(*_list(block, name))
    if len(samplers) > 1:
        raise _mismatch(unet, f"{len(samplers)} modules in `{place}.{name}` where one is known")
    return samplers


def _require(unet: nn.Module, block: nn.Module, place: str, known: set[str]) -> None:
    # by name and not by import: the core must not load diffusers; bases count, so subclasses are welcome
    if known.isdisjoint(base.__name__ for base in type(block).__mro__):
        raise _mismatch(unet, f"`{place}` is a {type(block).__name__}, known are {', '.join(sorted(known))}")


def _list(module: nn.Module, name: str) -> list[nn.Module]:
    modules: Iterable[nn.Module] | None = getattr(module, name, None)
    return list(modules) if modules is not None else []


def _present(*modules: nn.Module | None) -> Block:
    return tuple(module for module in modules if module is not None)


def _mismatch(unet: nn.Module, found: str) -> ModelMismatch:
    return ModelMismatch(
        f"{type(unet).__name__}: not a U-Net that can be cut, found {found}. Known are the LDM layout "
        "(input_blocks, middle_block, output_blocks) and diffusers' UNet2DModel and UNet2DConditionModel"
    )
