"""Train the bundled tiny Stable-Diffusion-layout pipeline and its feature classifier on Fashion-MNIST.

    python -m tools.train_tiny --work DIR [--out flexsearch/assets]

Stages run in order (vae, classifier, unet, export); each checkpoints into DIR and a later call goes on where the
last one stopped. Every batch derives from (seed, stage, step), so an interrupted training equals an uninterrupted one
on the same machine. About 90 minutes on two CPU cores; the device is the GPU where there is one.

`--seed` trains another U-Net and text encoder on the same latents (benchmarks.transfer asks whether a schedule serves
both): give it a folder of its own that holds a copy of vae.pt, classifier.pt and latents.safetensors.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from flexsearch.metrics.bundled import FashionClassifier
from tools.fashion_mnist import CLASSES, read, to_rgb
from tools.small_tokenizer import small_tokenizer
from tools.training import Stage, batch_indices, checkpoint, min_snr_loss, stratified_timesteps, train

TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of a {}", "a grey {} on black", "one {}, studio photo")
VAE = Stage("vae", 800, 64, 2e-3)
CLASSIFIER = Stage("classifier", 2000, 128, 2e-3)
UNET = Stage("unet", 3600, 64, 1e-3)
PROMPT_TOKENS = 16


def train_classifier(work: Path, device: torch.device) -> FashionClassifier:
    pictures, labels = read("train")
    model = FashionClassifier().to(device)

    def loss_of(step: int) -> Tensor:
        model.train()
        indices, generator = batch_indices(CLASSIFIER, step, len(pictures))
        torch.manual_seed(step)  # dropout
        images = to_rgb(pictures[indices]).clone()
        shift_y, shift_x = torch.randint(-2, 3, (2,), generator=generator).tolist()
        images = images.roll((shift_y, shift_x), dims=(2, 3))
        return F.cross_entropy(model(images.to(device)), labels[indices].to(device), label_smoothing=0.05)

    train(CLASSIFIER, model, loss_of, work)
    return model


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(24, 48),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
    )


def train_vae(work: Path, device: torch.device) -> AutoencoderKL:
    pictures, _ = read("train")
    vae = new_vae().to(device)

    def loss_of(step: int) -> Tensor:
        vae.train()
        indices, generator = batch_indices(VAE, step, len(pictures))
        images = (to_rgb(pictures[indices]) * 2 - 1).to(device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        return F.mse_loss(decoded, images) + F.l1_loss(decoded, images) * 0.2 + 1e-3 * posterior.kl().mean() / 1024

    train(VAE, vae, loss_of, work)
    return vae


@torch.inference_mode()
def encode_all(vae: AutoencoderKL, work: Path, device: torch.device) -> Tensor:
    """Posterior mean and spread of all training pictures, (60000, 8, 16, 16) fp16, scaled to unit spread."""
    path = work / "latents.safetensors"
    if not path.exists():
        pictures, _ = read("train")
        parts = []
        for chunk in pictures.split(500):
            posterior = vae.encode((to_rgb(chunk) * 2 - 1).to(device)).latent_dist
            parts.append(torch.cat([posterior.mean, posterior.std], dim=1).cpu())
        moments = torch.cat(parts)
        scale = 1 / moments[:, :4].std()
        save_file({"moments": (moments * scale).half().contiguous(), "scale": scale.reshape(1)}, path)
    saved = load_file(path)
    vae.register_to_config(scaling_factor=round(float(saved["scale"]), 6))
    return saved["moments"]


def prompts() -> list[str]:
    """Every prompt of the training: each template with each class name, the class index varying fastest."""
    return [template.format(name) for template in TEMPLATES for name in CLASSES]


class Denoiser(nn.Module):
    """U-Net and text encoder, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                projection_dim=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=PROMPT_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64, 96),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=2,  # diffusers reads this as the number of heads
            norm_num_groups=16,
        )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def train_denoiser(
    stage: Stage, vae: AutoencoderKL, work: Path, device: torch.device
) -> tuple[Denoiser, CLIPTokenizer]:
    moments, labels = encode_all(vae, work, device), read("train")[1]
    tokenizer = small_tokenizer(work / "tokenizer", prompts(), 1000, PROMPT_TOKENS)
    torch.manual_seed(stage.seed)
    model = Denoiser(tokenizer).to(device)
    tokens = tokenizer([*prompts(), ""], padding="max_length", return_tensors="pt").input_ids  # the last is "no prompt"
    abar = new_scheduler().alphas_cumprod

    def loss_of(step: int) -> Tensor:
        model.train()
        indices, generator = batch_indices(stage, step, len(moments))
        count = len(indices)
        mean, std = moments[indices].float().chunk(2, dim=1)
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        timesteps = stratified_timesteps(count, len(abar), generator)
        noise = torch.randn(latents.shape, generator=generator)
        level = abar[timesteps][:, None, None, None]
        noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
        which = torch.randint(len(TEMPLATES), (count,), generator=generator) * len(CLASSES) + labels[indices]
        dropped = torch.rand(count, generator=generator) < 0.1  # guidance dropout (arXiv 2207.12598)
        chosen = tokens[torch.where(dropped, len(tokens) - 1, which)].to(device)
        states = model.text_encoder(chosen).last_hidden_state
        predicted = model.unet(noisy.to(device), timesteps.to(device), states).sample
        error = F.mse_loss(predicted, noise.to(device), reduction="none").mean(dim=(1, 2, 3))
        return min_snr_loss(error, abar[timesteps])

    train(stage, model, loss_of, work)
    return model, tokenizer


def export(
    vae: AutoencoderKL,
    classifier: FashionClassifier,
    denoiser: Denoiser,
    tokenizer: CLIPTokenizer,
    stages: Sequence[Stage],
    work: Path,
    out: Path,
) -> None:
    """Write the diffusers folder and the classifier, fp16 safetensors."""
    pipeline = StableDiffusionPipeline(
        vae=vae.cpu().half(),
        text_encoder=denoiser.text_encoder.cpu().half(),
        tokenizer=tokenizer,
        unet=denoiser.unet.cpu().half(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out / "tiny", safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # what older versions of transformers read
        shutil.copy(work / "tokenizer" / name, out / "tiny" / "tokenizer" / name)
    (out / "tiny" / "prompts.txt").write_text("\n".join(prompts()) + "\n", encoding="utf-8")
    weights = {
        name: value.cpu().half() if value.is_floating_point() else value.cpu()
        for name, value in classifier.state_dict().items()
    }
    save_file(weights, out / "features.safetensors")
    report = {
        stage.name: {
            "steps": stage.steps,
            "batch": stage.batch,
            "seconds": torch.load(checkpoint(stage, work), weights_only=True, map_location="cpu")["seconds"],
        }
        for stage in stages
    }
    (work / "training.json").write_text(json.dumps(report, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and cached latents")
    parser.add_argument("--out", type=Path, default=Path("flexsearch/assets"))
    names = [VAE.name, CLASSIFIER.name, UNET.name, "export"]
    parser.add_argument("--stage", choices=names, default="export", help="stop after this stage")
    parser.add_argument("--seed", type=int, default=UNET.seed, help="of U-Net and text encoder")
    parser.add_argument("--unet-steps", type=int, default=UNET.steps, help="batches of 64")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(VAE.seed)
    unet = replace(UNET, steps=arguments.unet_steps, seed=arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = train_vae(arguments.work, device)
    if arguments.stage == "vae":
        return
    classifier = train_classifier(arguments.work, device)
    if arguments.stage == "classifier":
        return
    denoiser, tokenizer = train_denoiser(unet, vae, arguments.work, device)
    if arguments.stage == "export":
        export(vae, classifier, denoiser, tokenizer, (VAE, CLASSIFIER, unet), arguments.work, arguments.out)


if __name__ == "__main__":
    main()
