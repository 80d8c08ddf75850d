"""How far apart are the fingerprints of one checkpoint's files, and those of its fine-tunes?

    python -m benchmarks.fingerprints [--models tiny pixel emoji] [--steps 10 100]

Every bundled network as fp16, bf16, fp8 (e4m3), and with random matrices added (a merged LoRA); after as many steps of
AdamW towards random pictures, at a learning rate of 1e-5 (the shortest fine-tunes) and 1e-4 (of the emoji model: with
noise of a quarter of steps times rate on every weight); and networks of the same kind with other weights. Printed, as
Markdown: the largest difference of a number, times the root of how many weights were read, and what the variant is
taken for; then milliseconds, also for as many vectors as SDXL has.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexiffusion.fingerprint import HALF, Fingerprint, distance, fingerprint_of, is_same_checkpoint, read_weights
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings
from flexsearch.sampling.references import ImageSet

CASTS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
SEEDS = 4


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy with every weight in this precision."""
    other = copy.deepcopy(network)
    for weight in other.parameters():
        weight.requires_grad_(False)
        weight.data = weight.data.to(dtype)
    return other


def with_adapter(network: nn.Module, seed: int) -> nn.Module:
    """A copy with a random matrix added to every matrix."""
    other, stream = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for weight in other.parameters():
        if weight.ndim > 1:
            weight.data += 0.1 * weight.data.std() * torch.randn(weight.shape, generator=stream)
    return other


def random_weights(network: nn.Module, seed: int) -> nn.Module:
    """A copy with noise as large as its own weights added to every tensor."""
    other, stream = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for weight in other.parameters():
        weight.data = weight.data + weight.data.std().nan_to_num() * torch.randn(weight.shape, generator=stream)
    return other


def moved(network: nn.Module, size: float, seed: int) -> nn.Module:
    """A copy with random noise of this size on every weight, as large as training makes the changes of all of them."""
    other, stream = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for weight in other.parameters():
        weight.data = weight.data + size * torch.randn(weight.shape, generator=stream)
    return other


def fine_tuned(experiment: Experiment, network: nn.Module, steps: int, rate: float, seed: int) -> nn.Module:
    """A copy after so many steps of AdamW towards random pictures, at random noise levels."""
    stream = torch.Generator().manual_seed(seed)
    images = ImageSet(seed, 0, 2, experiment.prompts[0])
    denoiser, noise = images.denoiser(experiment.model, 1.0), images.noise(experiment.model)
    kept = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    # prompts were encoded in inference mode, whose tensors cannot be trained with
    hook = network.register_forward_pre_hook(lambda _, args, told: (outside(args), outside(told)), with_kwargs=True)
    with torch.enable_grad(), hook:
        for weight in network.parameters():
            weight.requires_grad_(True)
        optimiser = torch.optim.AdamW(network.parameters(), lr=rate)
        target = torch.randn(noise.shape, generator=stream)
        for _ in range(steps):
            place = int(torch.randint(len(experiment.model.levels), (1,), generator=stream))
            made = denoiser(noise * experiment.model.levels.sigma(place), place, slice(0, 2), None)
            (made - target).square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()
    for weight in network.parameters():
        weight.requires_grad_(False)
    other = copy.deepcopy(network)
    for name, weight in network.named_parameters():
        weight.data = kept[name]
    return other


def outside(value: Any) -> Any:
    """Copies of the tensors in a tuple or dictionary, made outside of inference mode."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(outside(entry) for entry in value)
    return {key: outside(value[key]) for key in value} if isinstance(value, dict) else value


def row(label: str, base: Fingerprint, other: nn.Module) -> str:
    own = fingerprint_of(other)
    assert own is not None
    root = math.sqrt(sum(vector.numel() for vector in read_weights(other)))
    parts = [root * distance(own[part], base[part]) for part in (slice(HALF), slice(HALF, None))]
    same = "same" if is_same_checkpoint(other, base, own) else "another"
    return f"| {label} | {parts[0]:.5f} | {parts[1]:.4f} | {same} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "pixel", "emoji"])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 100])
    options = parser.parse_args()
    print("| variant | as it is | rounded to e4m3 | taken for |\n|---|---|---|---|")
    for model in options.models:
        experiment = Experiment(Settings(model=model), Path("runs/references"))
        network = ImageSet(0, 0, 1, experiment.prompts[0]).denoiser(experiment.model, 1.0).network
        base = fingerprint_of(network)
        assert base is not None
        fp8 = fingerprint_of(cast(network, torch.float8_e4m3fn))
        assert fp8 is not None
        for name, dtype in CASTS.items():
            print(row(f"{model}, {name}", base, cast(network, dtype)))
        print(row(f"{model}, fp8 file known, bf16 loaded", fp8, cast(network, torch.bfloat16)))
        for seed in range(SEEDS):
            print(row(f"{model}, adapter {seed}", base, with_adapter(network, seed)))
        for seed in range(SEEDS):
            for steps in options.steps:
                for rate in (1e-5, 1e-4):
                    if model == "emoji":  # it is called through diffusers' pipeline, which has no gradients
                        other = moved(network, steps * rate / 4, seed)
                    else:
                        other = fine_tuned(experiment, network, steps, rate, seed)
                    print(row(f"{model}, {steps} steps at {rate:g}, {seed}", base, other), flush=True)
                    if seed == 0:
                        print(row(f"{model}, the same in fp8", base, cast(other, torch.float8_e4m3fn)))
        for seed in range(SEEDS):
            print(row(f"{model}, random {seed}", base, random_weights(network, seed)))
        print(f"| {model}, milliseconds: {milliseconds(network):.1f} | | | |")
    print(f"| vectors of SDXL's sizes, milliseconds: {milliseconds(sdxl_vectors()):.1f} | | | |")


def sdxl_vectors() -> nn.Module:
    """As many vectors as SDXL's U-Net has, of their sizes (its 70 transformer blocks and 17 residual blocks)."""
    sizes = [1280] * 9 * 60 + [10240] * 60 + [640] * 9 * 10 + [5120] * 10 + [320, 640, 1280] * 34
    return nn.ParameterList([nn.Parameter(torch.randn(size), requires_grad=False) for size in sizes])


def milliseconds(network: nn.Module) -> float:
    """The median of eleven times."""
    seconds = []
    for _ in range(11):
        began = time.perf_counter()
        fingerprint_of(network)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    main()
