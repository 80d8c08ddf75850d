"""What the tool needs of a loaded model, whatever its network is and however it is called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flexiffusion.noise import NoiseLevels
from flexiffusion.search.denoiser import Calls
from flexsearch.errors import ConfigError


class CheckpointDenoiser(ABC):
    """A loaded model with all that it is told, for a fixed set of images: a `flexiffusion.search.denoiser.Denoiser`."""

    model: Checkpoint

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.model.network
        return network

    @property
    def levels(self) -> NoiseLevels:
        return self.model.levels

    @property
    def branches(self) -> int:
        return self.model.branches

    @property
    def device(self) -> torch.device:
        return self.model.device

    @abstractmethod
    def taken(self, images: Sequence[int]) -> CheckpointDenoiser:
        """The same for these images of the set, in this order; one may be taken more than once."""

    @abstractmethod
    def __call__(self, sample: Tensor, place: int, images: slice, run: Calls | None) -> Tensor:
        """See `flexiffusion.search.denoiser.Denoiser`."""


class Counted(CheckpointDenoiser):
    """A denoiser that tells after each call of how many images it was."""

    def __init__(self, denoiser: CheckpointDenoiser, on_call: Callable[[int], None]) -> None:
        self.model, self.denoiser, self.on_call = denoiser.model, denoiser, on_call

    def taken(self, images: Sequence[int]) -> Counted:
        return Counted(self.denoiser.taken(images), self.on_call)

    def __call__(self, sample: Tensor, place: int, images: slice, run: Calls | None) -> Tensor:
        denoised = self.denoiser(sample, place, images, run)
        self.on_call(images.stop - images.start)
        return denoised


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ABC):
    """A loaded model. Nothing here changes after loading.

    `latent_shape` is that of one image's sample, as the solver sees it: (C, H, W), or (tokens, channels) of models that
    pack their latents. `image_size` is a picture's width and height in pixels, `multiple` what both must be multiples
    of; `frames` how many a video has, None of a model that makes pictures. `noise_config` is what determines the noise
    levels, as the scheduler's configuration has it; `zero_negative`: guidance leads away from text states of zeros, not
    from those of the empty prompt. `notes` are sentences on what the model says and is not followed, or was taken for
    granted.
    """

    source: str
    family: str
    sha256: str
    noise_config: dict[str, Any]
    levels: NoiseLevels
    branches: int
    latent_shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    image_size: tuple[int, int]
    multiple: int = 1
    frames: int | None = None
    default_guidance: float = 1.0
    prompts: tuple[str, ...] = field(default=())
    zero_negative: bool = False
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def network(self) -> Any:
        """The network that is cut, a module."""

    @property
    def blocks(self) -> int | None:
        """Of a transformer, how many blocks it runs one after the other."""
        return None

    @property
    @abstractmethod
    def prediction(self) -> str:
        """What the network predicts, as schedule files write it: epsilon, v_prediction, sample or flow."""

    @property
    @abstractmethod
    def conditional(self) -> bool:
        """Whether it draws what it is told: text, or a class."""

    @abstractmethod
    def denoiser(self, prompts: Sequence[str], guidance: float) -> CheckpointDenoiser:
        """The model, told what each image of a set is to show.

        Raises ModelError for prompts that it cannot be told.
        """

    @abstractmethod
    def skeleton(self, guidance: float) -> tuple[nn.Module, Callable[[], object]]:
        """The network, without its weights where that is possible, and all its calls of one step for one image."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, *latent_shape) -> images (n, 3, height, width), float32 in [0, 1] on the CPU.

        Of videos some of their frames: (n, frames, 3, height, width).
        """

    @abstractmethod
    def sized(self, size: tuple[int, int]) -> Checkpoint:
        """The same model for pictures of another (width, height) in pixels. Raises ConfigError for a size it cannot."""

    def framed(self, frames: int) -> Checkpoint:
        """The same model for videos of so many frames. Raises ConfigError for a number it cannot, or for any."""
        raise ConfigError("--frames", f"{self.source} makes pictures, not videos", "Leave it out")

    @abstractmethod
    def bytes_per_image(self, guidance: float) -> int:
        """About what one more image in a batch needs on the device while the network runs."""

    def cut_prompts(self, prompts: Sequence[str]) -> tuple[int, int] | None:
        """How many prompts are longer than the text encoder reads, and how many tokens it reads; None: not known."""
        return None

    def described(self) -> str:
        """What was loaded and recognised, in a few words."""
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.source}, {self.family}, {self.branches} branches, predicts {self.prediction}, "
            f"sha256 {self.sha256[:10]}, {dtype} on {self.device}"
        )

    def note_lines(self) -> list[str]:
        """The notes as lines of their own; a line break that a stranger's file has in a name makes none."""
        return [f"note: {' '.join(note.split())}" for note in self.notes]

    def require_multiple(self, size: tuple[int, int]) -> None:
        """Raises ConfigError for a (width, height) in pixels that is no multiple of what the model takes."""
        width, height = size
        if min(size) < self.multiple or width % self.multiple or height % self.multiple:
            raise ConfigError(
                "--size", f"{width}x{height} does not fit {self.source}", f"Give multiples of {self.multiple} pixels"
            )


def stills(images: Tensor) -> Tensor:
    """A picture of each image, (n, 3, height, width): of a video its middle frame."""
    return images[:, images.shape[1] // 2] if images.dim() == 5 else images
