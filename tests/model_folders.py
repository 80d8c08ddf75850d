"""Small diffusers folders with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel, VQModel


def write_unconditional(folder: Path, latent: bool) -> Path:
    """A DDPM pipeline's folder (16x16 pixels), or an unconditional LDM's (8x8x3 latents and a VQ decoder)."""
    torch.manual_seed(0)
    UNet2DModel(
        sample_size=8 if latent else 16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
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
