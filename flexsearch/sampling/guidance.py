"""Images at other guidance scales than the search's own, which solvers are refined on as well.

People draw with other scales than a schedule was searched at. Weights that were refined at one scale alone had, on the
bundled model at 5x, up to ten times the error of the fit before at two and four times that scale (benchmarks/README.md,
"Do schedules serve another model, guidance or solver?").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from flexiffusion.search.refining import Images
from flexsearch.models.checkpoint import Checkpoint
from flexsearch.sampling.references import ImageSet
from flexsearch.sampling.solvers import SamplerSettings, draw

SCALES = (2.0, 4.0, 7.5)  # that people draw with
ALIKE = 1.5  # scales that differ by no more than this factor are one
SHARE = 1 / 3  # of the search images, drawn at each other scale


def other_scales(model: Checkpoint, own: float) -> tuple[float, ...]:
    """The scales that people draw with, but the search's own; none where it does without guidance."""
    if not model.conditional or own <= 1:
        return ()
    return tuple(scale for scale in SCALES if max(scale / own, own / scale) > ALIKE)


def images_each(count: int) -> int:
    """How many of so many search images are drawn at each other scale."""
    return max(1, round(count * SHARE))


def images_at(
    model: Checkpoint, sampling: SamplerSettings, images: ImageSet, places: Sequence[int], batch: int
) -> list[Images]:
    """The first third of a set at each other scale, and where full steps at these places end there.

    Scales at which the samples are not finite are left out.
    """
    few = replace(images, count=images_each(images.count))
    made = []
    for scale in other_scales(model, sampling.guidance):
        denoiser, noise = few.denoiser(model, scale), few.noise(model)
        with torch.inference_mode():
            latents = draw(denoiser, sampling.solver, noise, places, batch=batch).latents
        if latents.isfinite().all():
            made.append(Images(denoiser, noise, latents.cpu()))
    return made
