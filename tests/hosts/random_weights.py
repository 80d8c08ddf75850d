"""Files that a host takes for SD 1.x: the real layout and text width, every level 320 wide, random weights.

Real shapes where hosts look at them (first convolution 320, text 768, 12 blocks, depth 1), but channel multipliers
1, 1, 1, 1: a quarter of the size and a tenth of the time. No weight is zero: LDM starts its last layers at zero, and
then the output would not depend on the deep blocks.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from ldm_unet import UNetModel
from safetensors.torch import save_file
from torch import Tensor, nn

WIDTH, TEXT = 320, 768
UNET = "model.diffusion_model."
CLIP = "cond_stage_model.transformer."
VAE = "first_stage_model."


def write_checkpoint(path: Path, multipliers: tuple[int, ...] = (1, 1, 1, 1), channels: int = 4, seed: int = 0) -> None:
    """A checkpoint of one file: U-Net, CLIP ViT-L text encoder, a tiny autoencoder (TAESD's layout)."""
    torch.manual_seed(seed)
    parts = [(UNET, _unet(multipliers, channels)), (CLIP, _text_encoder()), (VAE, _taesd())]
    _save(path, {prefix + name: tensor for prefix, tensors in parts for name, tensor in tensors.items()})


def write_controlnet(path: Path, seed: int = 1) -> None:
    """A ControlNet for that U-Net (arXiv 2302.05543), whose last convolutions are not zero."""
    torch.manual_seed(seed)
    encoder = {
        name: tensor
        for name, tensor in _unet((1, 1, 1, 1), 4).items()
        if name.startswith(("time_embed.", "input_blocks.", "middle_block."))
    }
    hint, widths = {}, (3, 16, 16, 32, 32, 96, 96, 256, WIDTH)
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        hint |= _conv(f"input_hint_block.{2 * i}", before, after, 3)
    outs: dict[str, Tensor] = {}
    for i in range(12):
        outs |= _conv(f"zero_convs.{i}.0", WIDTH, WIDTH, 1)
    outs |= _conv("middle_block_out.0", WIDTH, WIDTH, 1)
    _save(path, {f"control_model.{name}": tensor for name, tensor in (encoder | hint | outs).items()})


def write_lora(path: Path, seed: int = 2) -> None:
    """A LoRA of rank 4 on every attention of the U-Net, strong enough to be seen."""
    torch.manual_seed(seed)
    tensors = {}
    for name, tensor in _unet((1, 1, 1, 1), 4).items():
        if name.endswith((".to_q.weight", ".to_v.weight")):
            key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            tensors[f"{key}.lora_down.weight"] = torch.randn(4, tensor.shape[1]) * 0.1
            tensors[f"{key}.lora_up.weight"] = torch.randn(tensor.shape[0], 4) * 0.1
            tensors[f"{key}.alpha"] = torch.tensor(4.0)
    _save(path, tensors)


def _unet(multipliers: tuple[int, ...], channels: int) -> dict[str, Tensor]:
    return _weights(
        UNetModel(
            image_size=32,
            in_channels=channels,
            out_channels=4,
            model_channels=WIDTH,
            attention_resolutions=[4, 2, 1],
            num_res_blocks=2,
            channel_mult=list(multipliers),
            num_heads=8,
            use_spatial_transformer=True,
            transformer_depth=1,
            context_dim=TEXT,
            use_checkpoint=False,
            legacy=False,
        )
    )


def _text_encoder() -> dict[str, Tensor]:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=TEXT,
        intermediate_size=3072,
        num_attention_heads=12,
        num_hidden_layers=12,
        vocab_size=49408,
        max_position_embeddings=77,
    )
    names = _weights(CLIPTextModel(config))
    return {name if name.startswith("text_model.") else f"text_model.{name}": names[name] for name in names}


def _taesd() -> dict[str, Tensor]:
    """TAESD's modules by their place in its two sequences: a plain convolution, or a block of three."""
    tensors: dict[str, Tensor] = {}
    encoder: list[Any] = [
        (3, 64),
        "b",
        (64, 64, 0),
        "b",
        "b",
        "b",
        (64, 64, 0),
        "b",
        "b",
        "b",
        (64, 64, 0),
        "b",
        "b",
        "b",
    ]
    encoder.append((64, 4))
    decoder: list[Any] = [None, (4, 64), None]
    for _ in range(3):
        decoder += ["b", "b", "b", None, (64, 64, 0)]
    decoder += ["b", (64, 3)]
    for side, layers in (("taesd_encoder", encoder), ("taesd_decoder", decoder)):
        for place, layer in enumerate(layers):
            if layer == "b":
                for inner in (0, 2, 4):
                    tensors |= _conv(f"{side}.{place}.conv.{inner}", 64, 64, 3)
            elif layer is not None:
                before, after, *bias = layer
                tensors |= _conv(f"{side}.{place}", before, after, 3, bias=not bias)
    return tensors


def _conv(name: str, before: int, after: int, size: int, bias: bool = True) -> dict[str, Tensor]:
    made = nn.Conv2d(before, after, size, bias=bias)
    return {f"{name}.{key}": tensor.detach() for key, tensor in made.state_dict().items()}


def _weights(module: nn.Module) -> dict[str, Tensor]:
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {n: t.half().contiguous() if t.is_floating_point() else t.contiguous() for n, t in tensors.items()}
    save_file(kept, path)
