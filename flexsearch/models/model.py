"""What the search sees of a checkpoint: network, conditioning, noise schedule, decoder."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flexsearch.errors import ModelError
from flexsearch.sampling.levels import NoiseSchedule


@dataclass(frozen=True)
class Conditioning:
    """What the network is told beside the sample: one row of text states an image, and the states of no prompt."""

    positive: Tensor | None = None  # (n, tokens, width)
    negative: Tensor | None = None  # (1, tokens, width)

    def rows(self, first: int, last: int) -> Conditioning:
        if self.positive is None:
            return self
        return Conditioning(self.positive[first:last], self.negative)


@dataclass(frozen=True)
class DiffusionModel:
    """A loaded checkpoint. Everything lies on `device` in `dtype`; nothing here changes after loading."""

    source: str
    family: str
    sha256: str
    unet: Any  # a diffusers U-Net; diffusers has no types
    noise_config: dict[str, Any]
    schedule: NoiseSchedule
    branches: int
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    image_size: tuple[int, int]
    vae: Any = None
    text_encoder: Any = None
    tokenizer: Any = None
    default_guidance: float = 1.0
    prompts: tuple[str, ...] = field(default=())

    @property
    def prediction(self) -> str:
        return str(self.noise_config.get("prediction_type", "epsilon"))

    @property
    def conditional(self) -> bool:
        return self.text_encoder is not None

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Text states of `prompts` and of the empty prompt. An unconditional model takes no prompts: ModelError."""
        if self.text_encoder is None:
            if any(prompts):
                raise ModelError(self.source, "the model is unconditional", "Leave out the prompts")
            return Conditioning()
        ids = self.tokenizer(
            [*prompts, ""], padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        states = torch.cat([self.text_encoder(rows.to(self.device))[0] for rows in ids.split(64)])
        return Conditioning(states[:-1], states[-1:])

    def chunks(self, guidance: float) -> tuple[Hashable, ...]:
        """The conditionings of one batched network call, in order (see `predict`)."""
        return ("negative", "positive") if self.conditional and guidance != 1.0 else ("positive",)

    def network_input(
        self, sample: Tensor, conditioning: Conditioning, guidance: float
    ) -> tuple[Tensor, Tensor | None]:
        """Batched input of one call: sample (n, C, H, W) -> (chunks * n, C, H, W) and the text states beside it."""
        if conditioning.positive is None or conditioning.negative is None:
            return sample, None
        if guidance == 1.0:
            return sample, conditioning.positive
        negative = conditioning.negative.expand(len(conditioning.positive), -1, -1)
        return torch.cat([sample, sample]), torch.cat([negative, conditioning.positive])

    def call(self, sample: Tensor, timestep: int, states: Tensor | None) -> Tensor:
        """One forward of the U-Net at a training timestep."""
        if states is None:
            return torch.as_tensor(self.unet(sample, timestep, return_dict=False)[0])
        return torch.as_tensor(self.unet(sample, timestep, states, return_dict=False)[0])

    def guided(self, output: Tensor, guidance: float) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598, eq. 6) of a batched call's output (chunks * n, C, H, W)."""
        if len(self.chunks(guidance)) == 1:
            return output
        negative, positive = output.chunk(2)
        return negative + guidance * (positive - negative)

    @torch.inference_mode()
    def decode(self, latents: Tensor, batch: int = 64) -> Tensor:
        """Latents (n, C, H, W) -> images (n, 3, height, width), float32 in [0, 1] on the CPU."""
        parts = []
        for rows in latents.split(batch):
            rows = rows.to(self.device, self.dtype)
            if self.vae is not None:
                rows = self.vae.decode(rows / self.vae.config.scaling_factor, return_dict=False)[0]
            parts.append((rows.float().cpu() / 2 + 0.5).clamp(0, 1))
        images = torch.cat(parts)
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
