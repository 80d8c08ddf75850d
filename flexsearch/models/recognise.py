"""From a file's tensor names and shapes to the family that it belongs to, or to what it is instead."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from flexsearch.errors import ModelError
from flexsearch.models.ldm_keys import FAMILIES, UNET, VAE, CheckpointShape, Family, TextShape, unet_tensors
from flexsearch.models.safetensors_header import Tensor

FIRST = f"{UNET}input_blocks.0.0.weight"
KNOWN = "SD1.x, SD2.x and SDXL checkpoints in one .safetensors file"
WHOLE = f"Give a whole checkpoint: {KNOWN}, or a diffusers folder"
FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")

# The number of input channels tells what is concatenated to the latent.
CHANNELS = {
    5: "a depth-to-image model",
    7: "an upscaler",
    8: "an InstructPix2Pix model",
    9: "an inpainting model",
}

# Pieces of names that only one kind of file has, and what it is; the first that fits counts.
OTHER_KINDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("lora_unet_", "lora_te_", "lora_te1_", ".lora_up.", ".lora_down.", ".lora_A.", ".lora_B."), "a LoRA"),
    ((".hada_w1_a", ".lokr_w1", ".oft_blocks", ".oft_diag"), "a LyCORIS (LoHa, LoKr or OFT)"),
    (("control_model.", "controlnet_cond_embedding.", "input_hint_block."), "a ControlNet"),
    (("motion_modules.",), "an AnimateDiff motion module"),
    (("ip_adapter.", "image_proj."), "an IP-Adapter"),
    (("double_blocks.", "single_blocks.", "joint_blocks.", "blocks.0.attn", "transformer_blocks.0.attn.", "adaLN_mod"),
     "a diffusion transformer (Flux, SD3 or alike), which has no skips to cut at"),
    (("down_blocks.0.",), "one part of a diffusers pipeline"),
)  # fmt: skip
EMBEDDINGS = {"emb_params", "string_to_param", "clip_l", "clip_g"}  # whole names

_UNIT = re.compile(
    r"(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.(\d+)\.(?:transformer_blocks\.(\d+)|(op|conv)\.)?"
)
Blocks = dict[tuple[str, int], tuple[int, bool]]


def canonical(names: Iterable[str]) -> dict[str, str]:
    """The names that `ldm_keys` gives -> those in the file, where tools have written text encoders otherwise."""
    names = set(names)
    sdxl = any(name.startswith("conditioner.embedders.1.") for name in names)
    found = {}
    for name in names:
        usual = name
        for prefix in ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."):
            if name.startswith(prefix) and not name.startswith(f"{prefix}text_"):
                usual = f"{prefix}text_model.{name.removeprefix(prefix)}"  # as transformers named them before 4.2
        if not sdxl and name.startswith("conditioner.embedders.0.model."):
            usual = "cond_stage_model.model." + name.removeprefix("conditioner.embedders.0.model.")  # SD2.x by sgm
        found[usual] = name
    return found


def recognise(path: Path, tensors: Mapping[str, Tensor]) -> CheckpointShape:
    """The family and widths of an LDM checkpoint, every needed tensor of which is there, in the right shape.

    `tensors` by canonical name. Raises ModelError that says what the file is instead, or what is missing.
    """
    first = tensors.get(FIRST)
    if first is None or len(first.shape) != 4:
        raise ModelError(str(path), what_else(tensors), WHOLE)
    channels, in_channels = first.shape[:2]
    if in_channels != 4:
        kind = CHANNELS.get(in_channels, "a model for other inputs than text")
        raise ModelError(
            str(path),
            f"it is {kind} ({in_channels} input channels), which the search cannot run",
            "Give the text-to-image model that it was made from",
        )
    family = _family(path, tensors)
    _refuse_variants(path, tensors)
    texts = tuple(_text(path, family, text, tensors) for text in family.texts)
    shape = CheckpointShape(family, channels, _vae_widths(path, tensors), texts)
    _check(path, shape, tensors)
    return shape


def what_else(names: Iterable[str]) -> str:
    """What a file without an LDM U-Net is, in words."""
    names = list(names)
    if EMBEDDINGS.intersection(names):
        return "it is a textual inversion embedding, not a checkpoint"
    for pieces, kind in OTHER_KINDS:
        if any(piece in name for name in names for piece in pieces):
            return f"it is {kind}" if "," in kind else f"it is {kind}, not a checkpoint"
    if all(name.startswith((VAE, "encoder.", "decoder.", "quant_conv", "post_quant_conv")) for name in names):
        return "it is a VAE, not a checkpoint"
    if any("text_model." in name or "resblocks." in name for name in names):
        return "it is a text encoder, not a checkpoint"
    if any(name.startswith(("input_blocks.", "diffusion_model.input_blocks.")) for name in names):
        return "it is a U-Net alone, without text encoder and VAE"
    return f"it is no checkpoint that is known here (it holds {min(names)!r})"


def blocks(names: Iterable[str]) -> Blocks:
    """The U-Net's units: (block, position) -> (depth of its transformer, 0 without; whether it changes the size)."""
    found: Blocks = {}
    for name in names:
        if name.startswith(UNET) and (match := _UNIT.match(name.removeprefix(UNET))):
            block, position, transformer, sampler = match.groups()
            depth, sampling = found.get((block, int(position)), (0, False))
            found[block, int(position)] = (
                max(depth, int(transformer) + 1 if transformer else 0), sampling or sampler is not None
            )  # fmt: skip
    return found


def _family(path: Path, tensors: Mapping[str, Tensor]) -> Family:
    """By the U-Net's blocks and the kind of its attention projections; widths do not matter."""
    found = blocks(tensors)
    for family in FAMILIES:
        level = next(i for i, depth in enumerate(family.depths) if depth)
        projection = tensors.get(f"{UNET}input_blocks.{3 * level + 1}.1.proj_in.weight")
        if blocks(dict(unet_tensors(CheckpointShape(family, 32, (), family.texts)))) == found and (
            projection is not None and (len(projection.shape) == 2) == family.linear
        ):
            return family
    if any(name.startswith("cond_stage_model.model.") for name in tensors) and f"{UNET}label_emb.0.0.weight" in tensors:
        raise ModelError(str(path), "it is the SDXL refiner, which only finishes pictures", "Give an SDXL base model")
    inputs = len({block for block, _ in found if block.startswith("input")})
    depth = sum(depth for depth, _ in found.values())
    raise ModelError(
        str(path),
        f"its U-Net has {inputs} input blocks and {depth} transformer blocks, as no family that is known here has",
        "Single files are read of SD1.x, SD2.x and SDXL; give a distilled or changed U-Net as a diffusers folder",
    )


def _refuse_variants(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Files with a known U-Net that are sampled otherwise."""
    if "edm_mean" in tensors or "edm_vpred.sigma_max" in tensors:
        raise ModelError(
            str(path), "it is trained on EDM's noise levels (Playground v2.5, CosXL), which are not sampled here", WHOLE
        )
    if any(name.startswith(("embedder.model.visual.", "noise_augmentor.")) for name in tensors):
        raise ModelError(str(path), "it is an unCLIP model, which starts from pictures", "Give a text-to-image model")
    if any("quant_state" in name or name.endswith((".absmax", ".scale_weight")) for name in tensors):
        raise ModelError(str(path), "its weights are quantised", "Give the float16 checkpoint that it was made from")


def _text(path: Path, family: Family, text: TextShape, tensors: Mapping[str, Tensor]) -> TextShape:
    """Width and number of layers of one text encoder."""
    if not any(name.startswith(text.prefix) for name in tensors):
        raise ModelError(str(path), f"it has the U-Net of {family.title}, but no text encoder {text.prefix}*", WHOLE)
    names = {
        "clip": ("embeddings.token_embedding.weight", "encoder.layers."),
        "open_clip": ("token_embedding.weight", "transformer.resblocks."),
    }
    embedding, layers = (text.prefix + name for name in names[text.kind])
    found = {int(name.removeprefix(layers).split(".")[0]) for name in tensors if name.startswith(layers)}
    width = tensors[embedding].shape[-1] if embedding in tensors else text.width
    return dataclasses.replace(text, width=width, layers=max(found, default=text.layers - 1) + 1)


def _vae_widths(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Channels of the autoencoder's levels."""
    if not any(name.startswith(VAE) for name in tensors):
        raise ModelError(
            str(path), "it has no VAE, which turns latents into pictures", "Give a version with the VAE baked in"
        )
    first = [tensors.get(f"{VAE}encoder.down.{level}.block.0.conv1.weight") for level in range(4)]
    return tuple(found.shape[0] if found else real for found, real in zip(first, (128, 256, 512, 512), strict=True))


def _check(path: Path, shape: CheckpointShape, tensors: Mapping[str, Tensor]) -> None:
    """Every needed tensor is there, floating, and of the right shape."""
    needed = shape.tensors()
    if shape.pooled is None:  # only SDXL projects the pooled text; converters lose the others'
        needed = {name: size for name, size in needed.items() if not name.endswith(".text_projection")}
    if missing := [name for name in needed if name not in tensors]:
        raise ModelError(
            str(path),
            f"{len(missing):,} of the {len(needed):,} tensors of an {shape.family.title} checkpoint are missing, "
            f"{missing[0]} first",
            "Give a whole checkpoint, or ask the one who made the file",
        )
    for name, size in needed.items():
        found = tensors[name]
        if found.dtype not in FLOATS:
            raise ModelError(
                str(path), f"{name} is of type {found.dtype}: its weights are quantised",
                "Give the float16 checkpoint that it was made from",
            )  # fmt: skip
        if not _same(found.shape, size):
            raise ModelError(
                str(path),
                f"{name} has the shape {found.shape}, where the rest of the file needs {size}",
                "The file was merged from unlike models: ask the one who made it",
            )


def _same(found: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Equal but for axes of length one at the end: 1x1 convolutions may be stored as linear layers."""
    longer, shorter = sorted((found, needed), key=len, reverse=True)
    return longer[: len(shorter)] == shorter and set(longer[len(shorter) :]) <= {1}
