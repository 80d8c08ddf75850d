"""What the search sees of a checkpoint: network, conditioning, noise schedule, decoder."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from flexiffusion.search.devices import make_room, out_of_memory, release
from flexsearch.devices import FLOATS_PER_PIXEL, visiting
from flexsearch.errors import ModelError
from flexsearch.models.checkpoint import Checkpoint
from flexsearch.models.denoiser import ModelDenoiser
from flexsearch.models.text import TextEncoders

PIXELS_AT_ONCE = 512 * 512  # decoded together: one picture of 512x512, or many small ones


@dataclass(frozen=True)
class NetworkInputs:
    """What the network is told beside the sample, one row an image. A field is None where it takes no such thing."""

    states: Tensor | None = None  # (n, tokens, width), of the text
    pooled: Tensor | None = None  # (n, width), of the text; SDXL
    sizes: Tensor | None = None  # (n, 6): original height and width, crop from top and left, height and width; SDXL
    classes: Tensor | None = None  # (n,), class numbers

    def _map(self, change: Any) -> NetworkInputs:
        return NetworkInputs(**{name: None if value is None else change(value) for name, value in vars(self).items()})

    def __len__(self) -> int:
        return next(len(value) for value in vars(self).values() if value is not None)

    def rows(self, first: int, last: int) -> NetworkInputs:
        return self._map(lambda value: value[first:last])

    def taken(self, indices: Sequence[int]) -> NetworkInputs:
        return self._map(lambda value: value[list(indices)])

    def repeated(self, count: int) -> NetworkInputs:
        """A single row, `count` times."""
        return self._map(lambda value: value.expand(count, *value.shape[1:]))

    def to(self, device: torch.device | str) -> NetworkInputs:
        return self._map(lambda value: value.to(device))

    def joined(self, other: NetworkInputs) -> NetworkInputs:
        """These rows, then the other's."""
        pairs = {name: (value, getattr(other, name)) for name, value in vars(self).items()}
        return NetworkInputs(**{name: None if pair[0] is None else torch.cat(pair) for name, pair in pairs.items()})


@dataclass(frozen=True)
class Conditioning:
    """What the network is told of each image, and of none (for classifier-free guidance). Empty: it is told nothing."""

    positive: NetworkInputs | None = None  # n rows
    negative: NetworkInputs | None = None  # one row

    def rows(self, first: int, last: int) -> Conditioning:
        if self.positive is None:
            return self
        return Conditioning(self.positive.rows(first, last), self.negative)

    def taken(self, indices: Sequence[int]) -> Conditioning:
        """The rows of these images, in this order."""
        return self if self.positive is None else Conditioning(self.positive.taken(indices), self.negative)


def call_unet(unet: Any, sample: Tensor, timestep: int, inputs: NetworkInputs | None) -> Tensor:
    """One forward of a diffusers U-Net at a training timestep: (n, C, H, W) -> (n, C, H, W)."""
    if inputs is None:
        return torch.as_tensor(unet(sample, timestep, return_dict=False)[0])
    more: dict[str, Any] = {}
    if inputs.classes is not None:
        more["class_labels"] = inputs.classes
    if inputs.pooled is not None:
        more["added_cond_kwargs"] = {"text_embeds": inputs.pooled, "time_ids": inputs.sizes}
    if inputs.states is not None:
        more["encoder_hidden_states"] = inputs.states
    return torch.as_tensor(unet(sample, timestep, **more, return_dict=False)[0])


def unet_skeleton(
    unet: Any, shape: tuple[int, ...], inputs: NetworkInputs | None
) -> tuple[nn.Module, Callable[[], object]]:
    """A weightless copy of a diffusers U-Net on the meta device, and a call of it on a sample of `shape`."""
    with torch.device("meta"):
        skeleton: nn.Module = type(unet).from_config(unet.config).eval()
        sample = torch.empty(shape)
    told = None if inputs is None else inputs.to("meta")
    return skeleton, lambda: call_unet(skeleton, sample, 1, told)


@dataclass(frozen=True, kw_only=True)
class DiffusionModel(Checkpoint):
    """A loaded U-Net pipeline. The network lies on `device` in `dtype`; text encoders and decoder only visit it.

    `classes` is the number of classes of a class-conditional model, the last for *no class*.
    """

    unet: Any  # a diffusers U-Net; diffusers has no types
    vae: Any = None
    text: TextEncoders | None = None
    classes: int | None = None

    @property
    def network(self) -> Any:
        return self.unet

    @property
    def prediction(self) -> str:
        return str(self.noise_config.get("prediction_type", "epsilon"))

    @property
    def conditional(self) -> bool:
        return self.text is not None or self.classes is not None

    def denoiser(self, prompts: Sequence[str], guidance: float) -> ModelDenoiser:
        return ModelDenoiser(self, self.encode(prompts) if self.conditional else Conditioning(), guidance)

    def skeleton(self, guidance: float) -> tuple[nn.Module, Callable[[], object]]:
        rows = len(self.chunks(guidance))
        inputs = self.encode([""]).positive
        return unet_skeleton(self.unet, (rows, *self.latent_shape), None if inputs is None else inputs.repeated(rows))

    def cut_prompts(self, prompts: Sequence[str]) -> tuple[int, int] | None:
        if self.text is None:
            return None
        encoder = self.text.encoders[0]
        return encoder.cut(prompts), int(encoder.tokenizer.model_max_length)

    def sized(self, size: tuple[int, int]) -> DiffusionModel:
        self.require_multiple(size)
        (width, height), channels = size, self.latent_shape[0]
        across, down = self.image_size
        latent = (channels, self.latent_shape[1] * height // down, self.latent_shape[2] * width // across)
        return replace(self, image_size=size, latent_shape=latent)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """What `prompts`, and the lack of one, tell the network. A class-conditional model's prompts are class numbers.

        Raises ModelError for prompts of an unconditional model and for a prompt that is no class number.
        """
        if self.text is not None:
            states, pooled = self.text.encode([*prompts, ""], self.device)
            if self.zero_negative:
                states[-1] = 0
                if pooled is not None:
                    pooled[-1] = 0
            sizes = None
            if pooled is not None:
                width, height = self.image_size
                sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.dtype, device=self.device)
                sizes = sizes.expand(len(states), -1)
                pooled = pooled.to(self.dtype)
            inputs = NetworkInputs(states.to(self.dtype), pooled, sizes)
        elif self.classes is not None:
            inputs = NetworkInputs(
                classes=torch.tensor([*map(self._class, prompts), self.classes - 1], device=self.device)
            )
        else:
            if any(prompts):
                raise ModelError(self.source, "the model is unconditional", "Leave out the prompts")
            return Conditioning()
        return Conditioning(inputs.rows(0, len(prompts)), inputs.rows(len(prompts), len(prompts) + 1))

    def _class(self, prompt: str) -> int:
        assert self.classes is not None
        text = prompt.strip() or "0"
        if not text.isdecimal() or int(text) >= self.classes:
            raise ModelError(
                self.source,
                f"{prompt!r} is no class of this class-conditional model",
                f"Give numbers from 0 to {self.classes - 1} as prompts",
            )
        return int(text)

    def chunks(self, guidance: float) -> tuple[Hashable, ...]:
        """The conditionings of one batched network call, in order (see `predict`)."""
        return ("negative", "positive") if self.conditional and guidance != 1.0 else ("positive",)

    def network_input(
        self, sample: Tensor, conditioning: Conditioning, guidance: float
    ) -> tuple[Tensor, NetworkInputs | None]:
        """Batched input of one call: sample (n, C, H, W) -> (chunks * n, C, H, W) and what is told beside it."""
        if conditioning.positive is None or conditioning.negative is None:
            return sample, None
        if guidance == 1.0:
            return sample, conditioning.positive
        negative = conditioning.negative.repeated(len(conditioning.positive))
        return torch.cat([sample, sample]), negative.joined(conditioning.positive)

    def bytes_per_image(self, guidance: float) -> int:
        channels = int(self.unet.config.block_out_channels[0])
        pixels = self.latent_shape[1] * self.latent_shape[2] * len(self.chunks(guidance))
        return FLOATS_PER_PIXEL * channels * pixels * self.dtype.itemsize

    def call(self, sample: Tensor, timestep: int, inputs: NetworkInputs | None) -> Tensor:
        """One forward of the U-Net at a training timestep."""
        return call_unet(self.unet, sample, timestep, inputs)

    def guided(self, output: Tensor, guidance: float) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598, eq. 6) of a batched call's output (chunks * n, C, H, W)."""
        if len(self.chunks(guidance)) == 1:
            return output
        negative, positive = output.chunk(2)
        return negative + guidance * (positive - negative)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Checkpoint.decode`.

        In float32 whatever the network's dtype: SDXL's decoder overflows in float16. A few pictures at a time, and in
        tiles where not even one fits into memory.
        """
        if self.vae is None:
            images = (latents.float().cpu() / 2 + 0.5).clamp(0, 1)
        else:
            make_room(self.device)
            with visiting(self.vae, self.device):
                at_once = max(1, PIXELS_AT_ONCE // (self.image_size[0] * self.image_size[1]))
                images = torch.cat([self._decode(rows) for rows in latents.split(at_once)])
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

    def _decode(self, latents: Tensor) -> Tensor:
        scaled = unscaled(latents.to(self.device, torch.float32), self.vae.config)
        try:
            decoded = self.vae.decode(scaled, return_dict=False)[0]
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or not hasattr(self.vae, "enable_tiling"):
                raise
            decoded = None
        if decoded is None:  # outside of the handler, whose traceback holds on to what the first try had made
            release(self.device)
            self.vae.enable_tiling()
            decoded = self.vae.decode(scaled, return_dict=False)[0]
        return (decoded.float().cpu() / 2 + 0.5).clamp(0, 1)


def no_room(model: Checkpoint) -> ModelError:
    """Why a model cannot be used on its device where a batch of one image did not fit into memory."""
    width, height = model.image_size
    return ModelError(
        model.source,
        f"not even one picture of {width}x{height} fits into the memory of {model.device} beside the network",
        "Give a smaller --size, --dtype float16 on a GPU, or --device cpu",
    )


def unscaled(latents: Tensor, config: Any) -> Tensor:
    """The network's latents (n, C, H, W) -> the autoencoder's own, by its configuration, as diffusers' pipelines do.

    latents * std / scaling_factor + mean + shift_factor; mean and std of each channel, where it has them.
    """
    scaled = latents / config.scaling_factor
    mean, std = (config.get(f"latents_{name}") for name in ("mean", "std"))
    if std is not None:
        scaled = scaled * scaled.new_tensor(std).view(1, -1, 1, 1)
    if mean is not None:
        scaled = scaled + scaled.new_tensor(mean).view(1, -1, 1, 1)
    return scaled + (config.get("shift_factor") or 0.0)
