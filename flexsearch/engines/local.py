"""Evaluate candidates one after the other, in this process, on the model's device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flexiffusion.cost import CostTable
from flexsearch.metrics.features import extract
from flexsearch.metrics.paired import Errors, geometric_mean, squared_error
from flexsearch.metrics.relative_fid import RelativeFid
from flexsearch.models.model import Conditioning, DiffusionModel
from flexsearch.sampling.references import ImageSet, Reference
from flexsearch.sampling.trajectory import Recipe, Trajectory, sample
from flexsearch.search.candidate import Candidate
from flexsearch.search.method import Fitness
from flexsearch.search.settings import ReferenceName

DIVERGED = 1e30  # larger than any error, and finite, as trial stores want it


@dataclass(frozen=True, eq=False)
class Outcome:
    """A candidate's images, and their errors, computed when asked for."""

    engine: LocalEngine
    trajectory: Trajectory

    @cached_property
    def images(self) -> Tensor:
        """(n, 3, height, width) float32 in [0, 1]."""
        return self.engine.model.decode(self.trajectory.latents)

    @property
    def pictures(self) -> NDArray[np.float32]:
        """The first ten images, (10, height, width, 3) in [0, 1]: a strip of a comparison picture."""
        return np.asarray(self.images[:10].permute(0, 2, 3, 1).numpy())

    @cached_property
    def features(self) -> Tensor:
        return extract(self.engine.features, self.images)

    def latent_errors(self, reference: ReferenceName) -> Errors:
        """Mean squared latent difference to the reference, per image."""
        return squared_error(self.trajectory.latents, self.engine.references[reference].latents)

    def feature_errors(self, reference: ReferenceName) -> Errors:
        """Mean squared feature difference to the reference, per image."""
        return squared_error(self.features, self.engine.references[reference].features)

    def relative_fid(self) -> float:
        """Relative FID to the teacher."""
        return self.engine.relative_fid(self.features)


class LocalEngine:
    """One model, one image set, its references. The model is used by nobody else meanwhile."""

    def __init__(
        self,
        model: DiffusionModel,
        recipe: Recipe,
        images: ImageSet,
        references: dict[ReferenceName, Reference],
        features: nn.Module,
        table: CostTable,
        judged_by: ReferenceName,
        batch: int,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.references = references
        self.features = features
        self.table = table
        self.judged_by = judged_by
        self.batch = batch
        self.noise = images.noise(model)
        self.conditioning = images.conditioning(model)

    @cached_property
    def relative_fid(self) -> RelativeFid:
        return RelativeFid(self.references["teacher"].features)

    def evaluate(self, candidate: Candidate) -> Outcome:
        """Sample the candidate over the engine's images."""
        with torch.inference_mode():
            trajectory = sample(
                self.model,
                self.recipe,
                self.noise,
                self.conditioning,
                candidate.timesteps,
                candidate.actions,
                batch=self.batch,
            )
        self.batch = trajectory.batch
        return Outcome(self, trajectory)

    def seconds(self, candidate: Candidate, images: int) -> float:
        """Wall time of sampling the candidate once more, per image; over the engine's images, going round."""
        rows = [i % len(self.noise) for i in range(images)]
        told = self.conditioning.positive
        conditioning = Conditioning(None if told is None else told.taken(rows), self.conditioning.negative)
        trajectory = sample(
            self.model,
            self.recipe,
            self.noise[rows],
            conditioning,
            candidate.timesteps,
            candidate.actions,
            batch=self.batch,
        )
        return trajectory.seconds / images

    def error(self, candidate: Candidate, fitness: Fitness) -> float:
        """The number that a search minimises; `DIVERGED` where sampling did not stay finite.

        Paired errors have a heavy tail: one image of sixteen that changes its shape outweighs all others, and the
        arithmetic mean then ranks candidates by that image. Their geometric mean is the better judge of the arithmetic
        mean on other images (`benchmarks/fitness.py`).
        """
        outcome = self.evaluate(candidate)
        if not torch.isfinite(outcome.trajectory.latents).all():
            return DIVERGED
        if fitness == "relative_fid":
            return outcome.relative_fid()
        return geometric_mean(outcome.latent_errors(self.judged_by))
