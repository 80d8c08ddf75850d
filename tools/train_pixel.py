"""Train the bundled pixel model, an unconditional DDPM at 32x32 on Fashion-MNIST, and export its diffusers folder.

    python -m tools.train_pixel --work DIR [--steps 12000] [--out flexsearch/assets]

Checkpoints into DIR every 100 batches and goes on where the last call stopped; `--export` writes what the newest
checkpoint holds without training further. Every batch derives from (seed, step), so an interrupted training equals an
uninterrupted one on the same machine and with the same --steps. About an hour of one CPU core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from tools.fashion_mnist import read
from tools.training import Stage, batch_indices, checkpoint, min_snr_loss, stratified_timesteps, train


def new_unet() -> UNet2DModel:
    """The shape of the CIFAR-10 DDPM (arXiv 2006.11239: four levels), narrow, one block a level; one grey channel."""
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        norm_num_groups=8,
    )


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of DDPM: 1,000 betas, linear from 1e-4 to 0.02."""
    return DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", set_alpha_to_one=True)


def pixels(pictures: Tensor) -> Tensor:
    """(B, 32, 32) uint8 -> (B, 1, 32, 32) float in [-1, 1]."""
    return pictures.float()[:, None] / 127.5 - 1


def train_unet(stage: Stage, unet: UNet2DModel, work: Path) -> None:
    pictures, _ = read("train")
    abar = new_scheduler().alphas_cumprod
    device = unet.device

    def loss_of(step: int) -> Tensor:
        unet.train()
        indices, generator = batch_indices(stage, step, len(pictures))
        images = pixels(pictures[indices])
        timesteps = stratified_timesteps(len(indices), len(abar), generator)
        noise = torch.randn(images.shape, generator=generator)
        level = abar[timesteps][:, None, None, None]
        noisy = level.sqrt() * images + (1 - level).sqrt() * noise
        predicted = unet(noisy.to(device), timesteps.to(device)).sample
        error = F.mse_loss(predicted, noise.to(device), reduction="none").mean(dim=(1, 2, 3))
        return min_snr_loss(error, abar[timesteps])

    train(stage, unet, loss_of, work)


def export(stage: Stage, unet: UNet2DModel, work: Path, out: Path) -> None:
    """Write the averaged weights of the newest checkpoint as a diffusers folder, fp16 safetensors."""
    saved = torch.load(checkpoint(stage, work), weights_only=True, map_location="cpu")
    unet.load_state_dict(saved["ema"])
    DDIMPipeline(unet.cpu().half(), new_scheduler()).save_pretrained(out / "pixel", safe_serialization=True)
    report = {"steps": saved["step"], "of": stage.steps, "batch": stage.batch, "seconds": saved["seconds"]}
    print(json.dumps(report))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=12000, help="batches of 16 in all")
    parser.add_argument("--out", type=Path, default=Path("flexsearch/assets"))
    parser.add_argument("--export", action="store_true", help="write the newest checkpoint; train no further")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    stage = Stage("pixel", arguments.steps, 16, 1e-3)
    torch.manual_seed(stage.seed)
    unet = new_unet()
    if not arguments.export:
        train_unet(stage, unet.to("cuda" if torch.cuda.is_available() else "cpu"), arguments.work)
    export(stage, unet, arguments.work, arguments.out)


if __name__ == "__main__":
    main()
