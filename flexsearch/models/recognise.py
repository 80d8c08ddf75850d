"""From a file's tensor names and shapes to the family that it belongs to, or to what it is instead."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from flexsearch.errors import ModelError
from flexsearch.models.ldm_keys import FAMILIES, UNET, VAE, CheckpointShape, Family, TextShape, unet_tensors
from flexsearch.models.other_kinds import what_else
from flexsearch.models.safetensors_header import Tensor
from flexsearch.models.variants import ORIGINAL, UNQUANTISED, WHOLE, refuse_variants

FIRST = f"{UNET}input_blocks.0.0.weight"
FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")
WRAPPERS = ("state_dict.", "module.")  # what training scripts put before every name
SD2_CONTEXT = 1024  # width of the text states that SD2.x attends to; SD1.x: 768
SD2_AS_CLIP = "cond_stage_model.transformer.text_model."  # SD2.x's encoder where a tool has renamed it

# Of a text encoder, by the naming of its tensors.
EMBEDDING = {"clip": "embeddings.token_embedding.weight", "open_clip": "token_embedding.weight"}
LAYERS = {"clip": "encoder.layers.", "open_clip": "transformer.resblocks."}

# The number of input channels tells what is concatenated to the latent.
CHANNELS = {
    5: "a depth-to-image model",
    7: "an upscaler",
    8: "an InstructPix2Pix model",
    9: "an inpainting model",
}

_UNIT = re.compile(
    r"(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.(\d+)\.(?:transformer_blocks\.(\d+)|(op|conv)\.)?"
)
Blocks = dict[tuple[str, int], tuple[int, bool]]


def canonical(names: Iterable[str]) -> dict[str, str]:
    """The names that `ldm_keys` gives -> those in the file, where tools have written them otherwise.

    A second spelling of SDXL's text projection, `text_projection.weight`, is the transpose (see `is_transposed`).
    """
    stored = list(names)
    wrapper = next((wrapper for wrapper in WRAPPERS if f"{wrapper}{FIRST}" in stored), "")
    plain = {name.removeprefix(wrapper): name for name in stored}
    sdxl = any(name.startswith("conditioner.embedders.1.") for name in plain)
    found = {}
    for name, original in plain.items():
        usual = name
        for prefix in ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."):
            if name.startswith(prefix) and not name.startswith(f"{prefix}text_"):
                usual = f"{prefix}text_model.{name.removeprefix(prefix)}"  # as transformers named them before 4.2
        if not sdxl and name.startswith("conditioner.embedders.0.model."):
            usual = "cond_stage_model.model." + name.removeprefix("conditioner.embedders.0.model.")  # SD2.x by sgm
        if is_transposed(name):
            usual = name.removesuffix(".weight")
        found[usual] = original
    return found


def is_transposed(stored: str) -> bool:
    """Whether a tensor of that name in a file is the transpose of the one that open_clip's layout has."""
    return stored.endswith(".model.text_projection.weight")


def recognise(path: Path, tensors: Mapping[str, Tensor]) -> CheckpointShape:
    """The family and widths of an LDM checkpoint, every needed tensor of which is there, in the right shape.

    `tensors` by canonical name. Raises ModelError that says what the file is instead, or what is missing.
    """
    first = tensors.get(FIRST)
    if first is None or len(first.shape) != 4:
        raise ModelError(str(path), *what_else(tensors))
    refuse_variants(path, tensors)
    channels, in_channels = first.shape[:2]
    if in_channels != 4:
        raise other_inputs(str(path), in_channels)
    family = _family(path, tensors)
    texts = tuple(_text(path, family, text, tensors) for text in family.texts)
    shape = CheckpointShape(family, channels, _vae_widths(path, tensors), texts)
    _check(path, shape, tensors)
    return shape


def other_inputs(place: str, channels: int) -> ModelError:
    """The refusal of a network that takes more than a latent."""
    kind = CHANNELS.get(channels, "a model for other inputs than text")
    return ModelError(place, f"it is {kind} ({channels} input channels), which the search cannot run", ORIGINAL)


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
    """By the U-Net's blocks; widths do not matter."""
    found = blocks(tensors)
    alike = [
        family
        for family in FAMILIES
        if blocks(dict(unet_tensors(CheckpointShape(family, 32, (), family.texts)))) == found
    ]
    if alike:
        return alike[0] if len(alike) == 1 else _sd1_or_sd2(tensors, alike)
    if any(name.startswith("cond_stage_model.model.") for name in tensors) and f"{UNET}label_emb.0.0.weight" in tensors:
        raise ModelError(str(path), "it is the SDXL refiner, which only finishes pictures", "Give an SDXL base model")
    inputs = len({block for block, _ in found if block.startswith("input")})
    depth = sum(depth for depth, _ in found.values())
    raise ModelError(
        str(path),
        f"its U-Net has {inputs} input blocks and {depth} transformer blocks, as no family that is known here has",
        "Single files are read of SD1.x, SD2.x and SDXL; give a distilled or changed U-Net as a diffusers folder",
    )


def _sd1_or_sd2(tensors: Mapping[str, Tensor], alike: list[Family]) -> Family:
    """Which of the two families of equal blocks: by the text encoder, or else by the kind of attention projections.

    The projections alone do not tell: some tools store SD1.x's convolutions of 1x1 as linear layers.
    """
    unit = f"{UNET}input_blocks.1.1"
    context = tensors.get(f"{unit}.transformer_blocks.0.attn2.to_k.weight")
    projection = tensors.get(f"{unit}.proj_in.weight")
    for family in alike:
        (text,) = family.texts
        if text.prefix + EMBEDDING[text.kind] in tensors:
            second = context is not None and context.shape[-1:] == (SD2_CONTEXT,)
            return next(family for family in alike if family.texts[0].by_open_clip == (second or text.by_open_clip))
    linear = projection is not None and len(projection.shape) == 2
    return next(family for family in alike if family.linear == linear)


def _text(path: Path, family: Family, text: TextShape, tensors: Mapping[str, Tensor]) -> TextShape:
    """Naming, width and number of layers of one text encoder."""
    usual = text.layers
    if text.by_open_clip and not family.pooled and SD2_AS_CLIP + EMBEDDING["clip"] in tensors:
        text = dataclasses.replace(text, kind="clip", prefix=SD2_AS_CLIP)
    if not any(name.startswith(text.prefix) for name in tensors):
        raise ModelError(str(path), f"it has the U-Net of {family.title}, but no text encoder {text.prefix}*", WHOLE)
    embedding, layers = (text.prefix + names[text.kind] for names in (EMBEDDING, LAYERS))
    found = {int(name.removeprefix(layers).split(".")[0]) for name in tensors if name.startswith(layers)}
    count = max(found, default=usual - 1) + 1
    if count > usual or (count < usual and family.pooled):
        raise ModelError(
            str(path),
            f"its text encoder {text.prefix}* has {count} layers, where {family.title} has {usual}",
            "Give a whole checkpoint, or ask the one who made the file",
        )
    width = tensors[embedding].shape[-1] if embedding in tensors else text.width
    return dataclasses.replace(text, width=width, layers=count)


def text_notes(shape: CheckpointShape) -> tuple[str, ...]:
    """A note on a text encoder that lacks layers (tools for "CLIP skip" cut them off)."""
    usual = shape.family.texts[0].layers
    text = shape.texts[0]
    if text.layers == usual:
        return ()
    used = shape.family.text_layers(text)
    return (
        f"its text encoder has {text.layers} layers, where {shape.family.title} has {usual}: the first {used} are used",
    )


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
                str(path), f"{name} is of type {found.dtype}: its weights are quantised", UNQUANTISED,
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
