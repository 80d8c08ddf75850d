"""A checkpoint as a search takes it: with prompts and guidance, from a noisy sample to the clean one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from flexiffusion.noise import network_scale
from flexiffusion.search.denoiser import Calls
from flexiffusion.solver import clean
from flexsearch.models.checkpoint import CheckpointDenoiser

if TYPE_CHECKING:
    from flexsearch.models.model import Conditioning, DiffusionModel


@dataclass(frozen=True, eq=False)
class ModelDenoiser(CheckpointDenoiser):
    """See `flexiffusion.search.denoiser.Denoiser`. A place on the model's levels is a training timestep."""

    model: DiffusionModel
    conditioning: Conditioning
    guidance: float

    def taken(self, images: Sequence[int]) -> ModelDenoiser:
        return replace(self, conditioning=self.conditioning.taken(images))

    def __call__(self, sample: Tensor, place: int, images: slice, run: Calls | None) -> Tensor:
        model, sigma = self.model, self.model.levels.sigma(place)
        seen = (sample / network_scale(sigma, self.levels.kind)).to(model.dtype)
        rows, inputs = model.network_input(seen, self.conditioning.rows(images.start, images.stop), self.guidance)

        def forward() -> Tensor:
            return model.call(rows, place, inputs)

        output = forward() if run is None else run(forward, rows, model.chunks(self.guidance))
        return clean(model.guided(output.float(), self.guidance), sample, sigma, model.prediction)
