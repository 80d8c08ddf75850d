"""diffusers' `UNet2DModel` and `UNet2DConditionModel` with plain, attention or residual samplers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .layout import Block, Layout, mismatch
from .unet import unet_layout

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


def find(unet: nn.Module) -> Layout | None:
    """The layout of such a U-Net; None: the network is no such one.

    Raises:
        ModelMismatch: blocks of a class that is not known, or with other parts than those.
    """
    if not all(isinstance(getattr(unet, name, None), nn.ModuleList) for name in ("down_blocks", "up_blocks")):
        return None
    first = getattr(unet, "conv_in", None)
    if not isinstance(first, nn.Module):
        raise mismatch(unet, "no module `conv_in`")
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
            raise mismatch(unet, f"`mid_block` with {len(resnets)} resnets and {len(attentions)} attentions")
        units.append(resnets[0])
        for attention, resnet in zip(attentions, resnets[1:], strict=True):
            units += _present(attention, resnet)
    return unet_layout(unet, "diffusers", tuple(inputs), tuple(units), tuple(outputs))


def _layers(unet: nn.Module, block: nn.Module, place: str, known: set[str]) -> list[Block]:
    """One tuple (resnet, attention) or (resnet,) for each layer of a diffusers block."""
    _require(unet, block, place, known)
    resnets = _list(block, "resnets")
    attentions: list[nn.Module | None] = [*_list(block, "attentions")] or [None] * len(resnets)
    if not resnets or len(resnets) != len(attentions):
        raise mismatch(unet, f"`{place}` with {len(resnets)} resnets and {len(attentions)} attentions")
    return [_present(resnet, attention) for resnet, attention in zip(resnets, attentions, strict=True)]


def _sampler(unet: nn.Module, block: nn.Module, name: str, place: str) -> Block:
    samplers = _present(*_list(block, name))
    if len(samplers) > 1:
        raise mismatch(unet, f"{len(samplers)} modules in `{place}.{name}` where one is known")
    return samplers


def _require(unet: nn.Module, block: nn.Module, place: str, known: set[str]) -> None:
    # by name and not by import: the core must not load diffusers; bases count, so subclasses are welcome
    if known.isdisjoint(base.__name__ for base in type(block).__mro__):
        raise mismatch(unet, f"`{place}` is a {type(block).__name__}, known are {', '.join(sorted(known))}")


def _list(module: nn.Module, name: str) -> list[nn.Module]:
    modules: Iterable[nn.Module] | None = getattr(module, name, None)
    return list(modules) if modules is not None else []


def _present(*modules: nn.Module | None) -> Block:
    return tuple(module for module in modules if module is not None)
