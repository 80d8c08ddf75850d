"""The family of a model file by its header, and the presets that the list then has."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from pack import part

headers = part("flexiffusion.headers")


def written(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A safetensors file of these tensors, without their bytes: only its header is ever read."""
    header = {name: {"dtype": "F16", "shape": list(shape), "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def unet(blocks: int, width: int) -> dict[str, tuple[int, ...]]:
    return {
        **{f"model.diffusion_model.input_blocks.{i}.0.in_layers.2.weight": (320, 320, 3, 3) for i in range(blocks)},
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, width),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    }


def blocks(name: str, count: int, width: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}{name}.{i}.{layer}.weight": (3 * width, width)
        for i in range(count)
        for layer in ("attn.qkv", "attn.proj", "mlp.up")
    }


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        (unet(12, 768), "sd15"),
        (unet(12, 1024), "sd21"),
        (unet(9, 2048), "sdxl"),
        (unet(12, 1280), None),  # the refiner of SDXL
        (blocks("double_blocks", 19, 3072) | blocks("single_blocks", 38, 3072), "flux"),
        (
            blocks("double_blocks", 19, 3072)
            | blocks("single_blocks", 38, 3072)
            | {"distilled_guidance_layer.in_proj.weight": (5120, 64)},
            "chroma",
        ),
        (blocks("layers", 30, 3840, "model.diffusion_model."), "z-image"),
        (blocks("joint_blocks", 38, 2432, "model.diffusion_model."), "sd35-large"),
        (blocks("transformer_blocks", 60, 3072), "qwen-image"),
        (blocks("blocks", 40, 5120), "wan-14b"),
        (blocks("blocks", 41, 5120), None),
        ({"lora_up.weight": (4, 4)}, None),
    ],
)
def test_the_family_of_a_file(tmp_path: Path, shapes: dict[str, tuple[int, ...]], family: str | None) -> None:
    assert headers.family_of_file(written(tmp_path / "model.safetensors", shapes)) == family


@pytest.mark.parametrize(
    "content", [b"", b"short", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 4) + b"[1]\xff", b"GGUF" * 8]
)
def test_files_that_tell_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    assert headers.family_of_file(path) is None
    assert headers.family_of_file(tmp_path / "not there") is None


def test_a_header_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for text in (b"[]", b"{}", b'{"a": 1}', b'{"a": {"shape": null}}'):
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        assert headers.family_of_file(path) is None


def test_the_real_network_agrees_with_its_file(tmp_path: Path) -> None:
    """What the header of a file says and what a loaded network says are one family."""
    import diffusers

    fit = part("flexiffusion.fit")
    with torch.device("meta"):
        network = diffusers.UNet2DConditionModel(cross_attention_dim=768)
    assert fit.family_of(network) == "sd15"
    widths: Any = {name: tuple(p.shape) for name, p in network.named_parameters() if name.endswith("attn2.to_k.weight")}
    found = unet(12, 0) | {f"model.diffusion_model.{name}": shape for name, shape in widths.items()}
    del found["model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"]
    assert headers.family_of_file(written(tmp_path / "a.safetensors", found)) == "sd15"
