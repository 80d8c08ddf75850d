"""Train the bundled emoji model, a small Flux that draws Noto's colour emoji from their names, and export its folder.

    apt-get install fonts-noto-color-emoji unicode-data
    python -m tools.train_emoji --work DIR [--out flexsearch/assets]

Stages run in order (vae, flow, decoder, export): the autoencoder; transformer and text encoders on its latents; the
decoder alone on the same latents, for sharper pictures. Each checkpoints into DIR every 100 batches, and a later call
goes on where the last one stopped. `flow` draws DIR/samples/flow-*.png every --sample-every batches; `--export` writes
what the newest checkpoints hold without training further. Every batch derives from (seed, stage, step), so an
interrupted training equals an uninterrupted one on the same machine and with the same numbers of steps; a new
autoencoder needs a new folder. --steps may be changed until 60 % of them are done, when the learning rate begins to
fall. Measured: ten minutes for 4,500 batches of the autoencoder on one busy core, half a second to a second a batch
of the transformer.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from tools.emoji_networks import FULL, Denoiser, Shape, decode, new_scheduler, new_vae, pack, sample
from tools.noto_emoji import read
from tools.small_tokenizer import small_tokenizer
from tools.training import Ema, Stage, batch_indices, checkpoint, train

VAE = Stage("vae", 6000, 16, 2e-3, hold=0.5)
FLOW = Stage("flow", 32000, 32, 1e-3, hold=0.6)
DECODER = Stage("decoder", 2500, 16, 1e-3)
DROPPED = 0.1  # of the names, for guidance (arXiv 2207.12598)
SHAKE = 0.1  # noise on the latents that the decoder learns from: what the transformer draws is never exact
PREVIEW = (
    *("grinning face", "face with tears of joy", "red heart", "ghost", "cat face", "dog face", "fox", "koala"),
    *("penguin", "octopus", "red apple", "pizza", "hamburger", "watermelon", "birthday cake", "cactus"),
    *("rocket", "automobile", "sailboat", "house", "snowman", "soccer ball", "guitar", "key"),
)


def pixels(pictures: Tensor) -> Tensor:
    """(B, 3, P, P) uint8 -> float in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def picture_error(decoded: Tensor, images: Tensor) -> Tensor:
    """Squared and absolute error of the values, and absolute error of the steps to the next pixel, right and below.

    The square teaches the colours early, the steps teach sharp edges.
    """
    error = decoded - images
    steps = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.square().mean() + error.abs().mean() + 0.5 * steps


def random_crops(pictures: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A square of `size` from a place of its own in each picture (B, 3, P, P), half of them mirrored."""
    room = pictures.shape[-1] - size
    corners = torch.randint(room + 1, (len(pictures), 2), generator=generator).tolist()
    mirrored = (torch.rand(len(pictures), generator=generator) < 0.5).tolist()
    crops = [
        picture[:, top : top + size, left : left + size].flip(-1 if mirror else ())
        for picture, (top, left), mirror in zip(pictures, corners, mirrored, strict=True)
    ]
    return torch.stack(crops)


def train_vae(stage: Stage, vae: AutoencoderKL, pictures: Tensor, work: Path, sample_every: int) -> None:
    """Quarters of the pictures: four times as many batches in the same time. A weak pull to normal latents."""
    preview = copy.deepcopy(vae).eval()

    def loss_of(step: int) -> Tensor:
        vae.train()
        indices, generator = batch_indices(stage, step, len(pictures))
        images = pixels(random_crops(pictures[indices], pictures.shape[-1] // 2, generator))
        with torch.autocast("cpu", torch.bfloat16):  # nearly twice as fast, where the processor has bf16
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        return picture_error(decoded.float(), images) + 1e-3 * posterior.kl().float().mean() / noise[0].numel()

    def watch(done: int, ema: Ema) -> None:
        if done % sample_every == 0 or done == stage.steps:
            preview.load_state_dict(ema.weights)
            shown = pictures[:: max(1, len(pictures) // 32)][:32]
            with torch.inference_mode():
                again = decode(preview, preview.encode(pixels(shown)).latent_dist.mean)
            save_grid(torch.cat([shown, again]), work / "samples" / f"{stage.name}-{done:06}.png")

    train(stage, vae, loss_of, work, watch)


@torch.inference_mode()
def encode_all(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Latents of all pictures, (N, C, P / 8, P / 8), brought to mean 0 and spread 1; tells the VAE how."""
    means = torch.cat([vae.encode(pixels(chunk)).latent_dist.mean for chunk in pictures.split(64)])
    shift, scale = round(float(means.mean()), 6), round(float(1 / means.std()), 6)
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return (means - shift) * scale


def levels_of(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels s (count,), logit-normal (arXiv 2403.03206, eq. 19), one from each stratum of equal probability."""
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return torch.sigmoid(torch.special.ndtri(strata.clamp(1e-4, 1 - 1e-4)))


def train_flow(
    stage: Stage,
    denoiser: Denoiser,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    latents: Tensor,
    names: Sequence[str],
    work: Path,
    sample_every: int,
) -> None:
    """Flow matching (arXiv 2210.02747) on straight paths: the velocity is noise less picture."""
    tokens = tokenizer([*names, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    preview = Denoiser(denoiser.shape, tokenizer).eval()

    def loss_of(step: int) -> Tensor:
        denoiser.train()
        indices, generator = batch_indices(stage, step, len(latents))
        clean = latents[indices]
        noise = torch.randn(clean.shape, generator=generator)
        levels = levels_of(len(clean), generator)
        s = levels[:, None, None, None]
        dropped = torch.rand(len(clean), generator=generator) < DROPPED
        told = tokens[torch.where(dropped, len(names), indices)]
        predicted = denoiser.velocity(pack((1 - s) * clean + s * noise), levels, told)
        return F.mse_loss(predicted, pack(noise - clean))

    def watch(done: int, ema: Ema) -> None:
        if done % sample_every == 0 or done == stage.steps:
            preview.load_state_dict(ema.weights)
            drawn = decode(vae, sample(preview, tokenizer, PREVIEW, steps=16, guidance=2.0))
            save_grid(drawn, work / "samples" / f"{stage.name}-{done:06}.png")

    train(stage, denoiser, loss_of, work, watch)


def train_decoder(stage: Stage, vae: AutoencoderKL, latents: Tensor, pictures: Tensor, work: Path) -> None:
    """Teach the decoder alone, so that the latents which the transformer knows stay as they are."""
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor

    def loss_of(step: int) -> Tensor:
        vae.train()
        indices, generator = batch_indices(stage, step, len(pictures))
        clean = latents[indices]
        shaken = clean + SHAKE * torch.randn(clean.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = vae.decode(shaken / scale + shift).sample
        return picture_error(decoded.float(), pixels(pictures[indices]))

    train(stage, vae, loss_of, work)


def save_grid(pictures: Tensor, path: Path, columns: int = 8) -> None:
    """Write uint8 pictures (N, 3, P, P) as one PNG, `columns` a row; N is a multiple of `columns`."""
    count, channels, high, wide = pictures.shape
    rows = count // columns
    grid = pictures.reshape(rows, columns, channels, high, wide).permute(0, 3, 1, 4, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid.reshape(rows * high, columns * wide, channels).numpy()).save(path)


def averaged(stage: Stage, module: torch.nn.Module, work: Path) -> dict[str, float]:
    """Load the averaged weights of a stage's newest checkpoint; say how far it came."""
    saved = torch.load(checkpoint(stage, work), weights_only=True, map_location="cpu")
    module.load_state_dict(saved["ema"])
    module.eval().requires_grad_(False)
    return {"steps": saved["step"], "batch": stage.batch, "seconds": round(saved["seconds"])}


def export(
    vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer, names: Sequence[str], work: Path, out: Path
) -> None:
    """Write the diffusers folder, fp16 safetensors, and the names it was trained on."""
    pipeline = FluxPipeline(
        scheduler=new_scheduler(),
        vae=vae.half(),
        text_encoder=denoiser.text_encoder.half(),
        tokenizer=tokenizer,
        text_encoder_2=denoiser.text_encoder_2.half(),
        tokenizer_2=tokenizer,
        transformer=denoiser.transformer.half(),
    )
    pipeline.save_pretrained(out / "emoji", safe_serialization=True)
    for folder in ("tokenizer", "tokenizer_2"):
        for name in ("vocab.json", "merges.txt"):  # what older versions of transformers read
            shutil.copy(work / "tokenizer" / name, out / "emoji" / folder / name)
    # mixed: in Unicode's order a search would see smiling faces alone, and be judged on balls and flags
    mixed = random.Random(0).sample(names, len(names))
    (out / "emoji" / "prompts.txt").write_text("\n".join(mixed) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Plan:
    """What one call does: the three stages, the last of them to train (all, then export, when None), and where."""

    work: Path
    out: Path
    vae: Stage = VAE
    flow: Stage = FLOW
    decoder: Stage = DECODER
    until: str | None = None
    sample_every: int = 500
    only_export: bool = False


def run(plan: Plan, shape: Shape, pictures: Tensor, names: Sequence[str]) -> None:
    """Train what is left to train, up to the stage that the plan names, and export after the last one."""
    work = plan.work
    tokenizer = small_tokenizer(work / "tokenizer", names, shape.vocabulary, shape.prompt_tokens)
    torch.manual_seed(plan.vae.seed)
    vae = new_vae(shape)
    denoiser = Denoiser(shape, tokenizer)
    if plan.only_export:
        export_newest(plan, vae, denoiser, tokenizer, pictures, names)
        return
    train_vae(plan.vae, vae, pictures, work, plan.sample_every)
    latents = encode_all(vae, pictures)
    if plan.until == plan.vae.name:
        return
    train_flow(plan.flow, denoiser, tokenizer, vae, latents, names, work, plan.sample_every)
    if plan.until == plan.flow.name:
        return
    train_decoder(plan.decoder, vae, latents, pictures, work)
    if plan.until == plan.decoder.name:
        return
    export(vae, denoiser, tokenizer, names, work, plan.out)


def export_newest(
    plan: Plan, vae: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer, pictures: Tensor, names: Sequence[str]
) -> None:
    """Export the averaged weights of the newest checkpoints, finished or not, and print how far each came."""
    report = {plan.vae.name: averaged(plan.vae, vae, plan.work)}
    encode_all(vae, pictures)
    report[plan.flow.name] = averaged(plan.flow, denoiser, plan.work)
    if checkpoint(plan.decoder, plan.work).exists():
        report[plan.decoder.name] = averaged(plan.decoder, vae, plan.work)
    export(vae, denoiser, tokenizer, names, plan.work, plan.out)
    print(json.dumps(report))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and sample pictures")
    parser.add_argument("--out", type=Path, default=Path("flexsearch/assets"))
    parser.add_argument("--stage", choices=[VAE.name, FLOW.name, DECODER.name], help="stop after this stage")
    parser.add_argument("--vae-steps", type=int, default=VAE.steps, help="batches of 16")
    parser.add_argument("--steps", type=int, default=FLOW.steps, help="batches of 32 of transformer and text encoders")
    parser.add_argument("--decoder-steps", type=int, default=DECODER.steps, help="batches of 16")
    parser.add_argument("--sample-every", type=int, default=1000, help="batches; a multiple of 100")
    parser.add_argument("--export", action="store_true", help="write the newest checkpoints; train no further")
    arguments = parser.parse_args()
    plan = Plan(
        work=arguments.work,
        out=arguments.out,
        vae=replace(VAE, steps=arguments.vae_steps),
        flow=replace(FLOW, steps=arguments.steps),
        decoder=replace(DECODER, steps=arguments.decoder_steps),
        until=arguments.stage,
        sample_every=arguments.sample_every,
        only_export=arguments.export,
    )
    run(plan, FULL, *read(FULL.picture))


if __name__ == "__main__":
    main()
