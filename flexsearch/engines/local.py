"""Evaluate candidates one after the other, in this process, on the model's device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flexiffusion.cost import CostTable
from flexiffusion.search.candidate import Candidate
from flexiffusion.search.evaluator import OneByOne
from flexiffusion.search.objective import Objective, ReferenceName
from flexiffusion.search.paired import DIVERGED, Errors, squared_error
from flexiffusion.search.prefixes import Prefixes
from flexiffusion.search.racing import Judgement, race
from flexiffusion.search.trajectory import Trajectory
from flexsearch.metrics.features import extract
from flexsearch.metrics.perceptual import load_lpips, lpips_errors
from flexsearch.metrics.real_fid import RealFid
from flexsearch.metrics.relative_fid import RelativeFid
from flexsearch.models.denoiser import ModelDenoiser
from flexsearch.named import callable_of, is_named
from flexsearch.sampling.references import Reference
from flexsearch.sampling.solvers import draw


@dataclass(frozen=True, eq=False)
class Outcome:
    """A candidate's images, and their errors, computed when asked for."""

    engine: LocalEngine
    trajectory: Trajectory
    rows: slice  # which of the engine's images

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
        return squared_error(self.trajectory.latents, self.engine.references[reference].latents[self.rows])

    def feature_errors(self, reference: ReferenceName) -> Errors:
        """Mean squared feature difference to the reference, per image."""
        return squared_error(self.features, self.engine.references[reference].features[self.rows])

    def perceptual_errors(self, reference: ReferenceName) -> Errors:
        """LPIPS to the reference's images, squared, per image."""
        shown = self.engine.references[reference].images[self.rows].float() / 255
        return lpips_errors(self.engine.lpips, self.images, shown)

    def paired_errors(self, error: str, reference: ReferenceName) -> Errors:
        """The errors of one of `MEASURES`, or of a `package.module:name`, per image."""
        return measure(error)(self, reference)

    def relative_fid(self) -> float:
        """Relative FID to the teacher."""
        return self.engine.relative_fid(self.features)

    def real_fid(self) -> float | None:
        """FID to the real pictures; None where there are none."""
        return None if self.engine.real is None else self.engine.real(self.features)


Measure = Callable[[Outcome, ReferenceName], Errors]

# The registry of paired errors: what tells, per image, how far an outcome is from a reference.
MEASURES: dict[str, Measure] = {
    "latent": Outcome.latent_errors,
    "features": Outcome.feature_errors,
    "lpips": Outcome.perceptual_errors,
}


def measure(error: str) -> Measure:
    """The paired error of this name, or that which a `package.module:name` names. Raises ConfigError."""
    return callable_of("--error", error) if is_named(error) else MEASURES[error]


# Those that the final table shows: (error, reference).
SHOWN: tuple[tuple[str, ReferenceName], ...] = (("latent", "teacher"), ("latent", "converged"), ("features", "teacher"))


class LocalEngine(OneByOne):
    """One model with the noise and conditioning of an image set, and its references.

    The model is used by nobody else meanwhile.
    """

    def __init__(
        self,
        *,
        denoiser: ModelDenoiser,
        solver: str,
        noise: Tensor,
        references: dict[ReferenceName, Reference],
        features: nn.Module,
        table: CostTable,
        judged_by: ReferenceName,
        batch: int,
        prefixes: Prefixes | None = None,
        real: RealFid | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.model = denoiser.model
        self.solver = solver
        self.noise = noise
        self.references = references
        self.features = features
        self.table = table
        self.judged_by = judged_by
        self.batch = batch
        self.prefixes = prefixes
        self.real = real

    @cached_property
    def relative_fid(self) -> RelativeFid:
        return RelativeFid(self.references["teacher"].features)

    @cached_property
    def lpips(self) -> nn.Module:
        return load_lpips().to(self.model.device)

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.noise)

    def evaluate(self, candidate: Candidate, first: int = 0, last: int | None = None) -> Outcome:
        """Sample the candidate over the engine's images, or those from `first` up to `last`."""
        rows = slice(first, self.count if last is None else last)
        with torch.inference_mode():
            trajectory = draw(
                self.denoiser,
                self.solver,
                self.noise[rows],
                candidate.places,
                candidate.actions,
                origin=rows.start,
                batch=self.batch,
                prefixes=self.prefixes,
            )
        self.batch = trajectory.batch
        return Outcome(self, trajectory, rows)

    def seconds(self, candidate: Candidate, images: int) -> float:
        """Wall time of sampling the candidate once more, per image; over the engine's images, going round."""
        rows = [i % len(self.noise) for i in range(images)]
        denoiser = replace(self.denoiser, conditioning=self.denoiser.conditioning.taken(rows))
        trajectory = draw(
            denoiser, self.solver, self.noise[rows], candidate.places, candidate.actions, batch=self.batch
        )
        return trajectory.seconds / images

    def judge(self, candidate: Candidate, objective: Objective, rival: Errors | None = None) -> Judgement:
        """What a search minimises; the error is `DIVERGED` where sampling did not stay finite.

        With a rival's errors the candidate races against it.
        """
        calls = 0

        def sampled(first: int, last: int) -> Outcome:
            nonlocal calls
            outcome = self.evaluate(candidate, first, last)
            calls += outcome.trajectory.calls
            return outcome

        if objective.paired:
            judgement = race(
                lambda *part: sampled(*part).paired_errors(objective.error, self.judged_by),
                self.count,
                rival,
                objective,
            )
        else:
            outcome = sampled(0, self.count)
            finite = bool(outcome.trajectory.latents.isfinite().all())
            fid = outcome.real_fid() if objective.error == "fid" else outcome.relative_fid()
            judgement = Judgement(fid if finite and fid is not None else math.inf, np.empty(0))
        if not math.isfinite(judgement.error):
            judgement = Judgement(DIVERGED, np.empty(0))
        return replace(judgement, calls=calls)
