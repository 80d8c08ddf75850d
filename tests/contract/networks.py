"""The networks that every contract test runs on: tiny widths, but the level and layer counts of the real ones.

Those in the LDM layout are made from ldm_unet.py; where ldm itself is installed, from its own code too ("-original",
seen by test_ldm.py and by slow tests).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from ldm_unet import UNetModel
from torch import Tensor, nn

WIDTHS = (8, 16, 16, 16)
TOKENS, CONTEXT = 5, 8


@dataclass(frozen=True)
class Network:
    """One network with what a test must know to call it.

    `conditioning(rows)` draws keyword arguments for a batch; latent sides must be a `multiple`, 1 allows odd ones.
    """

    name: str
    unet: nn.Module
    kind: str
    branches: int
    channels: int
    conditioning: Callable[[int], dict[str, Any]]
    multiple: int

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Latent sizes to test: the usual one, then an unusual one, then others."""
        side = self.multiple
        return [(8, 16), (9, 13), (16, 24), (1, 7), (2, 1)] if side == 1 else [(side, side), (side, 2 * side)]

    def sample(self, rows: int = 2, size: tuple[int, int] | None = None, seed: int = 0) -> Tensor:
        size = size or self.sizes[0]
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(rows, self.channels, *size, generator=generator)

    def __call__(self, sample: Tensor, conditioning: Mapping[str, Any], timestep: int = 500, **more: Any) -> Tensor:
        with torch.no_grad():
            if self.kind == "ldm":
                timesteps = torch.full((sample.shape[0],), timestep, device=sample.device)
                return self.unet(sample, timesteps=timesteps, **conditioning)
            return self.unet(sample, timestep, **conditioning, **more, return_dict=False)[0]


def _nothing(rows: int) -> dict[str, Any]:
    return {}


def _text(rows: int) -> dict[str, Any]:
    return {"encoder_hidden_states": torch.randn(rows, TOKENS, CONTEXT)}


def _context(rows: int) -> dict[str, Any]:
    return {"context": torch.randn(rows, TOKENS, CONTEXT)}


def _label(name: str) -> Callable[[int], dict[str, Any]]:
    return lambda rows: {name: torch.randint(10, (rows,))}


def _text_and_label(rows: int) -> dict[str, Any]:
    return _text(rows) | _label("class_labels")(rows)


def _sdxl(rows: int) -> dict[str, Any]:
    more = {"text_embeds": torch.randn(rows, 4), "time_ids": torch.rand(rows, 6)}
    return _text(rows) | {"added_cond_kwargs": more}


def _unconditional(**config: Any) -> nn.Module:
    return diffusers.UNet2DModel(
        **({"block_out_channels": WIDTHS, "norm_num_groups": 4, "attention_head_dim": 4} | config)
    )


def _conditional(**config: Any) -> nn.Module:
    common = {
        "block_out_channels": WIDTHS,
        "norm_num_groups": 4,
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": 2,
    }
    return diffusers.UNet2DConditionModel(**(common | config))


def ldm_network(make: Callable[..., nn.Module] = UNetModel, **config: Any) -> nn.Module:
    """A network in the LDM layout: the tests' own, or `make` with the same arguments."""
    common = {"image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": 2}
    return make(**(common | config))


def _cross(count: int, of: int, direction: str) -> tuple[str, ...]:
    """`count` levels with text attention from the high resolutions downward, and plain ones below (SD1.x)."""
    names = ("CrossAttnDownBlock2D",) * count + ("DownBlock2D",) * (of - count)
    return names if direction == "down" else tuple(name.replace("Down", "Up") for name in reversed(names))


SPATIAL = {"use_spatial_transformer": True, "context_dim": CONTEXT, "legacy": False}
_SDXL_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
_IF_DOWN = ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3)

# name -> (layout, branches, input channels, multiple of sizes, conditioning, network)
NETWORKS: dict[str, tuple[str, int, int, int, Callable[[int], dict[str, Any]], Callable[[], nn.Module]]] = {
    "ddpm-cifar10": ("diffusers", 12, 3, 8, _nothing, lambda: _unconditional(
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0,
    )),
    "ddpm-256": ("diffusers", 18, 3, 32, _nothing, lambda: _unconditional(
        block_out_channels=(8, 8, 16, 16, 16, 16),
        down_block_types=(*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
    )),
    "ddpm-residual-samplers": ("diffusers", 12, 3, 8, _label("class_labels"), lambda: _unconditional(
        downsample_type="resnet", upsample_type="resnet", num_class_embeds=10, add_attention=False,
        resnet_time_scale_shift="scale_shift",
    )),
    "ddpm-residual-blocks": ("diffusers", 6, 3, 8, _nothing, lambda: _unconditional(
        block_out_channels=(8, 16), layers_per_block=2,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    )),
    "ddpm-no-middle": ("diffusers", 11, 3, 8, _nothing, lambda: _unconditional(mid_block_type=None)),
    "ldm-unconditional": ("diffusers", 12, 3, 8, _nothing, lambda: _unconditional()),
    "sd1": ("diffusers", 12, 4, 1, _text, lambda: _conditional()),
    "sd1-inpaint": ("diffusers", 12, 9, 1, _text, lambda: _conditional(in_channels=9)),
    "sd2": ("diffusers", 12, 4, 1, _text, lambda: _conditional(
        attention_head_dim=(2, 4, 8, 8), use_linear_projection=True,
    )),
    "sdxl": ("diffusers", 9, 4, 1, _sdxl, lambda: _conditional(
        block_out_channels=(8, 16, 16), down_block_types=_SDXL_BLOCKS,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 4), attention_head_dim=(2, 4, 4), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=28,
    )),
    "ldm-text": ("diffusers", 12, 4, 1, _text, lambda: _conditional(
        down_block_types=_cross(3, 4, "down"), up_block_types=_cross(3, 4, "up"), attention_head_dim=8,
    )),
    "class-conditional": ("diffusers", 9, 3, 1, _text_and_label, lambda: _conditional(
        in_channels=3, out_channels=3, block_out_channels=(8, 16, 16), num_class_embeds=10,
        down_block_types=_cross(2, 3, "down"), up_block_types=_cross(2, 3, "up"),
    )),
    "deepfloyd-if": ("diffusers", 16, 3, 8, _text, lambda: _conditional(
        in_channels=3, out_channels=6, layers_per_block=3, down_block_types=_IF_DOWN,
        up_block_types=tuple(
            name.replace("Downsample", "Upsample").replace("Down", "Up") for name in reversed(_IF_DOWN)
        ),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
    )),
}  # fmt: skip

# name -> (branches, conditioning, configuration)
LDM_NETWORKS: dict[str, tuple[int, Callable[[int], dict[str, Any]], dict[str, Any]]] = {
    "compvis-sd1": (12, _context, dict(
        attention_resolutions=[4, 2, 1], channel_mult=[1, 2, 2, 2], num_heads=4, use_checkpoint=True, **SPATIAL,
    )),
    "compvis-sd2": (12, _context, dict(
        attention_resolutions=[4, 2, 1], channel_mult=[1, 2, 2, 2], num_head_channels=16,
        use_linear_in_transformer=True, **SPATIAL,
    )),
    "compvis-ldm4": (12, _context, dict(
        attention_resolutions=[8, 4, 2], channel_mult=[1, 2, 2, 2], num_heads=1, **SPATIAL,
    )),
    "compvis-three-levels": (9, _context, dict(
        attention_resolutions=[4, 2], channel_mult=[1, 2, 2], num_head_channels=16, **SPATIAL,
    )),
    "compvis-class-conditional": (12, _label("y"), dict(
        attention_resolutions=[4, 2], channel_mult=[1, 2, 2, 2], num_heads=2, num_classes=10,
        use_scale_shift_norm=True, resblock_updown=True,
    )),
}  # fmt: skip


def original() -> Any:
    """ldm's own network class, an extra (pyproject.toml); None where it is not installed."""
    if importlib.util.find_spec("ldm") is None:
        return None
    return importlib.import_module("ldm.modules.diffusionmodules.openaimodel").UNetModel


for _made, _class in (("", UNetModel), ("-original", original())):
    if _class is not None:
        NETWORKS |= {
            name + _made: ("ldm", branches, 4, 8, conditioning, functools.partial(ldm_network, _class, **config))
            for name, (branches, conditioning, config) in LDM_NETWORKS.items()
        }


def build(name: str) -> Network:
    """One network of the table, with no weight at zero: LDM starts its last layers at zero, which would hide faults."""
    kind, branches, channels, multiple, conditioning, make = NETWORKS[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        unet = make().eval().requires_grad_(False)
        for parameter in unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return Network(name, unet, kind, branches, channels, conditioning, multiple)


def dictionaries(unet: nn.Module) -> list[tuple[int, list[tuple[str, Any]], Any]]:
    """Every module's attributes, hooks and forward, by identity and in order."""

    def identity(value: object) -> Any:
        if isinstance(value, dict):
            return [(key, id(item)) for key, item in value.items()]
        return id(value)

    return [
        (id(module), [(name, identity(value)) for name, value in vars(module).items()], module.forward)
        for module in unet.modules()
    ]
