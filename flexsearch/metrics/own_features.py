"""Features that every checkpoint brings along: what its own network makes of a slightly noisy picture, halfway through.

Features in the middle of a denoiser tell what a picture shows (Baranchuk et al., arXiv 2112.03126; Tang et al., arXiv
2306.03881). They are there for any model that draws, of whatever it draws; a classifier of other pictures is not.
Every image gets the same noise in every set, so differences are the pictures'.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flexiffusion.layouts import find_layout
from flexsearch.errors import ConfigError
from flexsearch.models.checkpoint import Checkpoint
from flexsearch.models.noise import initial_noise

NAME = "model"  # of `--features`
NOISE_TO_SIGNAL = 0.3  # about timestep 100 of 1,000 in SD's noise schedule
SEED = 20_240_917  # of the noise that is added; none that a search draws from


class OwnFeatures:
    """The mean over places of the middle unit's output: latents (n, ...) -> (n, d) float32 on the CPU."""

    def __init__(self, model: Checkpoint) -> None:
        units = find_layout(model.network).units
        self.model = model
        self.unit: nn.Module = units[len(units) // 2]

    @torch.inference_mode()
    def __call__(self, latents: Tensor, batch: int) -> Tensor:
        """Raises ConfigError for a network whose features cannot be told apart by image."""
        model, levels = self.model, self.model.levels
        flow = levels.kind == "flow"
        place = levels.place(NOISE_TO_SIGNAL / (1 + NOISE_TO_SIGNAL) if flow else NOISE_TO_SIGNAL)
        sigma = levels.sigma(place)
        noise = initial_noise(SEED, range(len(latents)), latents.shape[1:])
        noisy = latents.float().cpu() * (1 - sigma if flow else 1.0) + sigma * noise
        denoiser = model.denoiser([""] * len(latents), 1.0)
        kept: list[Tensor] = []
        hook = self.unit.register_forward_hook(lambda module, inputs, output: kept.append(_pooled(output)))
        found = []
        try:
            for first in range(0, len(latents), batch):
                rows = slice(first, min(first + batch, len(latents)))
                kept.clear()
                denoiser(noisy[rows].to(model.device), place, rows, None)
                if len(kept) != 1 or len(kept[0]) != rows.stop - rows.start:
                    raise ConfigError(
                        f"--features {NAME}",
                        f"{type(model.network).__name__} does not give one feature an image",
                        "Choose inception:FILE, or package.module:Class",
                    )
                found.append(kept[0])
        finally:
            hook.remove()
        return torch.cat(found)


def _pooled(output: object) -> Tensor:
    """(B, d) of (B, d, height, width), or of the first stream of a transformer, (B, tokens, d)."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() < 3:
        raise ConfigError(f"--features {NAME}", "the network's middle gives no feature map", "Choose inception:FILE")
    pooled = output.mean(1) if output.dim() == 3 else output.flatten(2).mean(2)
    return pooled.float().cpu()
