"""A checkpoint as a search takes it: with prompts and guidance, from a noisy sample to the clean one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flexiffusion.noise import NoiseLevels
from flexiffusion.run import Run
from flexsearch.models.model import Conditioning, DiffusionModel


@dataclass(frozen=True, eq=False)
class ModelDenoiser:
    """See `flexiffusion.search.denoiser.Denoiser`. A place on the model's levels is a training timestep.

    `on_call` is told after each call of how many images it was.
    """

    model: DiffusionModel
    conditioning: Conditioning
    guidance: float
    on_call: Callable[[int], None] | None = None

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.model.unet
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

    def __call__(self, sample: Tensor, place: int, images: slice, run: Run | None) -> Tensor:
        model, sigma = self.model, self.model.levels.sigma(place)
        seen = (sample / math.sqrt(1 + sigma**2)).to(model.dtype)
        rows, inputs = model.network_input(seen, self.conditioning.rows(images.start, images.stop), self.guidance)

        def forward() -> Tensor:
            return model.call(rows, place, inputs)

        output = forward() if run is None else run(forward, rows, model.chunks(self.guidance))
        if self.on_call is not None:
            self.on_call(images.stop - images.start)
        return clean(model.guided(output.float(), self.guidance), sample, sigma, model.prediction)


def clean(output: Tensor, sample: Tensor, sigma: float, prediction: str) -> Tensor:
    """The clean sample that a network's output says: D of arXiv 2206.00364, eq. 7 and table 1; v of arXiv 2202.00512.

    `sample` is clean + sigma * noise. Raises ValueError for a prediction type other than epsilon, v_prediction, sample.
    """
    if prediction == "epsilon":
        return sample - sigma * output
    if prediction == "v_prediction":
        return sample / (1 + sigma**2) - output * (sigma / math.sqrt(1 + sigma**2))
    if prediction == "sample":
        return output
    raise ValueError(f"unknown prediction type {prediction!r}: epsilon, v_prediction or sample")
