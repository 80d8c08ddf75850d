"""What a file without the U-Net of a checkpoint is instead, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from flexsearch.models.ldm_keys import VAE
from flexsearch.models.safetensors_header import Tensor
from flexsearch.models.transformer_file import transformer_in
from flexsearch.models.variants import WHOLE

PIPELINE = (
    "Give the model's diffusers folder, which has its text encoders too; or search inside ComfyUI, where it is loaded: "
    "Flexiffusion Search"
)

# What only one kind of file has in its tensors' names, and what it is; the first that fits counts.
_ADAPTERS = (
    (r"lora_unet_|lora_te\d?_|\.lora_(up|down|A|B)\.", "a LoRA"),
    (r"\.hada_w1_a|\.lokr_w1|\.oft_blocks|\.oft_diag", "a LyCORIS (LoHa, LoKr or OFT)"),
    (r"control_model\.|controlnet_cond_embedding\.|input_hint_block\.", "a ControlNet"),
)
_UNET_ALONE = r"(^|\.)input_blocks\.0\.0\.weight$"
_NETWORKS = (
    (r"motion_modules\.", "an AnimateDiff motion module"),
    (r"ip_adapter\.|image_proj\.", "an IP-Adapter"),
    (r"down_blocks\.0\.", "one part of a diffusers pipeline"),
)
_EMBEDDINGS = {"emb_params", "string_to_param", "clip_l", "clip_g"}  # whole names


def what_else(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """What a file without an LDM U-Net under its usual name is ("it is ..."), and what to give instead."""
    names = list(tensors)
    known = None if _kind(_ADAPTERS, names) else transformer_in(tensors)
    if known is not None:
        return f"{known}, which is not read from one file", PIPELINE
    return _other_kind(names), WHOLE


def _other_kind(names: list[str]) -> str:
    if _EMBEDDINGS.intersection(names):
        return "it is a textual inversion embedding, not a checkpoint"
    if kind := _kind(_ADAPTERS, names):
        return kind
    if any(name.startswith("model_ema.") for name in names):
        return "of its U-Net it holds the EMA copy only (model_ema.*), which is not read"
    if any(re.search(_UNET_ALONE, name) for name in names):
        return "it is a U-Net alone, without text encoder and VAE"
    if kind := _kind(_NETWORKS, names):
        return kind
    if all(name.startswith((VAE, "encoder.", "decoder.", "quant_conv", "post_quant_conv")) for name in names):
        return "it is a VAE, not a checkpoint"
    if any("text_model." in name or "resblocks." in name for name in names):
        return "it is a text encoder, not a checkpoint"
    return f"it is no checkpoint that is known here (it holds {min(names)!r})"


def _kind(kinds: Iterable[tuple[str, str]], names: list[str]) -> str | None:
    for pattern, kind in kinds:
        if any(re.search(pattern, name) for name in names):
            return f"it is {kind}" if "," in kind else f"it is {kind}, not a checkpoint"
    return None
