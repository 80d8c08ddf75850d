"""Tensors in a checkpoint, beside those of its family, that say that it is to be sampled otherwise, or hold more.

All of a file's tensors are needed, known to be of no use here, refused or told.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from flexsearch.errors import ModelError

WHOLE = "Give a whole checkpoint: SD1.x, SD2.x and SDXL checkpoints in one .safetensors file, or a diffusers folder"
ORIGINAL = "Give the text-to-image model that it was made from"
UNQUANTISED = "Give the float16 checkpoint that it was made from"
GUIDANCE_INPUT = "it is a latent consistency model (LCM): its network is told the guidance, which is not done here"


class Variant(NamedTuple):
    pattern: str  # of a tensor's name
    problem: str
    remedy: str


REFUSED = (
    Variant(
        r"^edm_mean$|^edm_vpred\.sigma_max$",
        "it is trained on EDM's noise levels (Playground v2.5, CosXL), which are not sampled here",
        WHOLE,
    ),
    Variant(
        r"^embedder\.model\.visual\.|^noise_augmentor\.",
        "it is an unCLIP model, which starts from pictures",
        "Give a text-to-image model",
    ),
    Variant(
        r"quant_state|\.(absmax|scale_weight|weight_scale|scale_input|input_scale|comfy_quant)$|^scaled_fp8$",
        "its weights are quantised",
        UNQUANTISED,
    ),
    Variant(r"\.time_stack\.|\.time_mixer\.", "it is a video model (Stable Video Diffusion)", WHOLE),
    Variant(r"(^|\.)time_embed(ding)?\.cond_proj\.", GUIDANCE_INPUT, ORIGINAL),
)

# What is baked into a checkpoint without changing what it draws by itself.
TOLD = (
    (r"^control_model\.", "a ControlNet"),
    (r"\.motion_modules\.", "an AnimateDiff motion module"),
    (r"\.fuser\.|(^|\.)position_net\.", "a GLIGEN adapter (boxes)"),
    (r"(^|_)lora_(unet|te\d?)_|\.lora_(up|down|A|B)\.", "a LoRA"),
)

# Copies, training states and constants, which every host passes over as well.
UNUSED = re.compile(
    r"^model_ema\.|^global_step$|^(betas|log_one_minus_alphas|posterior_|sqrt_|alphas_cumprod)|^optimizer|^logvar$"
    r"|logit_scale$|position_ids$|\.text_projection(\.weight)?$|^first_stage_model\.loss\.|^v_pred$|^ztsnr$"
    r"|^denoiser\.sigmas$|\.attn_mask$"
)


def refuse_variants(path: Path, names: Iterable[str]) -> None:
    """Raise ModelError for a file whose network is known, but sampled or stored in a way that is not."""
    names = list(names)
    for variant in REFUSED:
        if any(re.search(variant.pattern, name) for name in names):
            raise ModelError(str(path), variant.problem, variant.remedy)


def extras(names: Iterable[str], needed: Collection[str]) -> tuple[str, ...]:
    """Notes on what a file holds beside the `needed` tensors and is not used."""
    rest = [name for name in names if name not in needed and not UNUSED.search(name)]
    notes = []
    for pattern, kind in TOLD:
        if any(re.search(pattern, name) for name in rest):
            notes.append(f"{kind} is baked in, which is not used: the search runs the checkpoint without it")
            rest = [name for name in rest if not re.search(pattern, name)]
    if rest:
        notes.append(unused(len(rest), min(rest)))
    return tuple(notes)


def unused(count: int, first: str, place: str = "the file") -> str:
    """The note on tensors that no part of the model has a place for."""
    if count == 1:
        return f"a tensor in {place} is of no known use and is not read: {first}"
    return f"{count:,} tensors in {place} are of no known use and are not read, {first} first"
