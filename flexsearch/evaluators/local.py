"""Evaluate candidates one after the other, in this process, on the model's device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flexiffusion.cost import CostTable
from flexiffusion.search import refining
from flexiffusion.search.candidate import Candidate
from flexiffusion.search.devices import out_of_memory, release
from flexiffusion.search.evaluator import OneByOne
from flexiffusion.search.fitting import ABOUT_ONE, Fitting, TeacherPath
from flexiffusion.search.objective import Objective, ReferenceName
from flexiffusion.search.paired import DIVERGED, Errors, mean_root, squared_error
from flexiffusion.search.prefixes import Prefixes
from flexiffusion.search.racing import Judgement, race
from flexiffusion.search.trajectory import Trajectory, halved, joined
from flexiffusion.solver import Weights
from flexsearch.metrics.features import Features, features_of
from flexsearch.metrics.perceptual import load_lpips, lpips_errors
from flexsearch.metrics.real_fid import RealFid
from flexsearch.metrics.relative_fid import RelativeFid
from flexsearch.models.checkpoint import CheckpointDenoiser, stills
from flexsearch.models.diffusers_caches import Meter
from flexsearch.models.model import no_room
from flexsearch.named import callable_of, is_named
from flexsearch.sampling.references import Reference
from flexsearch.sampling.solvers import draw, draw_fitted

CLEARLY = 0.8  # of another fit's error: what is less is nearer by more than chance on a few dozen images makes it


@dataclass(frozen=True, eq=False)
class Outcome:
    """A candidate's images, and their errors, computed when asked for. `meter` counted a cache's calls."""

    evaluator: LocalEvaluator
    trajectory: Trajectory
    rows: slice  # which of the evaluator's images
    weights: Weights | None = None  # of the solver, where it was not one by name
    meter: Meter | None = None

    @cached_property
    def images(self) -> Tensor:
        """(n, 3, height, width) float32 in [0, 1]; of videos (n, frames, 3, height, width)."""
        return self.evaluator.model.decode(self.trajectory.latents)

    @property
    def pictures(self) -> NDArray[np.float32]:
        """The first ten images, (10, height, width, 3) in [0, 1]: a strip of a comparison picture."""
        return np.asarray(stills(self.images[:10]).permute(0, 2, 3, 1).numpy())

    @cached_property
    def features(self) -> Tensor:
        evaluator = self.evaluator
        return features_of(evaluator.features, self.trajectory.latents, self.images, evaluator.batch)

    @property
    def all_features(self) -> Tensor:
        """(n, d), of videos each frame's: what a Fréchet distance is of."""
        return self.features.flatten(0, -2)

    def latent_errors(self, reference: ReferenceName) -> Errors:
        """Mean squared latent difference to the reference, per image."""
        return squared_error(self.trajectory.latents, self.evaluator.references[reference].latents[self.rows])

    def feature_errors(self, reference: ReferenceName) -> Errors:
        """Mean squared feature difference to the reference, per image."""
        return squared_error(self.features, self.evaluator.references[reference].features[self.rows])

    def perceptual_errors(self, reference: ReferenceName) -> Errors:
        """LPIPS to the reference's images, squared, per image."""
        shown = self.evaluator.references[reference].images[self.rows].float() / 255
        return lpips_errors(self.evaluator.lpips, self.images, shown)

    def paired_errors(self, error: str, reference: ReferenceName) -> Errors:
        """The errors of one of `MEASURES`, or of a `package.module:name`, per image."""
        return measure(error)(self, reference)

    def relative_fid(self) -> float:
        """Relative FID to the teacher."""
        return self.evaluator.relative_fid(self.all_features)

    def real_fid(self) -> float | None:
        """FID to the real pictures; None where there are none."""
        return None if self.evaluator.real is None else self.evaluator.real(self.all_features)


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


class LocalEvaluator(OneByOne):
    """One model with the noise and conditioning of an image set, and its references.

    The model is used by nobody else meanwhile.
    """

    def __init__(
        self,
        *,
        denoiser: CheckpointDenoiser,
        solver: str,
        noise: Tensor,
        references: dict[ReferenceName, Reference],
        features: Features,
        macs: CostTable,
        judged_by: ReferenceName,
        batch: int,
        prefixes: Prefixes | None = None,
        real: RealFid | None = None,
        path: TeacherPath | None = None,
        fitted_on: int = 0,
        elsewhere: Callable[[], Sequence[refining.Images]] = tuple,
    ) -> None:
        """solver: the one that candidates are sampled with, by name
        path: of the first images; where it is given, candidates have a solver of their own instead, fitted to it
        fitted_on: on how many of these images candidates' solvers are fitted, the first ones
        elsewhere: other images that solvers are refined on as well, drawn when they are asked for
        """
        self.denoiser = denoiser
        self.model = denoiser.model
        self.solver = solver
        self.noise = noise
        self.references = references
        self.features = features
        self.macs = macs
        self.judged_by = judged_by
        self.batch = batch
        self.prefixes = prefixes
        self.real = real
        self.path = path
        self.fitted_on = fitted_on
        self._elsewhere = elsewhere

    @cached_property
    def relative_fid(self) -> RelativeFid:
        return RelativeFid(self.references["teacher"].features.flatten(0, -2))

    @cached_property
    def lpips(self) -> nn.Module:
        return load_lpips().to(self.model.device)

    @cached_property
    def elsewhere(self) -> tuple[refining.Images, ...]:
        """Other images that solvers are refined on as well."""
        return tuple(self._elsewhere())

    @property
    def _path(self) -> TeacherPath:
        if self.path is None:
            raise ValueError("the evaluator has no teacher's path to fit a solver to")
        return self.path

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.noise)

    def evaluate(
        self, candidate: Candidate, first: int = 0, last: int | None = None, solver: str | Weights | None = None
    ) -> Outcome:
        """Sample the candidate over the evaluator's images, or those from `first` up to `last`.

        solver: another than the evaluator's own, by name or as a table of weights
        """
        rows = slice(first, self.count if last is None else last)
        if solver is None:
            return self._own(candidate, rows, None)
        trajectory = self._drawn(candidate, rows, solver, None)
        return Outcome(self, trajectory, rows, None if isinstance(solver, str) else solver)

    def fit(
        self,
        candidate: Candidate,
        images: int | None = None,
        fitting: Fitting = Fitting(),  # noqa: B008  (it is frozen)
    ) -> Weights:
        """The weights of the candidate's own solver: those that it is judged with, or fitted on so many images, the
        first ones, and in another way. Raises ValueError where the evaluator fits none."""
        return self._fitted(candidate, self.fitted_on if images is None else images, fitting)[1]

    def refine(self, candidate: Candidate) -> Weights:
        """The weights of the candidate's own solver, at their best.

        Where the candidate has many full steps, the nearest in the end of three: those that the search judged it with,
        and fits on all images of the teacher's path, with and without a price for sums other than one. Where it has
        few, it is of these two fits the one with the price unless the other is `CLEARLY` nearer, and then refined for
        where the samples of all images, and of those elsewhere, end.

        Raises ModelError where not even one image fits, and ValueError where the evaluator fits no solvers.
        """
        count, wanted = len(self._path.end), self.references[self.judged_by].latents

        def off(trajectory: Trajectory) -> float:
            error = mean_root(squared_error(trajectory.latents, wanted[:count]))
            return float(np.nan_to_num(error, nan=math.inf))

        free, about_one = (self._fitted(candidate, count, fitting) for fitting in (Fitting(), ABOUT_ONE))
        if not refining.few(candidate.actions):
            judged = self.evaluate(candidate, 0, count)
            assert judged.weights is not None
            return min(((judged.trajectory, judged.weights), free, about_one), key=lambda fitted: off(fitted[0]))[1]
        weights = (free if off(free[0]) < CLEARLY * off(about_one[0]) else about_one)[1]
        sets = (refining.Images(self.denoiser, self.noise, wanted), *self.elsewhere)
        while True:
            try:
                return refining.refined(sets, candidate.places, candidate.actions, weights, batch=self.batch)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.batch == 1:
                    raise no_room(self.model) from error
            release(self.denoiser.device)
            self.batch = halved(self.batch)

    def _own(self, candidate: Candidate, rows: slice, weights: Weights | None) -> Outcome:
        """Sampled with the evaluator's own solver. Where that is fitted, `weights` are those of this candidate, found
        on the first images; without them `rows` must begin there."""
        if self.path is None:
            return Outcome(self, self._drawn(candidate, rows, self.solver, self.prefixes), rows)
        parts, rest = [], rows
        if weights is None:
            trajectory, weights = self._fitted(candidate, self.fitted_on)
            parts, rest = [trajectory], slice(self.fitted_on, rows.stop)
        if rest.start < rest.stop:
            # the weights of a prefix are those of every candidate that begins so
            parts.append(self._drawn(candidate, rest, weights, self.prefixes))
        return Outcome(self, joined(parts), rows, weights)

    def _fitted(
        self,
        candidate: Candidate,
        count: int,
        fitting: Fitting = Fitting(),  # noqa: B008  (it is frozen)
    ) -> tuple[Trajectory, Weights]:
        """Sampled on the first images with weights that are fitted on them."""
        with torch.inference_mode():
            trajectory, weights = draw_fitted(
                self.denoiser,
                self._path,
                fitting,
                self.noise[:count],
                candidate.places,
                candidate.actions,
                batch=self.batch,
                prefixes=self.prefixes,
            )
        self.batch = trajectory.batch
        return trajectory, weights

    def _drawn(self, candidate: Candidate, rows: slice, solver: str | Weights, prefixes: Prefixes | None) -> Trajectory:
        with torch.inference_mode():
            trajectory = draw(
                self.denoiser,
                solver,
                self.noise[rows],
                candidate.places,
                candidate.actions,
                origin=rows.start,
                batch=self.batch,
                prefixes=prefixes,
            )
        self.batch = trajectory.batch
        return trajectory

    def seconds(self, candidate: Candidate, images: int, solver: str | Weights) -> float:
        """Wall time of sampling the candidate once more, per image; over the evaluator's images, going round."""
        rows = [i % len(self.noise) for i in range(images)]
        trajectory = draw(
            self.denoiser.taken(rows), solver, self.noise[rows], candidate.places, candidate.actions, batch=self.batch
        )
        return trajectory.seconds / images

    def judge(
        self, candidate: Candidate, objective: Objective, rival: Errors | None = None, solver: str | None = None
    ) -> Judgement:
        """What a search minimises; the error is `DIVERGED` where sampling did not stay finite.

        With a rival's errors the candidate races against it. `solver`: another than the evaluator's own, by name.
        """
        calls, weights = 0, None

        def sampled(first: int, last: int) -> Outcome:
            nonlocal calls, weights
            if solver is None:
                outcome = self._own(candidate, slice(first, last), weights)
            else:
                outcome = self.evaluate(candidate, first, last, solver)
            weights = outcome.weights
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
