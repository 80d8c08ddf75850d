"""What a search needs of a model: a list of noise levels, and the prediction of the clean sample at each of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..noise import NoiseLevels

T = TypeVar("T")


class Calls(Protocol):
    """What every call of the network goes through: `flexiffusion.run.Run`, or something that looks on."""

    def __call__(self, forward: Callable[[], T], sample: Tensor, chunks: Sequence[Hashable] = (0,)) -> T:
        """Runs one call; see `Run.__call__`."""


class Denoiser(Protocol):
    """A loaded model with all that it is told (prompts, guidance, adapters), for a fixed set of images.

    flexsearch gives a checkpoint in this form, a host the model that it has loaded.
    """

    @property
    def network(self) -> nn.Module:
        """The network that the cut works on."""

    @property
    def levels(self) -> NoiseLevels: ...

    @property
    def branches(self) -> int:
        """Of the network: partial steps have branches -1 to branches - 1."""

    @property
    def device(self) -> torch.device:
        """Where samples are wanted."""

    def __call__(self, sample: Tensor, place: int, images: slice, run: Calls | None) -> Tensor:
        """The guided prediction of the clean sample (n, C, H, W), float32, for the images of the set in `images`.

        sample: (n, C, H, W) float32 at the level of `place`, scaled as a solver's state (see `flexiffusion.solver`).
        Every call of the network goes through `run`, where one is given.
        """
