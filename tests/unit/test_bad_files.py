"""Every kind of file that is no checkpoint, or not all of one, gets its own message; docs/checkpoints.md lists them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexsearch.errors import ModelError
from flexsearch.models.ldm_keys import UNET
from flexsearch.models.load import load_model
from tools.make_random_checkpoint import write

Tensors = dict[str, Tensor]
FIRST = f"{UNET}input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("good") / "sd15.safetensors", "sd15")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("good") / "sdxl.safetensors", "sdxl")


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(path), "cpu")
    assert caught.value.place == str(path) and caught.value.remedy
    return f"{caught.value.problem}. {caught.value.remedy}"


def pickled(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


# name of the file, what to write into it, what the message must say
CONTENTS: tuple[tuple[str, bytes | Callable[[Path], None], str], ...] = (
    ("model.ckpt", pickled, r"\.ckpt files are pickles.*not loaded.*Save it as \.safetensors"),
    ("model.pt", pickled, r"\.pt files are pickles"),
    ("renamed.safetensors", pickled, "a pickle in spite of its name"),
    ("old.safetensors", b"\x80\x02}q\x00.", "a pickle in spite of its name"),
    ("empty.safetensors", b"", "the file is empty"),
    ("short.safetensors", b"\x01\x02", "it has 2 bytes"),
    ("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "Git LFS pointer"),
    ("page.safetensors", b"<!DOCTYPE html><html><body>Log in</body></html>", "web page.*logged in"),
    ("error.safetensors", b'{"error":"Unauthorized","message":"log in"}', "site's error message"),
    ("quantised.gguf", b"GGUF\x03\x00\x00\x00", "GGUF"),
    ("named.safetensors", b"GGUF\x03\x00\x00\x00", "GGUF"),
    ("text.safetensors", b"this is no checkpoint at all", "does not begin with a safetensors header"),
    ("model.safetensors.crdownload", b"x" * 100, "download that has not finished"),
    ("broken.safetensors", struct.pack("<Q", 4) + b"{x:}" + b"0" * 8, "header is damaged"),
    ("list.safetensors", struct.pack("<Q", 2) + b"[]", "header is damaged"),
    ("none.safetensors", struct.pack("<Q", 2) + b"{}", "holds no tensors"),
)


@pytest.mark.parametrize(("name", "content", "message"), CONTENTS)
def test_other_contents(name: str, content: bytes | Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    assert_matches(message, refusal(path))


def assert_matches(message: str, found: str) -> None:
    assert re.search(message, found, re.DOTALL), found


class TestHalfAFile:
    def test_cut_off(self, sd15: Path, tmp_path: Path) -> None:
        path = tmp_path / "cut.safetensors"
        packed = sd15.read_bytes()
        path.write_bytes(packed[: len(packed) // 2])
        assert f"it is cut off: {len(packed) // 2:,} of {len(packed):,} bytes are there (50%)" in refusal(path)

    def test_cut_off_in_the_header(self, sd15: Path, tmp_path: Path) -> None:
        path = tmp_path / "cut.safetensors"
        path.write_bytes(sd15.read_bytes()[:5000])
        assert "cut off inside its own header" in refusal(path)

    def test_half_copied_into_reserved_space(self, sd15: Path, tmp_path: Path) -> None:
        path = tmp_path / "half.safetensors"
        packed = sd15.read_bytes()
        path.write_bytes(packed[: len(packed) // 2] + bytes(len(packed) - len(packed) // 2))
        assert "its last 1 MiB holds nothing but zeros: it was only half copied" in refusal(path)

    def test_two_files_in_one(self, sd15: Path, tmp_path: Path) -> None:
        path = tmp_path / "long.safetensors"
        path.write_bytes(sd15.read_bytes() + b"tail")
        assert "4 bytes more than its header tells of" in refusal(path)


def only(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: torch.zeros(4, 4) for name in names}


def without(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}


def with_first(channels: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {FIRST: torch.zeros(32, channels, 3, 3)}


def also(**more: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name.replace("__", "."): tensor for name, tensor in more.items()}


# what the file is, how it is made from an SD1.x checkpoint, what the message must say
KINDS: tuple[tuple[str, Callable[[Tensors], Tensors], str], ...] = (
    ("LoRA by kohya", only("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"), "it is a LoRA, not"),
    ("LoRA by diffusers", only("unet.down_blocks.0.attentions.0.to_q.lora_A.weight"), "a LoRA, not a checkpoint"),
    ("LyCORIS", only("oft_unet_input_blocks_1.oft_blocks"), "a LyCORIS"),
    ("embedding", only("emb_params"), "a textual inversion embedding"),
    ("SDXL embedding", only("clip_l", "clip_g"), "a textual inversion embedding"),
    ("ControlNet", only("control_model.input_blocks.0.0.weight"), "a ControlNet"),
    ("AnimateDiff", only("down_blocks.0.motion_modules.0.norm.weight"), "a motion module|AnimateDiff"),
    ("IP-Adapter", only("ip_adapter.1.to_k_ip.weight", "image_proj.proj.weight"), "an IP-Adapter"),
    ("VAE", only("first_stage_model.decoder.conv_in.weight", "first_stage_model.quant_conv.bias"), "it is a VAE"),
    ("bare VAE", only("decoder.conv_in.weight", "encoder.conv_in.weight", "quant_conv.bias"), "it is a VAE"),
    ("text encoder", only("text_model.embeddings.token_embedding.weight"), "it is a text encoder"),
    ("U-Net alone", only("input_blocks.0.0.weight"), "a U-Net alone"),
    ("diffusers part", only("down_blocks.0.resnets.0.conv1.weight"), "one part of a diffusers pipeline"),
    ("Flux", only(f"{UNET}double_blocks.0.img_attn.qkv.weight"), "a diffusion transformer, of a family that is"),
    ("SD3", only(f"{UNET}joint_blocks.0.x_block.attn.qkv.weight"),
     "a diffusion transformer, of a family .* not read from one file.*diffusers folder.*inside ComfyUI"),
    ("something else", only("encoder.layer.0.weight", "pooler.weight"), "no checkpoint that is known here"),
    ("inpainting", with_first(9), r"an inpainting model \(9 input channels\).*text-to-image model"),
    ("depth", with_first(5), "a depth-to-image model"),
    ("upscaler", with_first(7), "an upscaler"),
    ("InstructPix2Pix", with_first(8), "an InstructPix2Pix model"),
    ("no text encoder", without("cond_stage_model."), "the U-Net of SD1.x, but no text encoder"),
    ("no VAE", without("first_stage_model."), "it has no VAE.*VAE baked in"),
    ("missing tensors", without(f"{UNET}input_blocks.4.0.in_layers."), "4 of the 1,122 tensors of an SD1.x .* missing"),
    ("missing block", without(f"{UNET}output_blocks.11."), "12 input blocks and 15 transformer blocks, as no family"),
    ("quantised", also(**{f"{UNET.replace('.', '__')}time_embed__0__weight": torch.zeros(128, 32, dtype=torch.int8)}),
     "its weights are quantised"),
    ("unlike shapes", also(**{f"{UNET.replace('.', '__')}time_embed__0__weight": torch.zeros(64, 32)}),
     r"has the shape \(64, 32\), where the rest of the file needs \(128, 32\)"),
    ("EDM", also(edm_mean=torch.zeros(4)), "EDM's noise levels"),
    ("unCLIP", also(embedder__model__visual__proj=torch.zeros(4)), "an unCLIP model"),
)  # fmt: skip


# Blocks of published networks, as ComfyUI names them, and the family's name in the message.
TRANSFORMERS: tuple[tuple[str, dict[str, int], int, tuple[str, ...], str], ...] = (
    (UNET, {"double_blocks": 19, "single_blocks": 38}, 3072, (), "FLUX.1"),
    ("", {"double_blocks": 19, "single_blocks": 38}, 3072, ("distilled_guidance_layer.in_proj.weight",), "Chroma"),
    (UNET, {"joint_blocks": 24}, 1536, (), "SD3 and SD3.5 Medium"),
    ("", {"transformer_blocks": 60}, 3072, (), "Qwen-Image"),
    ("", {"layers": 30}, 3840, ("cap_embedder.1.weight",), "Z-Image"),
    ("", {"blocks": 40}, 5120, (), "Wan 14B"),
    ("", {"transformer_blocks": 19, "single_transformer_blocks": 38}, 3072, (), "FLUX.1"),
)


@pytest.mark.parametrize(("prefix", "lists", "width", "more", "title"), TRANSFORMERS)
def test_transformers_are_named_by_their_blocks(
    prefix: str, lists: dict[str, int], width: int, more: tuple[str, ...], title: str, tmp_path: Path
) -> None:
    wide = torch.ones(1, width, dtype=torch.float16)
    tensors = {
        f"{prefix}{name}.{block}.{part}.weight": wide.clone()
        for name, count in lists.items()
        for block in range(count)
        for part in ("q", "k", "v")
    }
    tensors |= {f"{prefix}{name}.0.time.weight": torch.ones(1, 256) for name in lists}
    path = tmp_path / "network.safetensors"
    save_file(tensors | {f"{prefix}{name}": torch.ones(1) for name in more}, path)
    assert f"it is a diffusion transformer, of {title}, which is not read from one file. Give the" in refusal(path)


@pytest.mark.parametrize(("kind", "change", "message"), KINDS, ids=[kind for kind, _, _ in KINDS])
def test_other_kinds(kind: str, change: Callable[[Tensors], Tensors], message: str, sd15: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(change(load_file(sd15)), path)
    assert_matches(message, refusal(path))


def test_the_refiner(sdxl: Path, tmp_path: Path) -> None:
    """Its one text encoder is open_clip's, in the place of SDXL's first; its U-Net has other blocks."""
    tensors = {
        name.replace("conditioner.embedders.1.", "conditioner.embedders.0."): tensor
        for name, tensor in load_file(sdxl).items()
        if not name.startswith(("conditioner.embedders.0.", f"{UNET}input_blocks.8."))
    }
    save_file(tensors, tmp_path / "refiner.safetensors")
    assert "SDXL refiner" in refusal(tmp_path / "refiner.safetensors")


def test_a_distilled_sdxl(sdxl: Path, tmp_path: Path) -> None:
    last = f"{UNET}middle_block.1.transformer_blocks.9."
    tensors = {name: tensor for name, tensor in load_file(sdxl).items() if not name.startswith(last)}
    save_file(tensors, tmp_path / "small.safetensors")
    found = refusal(tmp_path / "small.safetensors")
    assert "9 input blocks and 69 transformer blocks" in found and "diffusers folder" in found


def test_every_message_is_in_the_documentation() -> None:
    """The list that users look into is the one that the code gives."""
    listed = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for said in ("pickle", "cut off", "half copied", "a LoRA", "an inpainting model", "a diffusion transformer",
                 "SDXL refiner", "Git LFS pointer", "web page", "no VAE", "quantised", "EDM", "unCLIP"):  # fmt: skip
        assert said in listed, said
