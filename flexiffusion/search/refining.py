"""Fitted weights refined: from following the teacher at each step to arriving where it arrives.

`fitting` chooses each step's weights for the state right after it. What counts is the sample at the end, and an early
step that is a little off may well end nearer. The end is a smooth function of all weights together, so it is improved
by Gauss and Newton's method (Levenberg-Marquardt): how the end moves with each weight is measured by moving each
weight a little and sampling on from there, a closed form says where the weights should go, and sampling tells whether
that was right. No gradient is taken, and the weights cost nothing when sampling.

What is minimised is the search's own statistic, the mean over images of the distances (`objective.Objective`), by
iteratively reweighted least squares. How far the weights may go (the damping) is chosen by cross-validation: on the
linear model, folds of images judge weights that were found without them; so a few images do not lead all others astray.

Several sets of images may be given, such as the same prompts at other guidance scales. Each counts by how far its
images are from where they were, so that a set with larger errors does not outweigh the others. Weights that were
refined at one scale alone may lose at others what the fit had gained there (benchmarks/README.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cache import Features
from ..noise import initial_scale
from ..plan import Plan
from ..run import Run
from ..schedule import Action
from ..solver import Weights, advanced
from .denoiser import Denoiser
from .fitting import DIGITS
from .paired import mean_root

FEW = 8  # full steps up to which it is done: with more, a round takes about as many calls as a search
NUDGE = 0.01  # of a weight: small against what it moves, large against rounding of float32
DAMPINGS = tuple(10 ** (1 - power / 2) for power in range(13))  # 10 to 1e-5
FOLDS = 4
REWEIGHTINGS = 8
LENGTHS = (1.0, 0.5, 0.25)  # of the way to where the linear model says; shorter ones while they end nearer
TINY = 1e-30

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Images:
    """The first images of a denoiser's set: their noise, standard normal (n, ...), and the samples that they should
    end at."""

    denoiser: Denoiser
    noise: Tensor
    wanted: Tensor


@dataclass(frozen=True, eq=False)
class _Linear:
    """How the squared error of each image depends on a change d of the weights, to first order of the sample:
    constant + 2 slope . d + d . curvature d. The error is the mean square over a sample.
    """

    constant: Array  # (n,)
    slope: Array  # (n, p)
    curvature: Array  # (n, p, p)

    def over(self, unit: float) -> _Linear:
        """The same, of errors in this unit."""
        return _Linear(self.constant / unit, self.slope / unit, self.curvature / unit)

    def errors(self, change: Array) -> Array:
        bent = np.einsum("npq,p,q->n", self.curvature, change, change)
        errors: Array = np.maximum(self.constant + 2 * self.slope @ change + bent, 0.0)
        return errors

    def best(self, damping: float, images: Array) -> Array:
        """The change that makes the mean distance of these images (a mask) least, damped."""
        change = np.zeros(self.slope.shape[1])
        floor = 1e-3 * float(np.median(self.constant[images])) + 1e-30
        for _ in range(REWEIGHTINGS):
            share = 1 / np.sqrt(np.maximum(self.errors(change)[images], floor))
            matrix = np.einsum("n,npq->pq", share, self.curvature[images])
            matrix += damping * np.diag(np.diag(matrix)) + 1e-12 * np.trace(matrix) * np.eye(len(matrix))
            change = -np.linalg.solve(matrix, share @ self.slope[images])
        return change

    def damping(self) -> float:
        """The one whose changes help images that they were not found on most."""
        folds = np.arange(len(self.constant)) % min(FOLDS, len(self.constant))
        scores = []
        for damping in DAMPINGS:
            distances = np.zeros(len(self.constant))
            for fold in range(folds.max() + 1):
                left_out = folds == fold
                distances[left_out] = np.sqrt(self.errors(self.best(damping, ~left_out))[left_out])
            scores.append(float(distances.mean()))
        return DAMPINGS[int(np.argmin(scores))]


@torch.inference_mode()
def refined(
    sets: Sequence[Images],
    places: Sequence[int],
    actions: Sequence[Action],
    weights: Weights,
    *,
    batch: int = 64,
    rounds: int = 1,
) -> Weights:
    """The weights refined on sets of images: never worse than they were on all of these together.

    Each of `rounds` takes, for every weight, the steps that come after its own, on every image. Sets on which the
    weights do not stay finite are left out. The same input gives the same weights.
    """
    courses = [_Course(images, tuple(places), tuple(actions), batch) for images in sets]
    first = [course.errors(weights) for course in courses]
    able = [(course, errors) for course, errors in zip(courses, first, strict=True) if np.isfinite(errors).all()]
    if not able:
        return weights
    units = [(course, max(mean_root(errors), TINY)) for course, errors in able]
    least = mean_root(np.concatenate([errors / unit for (_, errors), (_, unit) in zip(able, units, strict=True)]))
    for _ in range(rounds):
        linear = _together(course.linear(weights).over(unit) for course, unit in units)
        if not np.isfinite(linear.curvature).all():
            return weights
        change = linear.best(linear.damping(), np.ones(len(linear.constant), dtype=bool))
        before, began = weights, least
        for length in LENGTHS:
            tried = _changed(before, length * change)
            error = mean_root(np.concatenate([course.errors(tried) / unit for course, unit in units]))
            if error < least:
                weights, least = tried, error
            elif least < began:
                break
        if weights == before:
            break
    return weights


def few(actions: Sequence[Action]) -> bool:
    """Whether a schedule has so few full steps that its weights are worth refining."""
    return sum(action.kind == "full" for action in actions) <= FEW


def full_calls(count: float, memory: int = 4) -> float:
    """About how many full network calls of an image one round takes, of a schedule with `count` full steps and as many
    partial ones."""
    return memory * count**2 + 4 * count  # most often two lengths are tried


def _places(weights: Weights) -> list[tuple[int, int]]:
    """(step, age of the prediction) of each weight."""
    return [(index, age) for index, row in enumerate(weights) for age in range(len(row))]


def _changed(weights: Weights, change: Array) -> Weights:
    rows = [list(row) for row in weights]
    for (index, age), by in zip(_places(weights), change, strict=True):
        rows[index][age] = round(rows[index][age] + float(by), DIGITS)
    return tuple(map(tuple, rows))


def _together(parts: Iterable[_Linear]) -> _Linear:
    """Of the images of all parts."""
    arrays = zip(*((part.constant, part.slope, part.curvature) for part in parts), strict=True)
    return _Linear(*map(np.concatenate, arrays))


@dataclass(frozen=True, eq=False)
class _Course:
    """One schedule over one set of images."""

    images: Images
    places: tuple[int, ...]
    actions: tuple[Action, ...]
    batch: int

    @property
    def _denoiser(self) -> Denoiser:
        return self.images.denoiser

    def _plan(self) -> Plan:
        return Plan(levels=self._denoiser.levels.sigmas(self.places), actions=self.actions, nulls=0)

    def _slices(self) -> Iterator[slice]:
        count = len(self.images.noise)
        for first in range(0, count, self.batch):
            yield slice(first, min(first + self.batch, count))

    def errors(self, weights: Weights) -> Array:
        """Mean squared error of each image."""
        parts = [self._trace(rows, weights)[0][-1] for rows in self._slices()]
        difference = torch.cat([part.cpu() for part in parts]).double() - self.images.wanted.double()
        return np.asarray(difference.square().flatten(1).mean(1).numpy())

    def linear(self, weights: Weights) -> _Linear:
        return _together(self._linear(rows, weights) for rows in self._slices())

    def _linear(self, rows: slice, weights: Weights) -> _Linear:
        states, outputs, features = self._trace(rows, weights)
        end = states[-1].cpu().double().flatten(1)
        residual = end - self.images.wanted[rows].double().flatten(1)
        moved = []
        for index, age in _places(weights):
            nudged = states[index + 1] + (1 - self._ratio(index)) * NUDGE * outputs[index - age]
            past = tuple(reversed(outputs[: index + 1]))
            there = self._run(nudged, rows, weights, index + 1, past, features[index])
            moved.append(((there.cpu().double().flatten(1) - end) / NUDGE).float())
        directions = torch.stack(moved, 1).double()  # (n, p, d)
        size = end.shape[1]
        curvature = directions @ directions.transpose(1, 2) / size
        slope = (directions @ residual.unsqueeze(2)).squeeze(2) / size
        return _Linear(residual.square().mean(1).numpy(), slope.numpy(), curvature.numpy())

    def _ratio(self, index: int) -> float:
        levels = (*self._denoiser.levels.sigmas(self.places), 0.0)
        return levels[index + 1] / levels[index]

    def _trace(self, rows: slice, weights: Weights) -> tuple[list[Tensor], list[Tensor], list[Features]]:
        """States before each step and at the end, predictions, and what is cached after each step."""
        plan = self._plan()
        state = self.images.noise[rows].to(self._denoiser.device) * initial_scale(
            plan.levels[0], self._denoiser.levels.kind
        )
        states, outputs, features = [state], list[Tensor](), list[Features]()
        with Run(self._denoiser.network, plan, self._denoiser.levels.kind) as run:
            for index, place in enumerate(self.places):
                run.evaluate(plan.levels[index])
                outputs.append(self._denoiser(states[-1], place, rows, run))
                past = tuple(reversed(outputs))
                states.append(advanced(states[-1], past, self._ratio(index), weights[index]))
                features.append(run.features())
        return states, outputs, features

    def _run(
        self, state: Tensor, rows: slice, weights: Weights, first: int, past: tuple[Tensor, ...], features: Features
    ) -> Tensor:
        """The end of the trajectory that is at `state` before step `first`."""
        if first == len(self.places):
            return state
        plan = self._plan()
        with Run(self._denoiser.network, plan, self._denoiser.levels.kind) as run:
            run.go_on(features)
            for index in range(first, len(self.places)):
                run.evaluate(plan.levels[index])
                past = (self._denoiser(state, self.places[index], rows, run), *past)
                state = advanced(state, past, self._ratio(index), weights[index])
        return state
