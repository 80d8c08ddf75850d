"""The same DeepCache schedules run by us and by PyPI's DeepCache, on one pipeline, in one process.

    pip install --no-deps DeepCache==0.1.1
    python -m benchmarks.deepcache sd15 [--size 512] [--steps 10] [--repeats 3] [--guidance 7.5] [--device cuda]

Uniform intervals 2, 3 and 5, branches 0, 1 and 2 (the same numbers in both), DDIM, random weights of the real layout,
fixed text states, no decoding. Each turn samples with one and with the other, in changing order; seconds are medians,
the ratio is the median of the turns' own. Memory is what each keeps beside the network, at its peak, in bytes of
distinct tensors. The difference is the largest of the final latents, over their own spread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.layouts import FAMILY_NAMES, add_device_options, described, device_of, random_unet, stopwatch
from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action
from flexsearch.models.prediction import noise_config, noise_levels
from tools.make_random_checkpoint import checkpoint_shape

INTERVALS, BRANCHES = (2, 3, 5), (0, 1, 2)


def pipeline(family: Any, device: torch.device, dtype: torch.dtype) -> tuple[Any, dict[str, Tensor]]:
    """A diffusers pipeline without text encoders or decoder, and what it is told instead of a prompt."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    unet = random_unet(family, device, dtype)
    scheduler = DDIMScheduler(**noise_config("epsilon", zero_snr=False), clip_sample=False, set_alpha_to_one=True)
    # It is asked for its scale of 8 and its dtype only.
    vae = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=32).to(device, dtype)  # fmt: skip
    common = {"vae": vae, "text_encoder": None, "tokenizer": None, "unet": unet, "scheduler": scheduler}
    shape = checkpoint_shape(family, tiny=False)
    torch.manual_seed(1)
    told = {name: torch.randn(1, 77, shape.context, device=device, dtype=dtype) for name in
            ("prompt_embeds", "negative_prompt_embeds")}  # fmt: skip
    if shape.pooled is None:
        pipe = StableDiffusionPipeline(
            **common, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    else:
        pipe = StableDiffusionXLPipeline(**common, text_encoder_2=None, tokenizer_2=None)
        told |= {name: torch.randn(1, shape.pooled, device=device, dtype=dtype) for name in
                 ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")}  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe, told


@dataclass
class Measured:
    latents: Tensor
    seconds: float
    bytes: int


@contextmanager
def ours(pipe: Any, steps: int, interval: int, branch: int, guided: bool) -> Iterator[Run]:
    """The pipeline's U-Net under a plan of ours: a full step at every `interval`-th, partial ones between."""
    schedule = noise_levels(noise_config("epsilon", zero_snr=False))
    pipe.scheduler.set_timesteps(steps)
    levels = schedule.sigmas(pipe.scheduler.timesteps.tolist())
    actions = tuple(FULL if i % interval == 0 else Action("partial", branch) for i in range(steps))
    chunks = ("negative", "positive") if guided else ("positive",)
    forward = pipe.unet.forward
    with Run(pipe.unet, Plan(levels, actions, 0)) as run:

        def planned(sample: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
            run.evaluate(schedule.sigma(int(timestep)))
            return run(lambda: forward(sample, timestep, *args, **kwargs), sample, chunks)

        pipe.unet.forward = planned
        try:
            yield run
        finally:
            del pipe.unet.forward


@contextmanager
def theirs(pipe: Any, interval: int, branch: int) -> Iterator[Any]:
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    try:
        yield helper
    finally:
        helper.disable()


def held(value: Any, seen: set[int]) -> int:
    """Bytes of the distinct tensors in nested containers."""
    if isinstance(value, Tensor):
        key = value.untyped_storage().data_ptr()
        if key in seen:
            return 0
        seen.add(key)
        return value.untyped_storage().nbytes()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return sum(held(item, seen) for item in items)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILY_NAMES)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--repeats", type=int, default=3)
    add_device_options(parser)
    options = parser.parse_args()
    device, dtype = device_of(options)
    pipe, told = pipeline(options.family, device, dtype)
    now = stopwatch(options)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(options.images, 4, options.size // 8, options.size // 8, generator=generator).to(device, dtype)
    if options.guidance == 1:
        told = {name: value for name, value in told.items() if not name.startswith("negative")}

    def sampled() -> tuple[Tensor, float]:
        began = now()
        made = pipe(
            **told, latents=noise.clone(), num_inference_steps=options.steps, guidance_scale=options.guidance,
            num_images_per_prompt=options.images, height=options.size, width=options.size, output_type="latent",
        )  # fmt: skip
        return made.images, now() - began

    def by_us(interval: int, branch: int) -> Measured:
        with ours(pipe, options.steps, interval, branch, options.guidance != 1) as run:
            latents, seconds = sampled()
            assert run.report.misses == 0
            return Measured(latents, seconds, run.report.cache_bytes)

    def by_them(interval: int, branch: int) -> Measured:
        with theirs(pipe, interval, branch) as helper:
            latents, seconds = sampled()
            return Measured(latents, seconds, held(helper.cached_output, set()))

    print(f"{options.family}, {options.size} px, {options.images} picture(s), {options.steps} DDIM steps, guidance ")
    print(f"{options.guidance:g}; {described(options)};")
    print(f"medians of {options.repeats} turns. Per picture.\n")
    print("| interval | branch | ours, s | DeepCache, s | ours / DeepCache | ours, MiB | DeepCache, MiB | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for interval in INTERVALS:
        for branch in BRANCHES:
            pairs = []
            for turn in range(options.repeats):
                first, second = (by_us, by_them) if turn % 2 == 0 else (by_them, by_us)
                made = {call.__name__: call(interval, branch) for call in (first, second)}
                pairs.append((made["by_us"], made["by_them"]))
            own, other = pairs[-1]
            difference = (own.latents.float() - other.latents.float()).abs().max() / own.latents.float().std()
            seconds = [statistics.median(pair[i].seconds for pair in pairs) / options.images for i in (0, 1)]
            ratio = statistics.median(a.seconds / b.seconds for a, b in pairs)
            print(
                f"| {interval} | {branch} | {seconds[0]:.2f} | {seconds[1]:.2f} | {ratio:.3f} "
                f"| {own.bytes / 2**20:.1f} | {other.bytes / 2**20:.1f} | {difference:.1e} |",
                flush=True,
            )
            print(f"interval {interval}, branch {branch} done", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
