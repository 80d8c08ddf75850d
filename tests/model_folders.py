"""Small diffusers folders with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel, VQModel

from flexsearch.models.model import DiffusionModel


def write_unconditional(folder: Path, latent: bool, classes: int | None = None) -> Path:
    """A DDPM pipeline's folder (16x16 pixels), or an LDM's (8x8x3 latents and a VQ decoder); of classes where given."""
    torch.manual_seed(0)
    UNet2DModel(
        sample_size=8 if latent else 16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    ).save_pretrained(folder / "unet")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIM"]}
    if latent:
        VQModel(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            num_vq_embeddings=16,
        ).save_pretrained(folder / "vqvae")
        index["vqvae"] = ["diffusers", "VQModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_pipeline(folder: Path, model: DiffusionModel, variant: str | None = None) -> Path:
    """A text-to-image model as a diffusers folder, as `StableDiffusion(XL)Pipeline.save_pretrained` lays it out.

    Guidance of SDXL leads away from the empty prompt, as with single files, not from zeros.
    """
    assert model.text is not None
    index: dict[str, Any] = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    model.unet.save_pretrained(folder / "unet", variant=variant)
    model.vae.save_pretrained(folder / "vae", variant=variant)
    DDIMScheduler(**model.noise_config).save_pretrained(folder / "scheduler")
    for encoder, suffix in zip(model.text.encoders, ("", "_2"), strict=False):
        encoder.model.save_pretrained(folder / f"text_encoder{suffix}", variant=variant)
        encoder.tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
        config = folder / f"tokenizer{suffix}" / "tokenizer_config.json"
        pad = encoder.tokenizer.convert_ids_to_tokens(encoder.pad)
        config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token": pad}))
        index[f"text_encoder{suffix}"] = ["transformers", type(encoder.model).__name__]
        index[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
    if len(model.text.encoders) == 2:
        index["force_zeros_for_empty_prompt"] = False
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
