"""Errors of macro-steps: what one full step, with a few partial ones after it, costs in error anywhere on a fine grid.

A macro-step leaves grid level i with a full step, does m partial steps at even places on the way, and arrives at level
j > i. It begins on the converged trajectory (so nothing earlier matters but the solver's memory and the last full
feature, both taken from there too), and its error is its distance from that trajectory at j. Placement of plain steps
(GITS, OSS: docs/method.md 5) is the special case m = 0.

All network calls that this takes: one full call at every level, and one partial call for every (last full level, full
level, partial level, branch) within reach. The rest is the solver's arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cost import CostTable
from ..cut import Capture, capturing, skipping
from ..errors import ModelMismatch
from ..feature import Feature
from ..layouts import Layout, find_layout
from ..noise import NoiseLevels, initial_scale, network_scale, spaced_places
from ..outputs import Shapes
from ..predictor import place_of, predict_feature
from ..solver import Solver, SolverMaker, dpmpp_2m
from .denoiser import Calls, Denoiser

T = TypeVar("T")

IMAGES = 4  # that the tables are measured on
LEVELS = 32
REACH = 8  # the longest macro-step, in grid levels
MOST_PARTIALS = 3
BRANCHES = (-1, 0)  # where nearly all of the gain is (docs/method.md 7); the search tries the others
STRIDE = 3  # of the plain steps that carry a perturbation to the end
ANCHORS = 4  # a gain is measured at every fourth level

Errors = NDArray[np.float32]


@dataclass(frozen=True)
class MacroStep:
    """What a macro-step does after its full step: `partials` steps of one branch, with linear prediction."""

    partials: int
    branch: int

    def places(self, i: int, j: int) -> tuple[int, ...] | None:
        """Grid levels of the partial steps, evenly between i and j; None where there are not enough levels."""
        if j - i <= self.partials:
            return None
        return tuple(i + round(r * (j - i) / (self.partials + 1)) for r in range(1, self.partials + 1))


MACRO_STEPS = (MacroStep(0, -1), *(MacroStep(m, b) for b in BRANCHES for m in range(1, MOST_PARTIALS + 1)))


@dataclass(frozen=True, eq=False)
class StepErrors:
    """`errors[kind, i, g - 1, h - 1]`: the macro-step from level i over h levels, the last full step g levels before it
    (g = 1 at the first level, where there is none); infinite where there is none. A level's number is its index in
    `grid` (places, falling); the end, zero noise, is level len(grid). Errors are root mean squares, means over
    images.

    `gains[j]`: by how much an error at level j has grown at the end.
    """

    grid: tuple[int, ...]
    errors: Errors
    gains: Errors
    calls: tuple[int, ...]  # network calls that they took, of one image each: full, and partial of each of `BRANCHES`

    def work(self, costs: CostTable) -> float:
        """What the calls cost, in full steps of one image."""
        full, *partial = self.calls
        shares = (costs.partial.get(branch, 0.0) / costs.full for branch in BRANCHES)
        return full + sum(count * share for count, share in zip(partial, shares, strict=True))


def grid_of(levels: NoiseLevels) -> tuple[int, ...]:
    """The places of the grid: evenly in log sigma, from the noisiest level on."""
    return spaced_places(levels, min(LEVELS, len(levels)), "logsnr")


class _Capturing:
    """Keeps the features of every call of the network that one evaluation makes: guidance may take two."""

    def __init__(self, layout: Layout, branches: Sequence[int]) -> None:
        self.layout, self.branches = layout, branches
        self.captures: list[Capture] = []

    def __call__(self, forward: Callable[[], T], sample: Tensor, chunks: Sequence[Hashable] = (0,)) -> T:
        with capturing(self.layout, self.branches, rows=len(sample)) as capture:
            result = forward()
        if capture.problem is not None:
            raise ModelMismatch(f"planner's tables: {capture.problem}. Search without the planner")
        self.captures.append(capture)
        return result


class _Skipping:
    """Gives every call of the network that one evaluation makes its own predicted feature."""

    def __init__(self, layout: Layout, branch: int, features: Sequence[tuple[Feature, Shapes]]) -> None:
        self.layout, self.branch = layout, branch
        self.features = iter(features)

    def __call__(self, forward: Callable[[], T], sample: Tensor, chunks: Sequence[Hashable] = (0,)) -> T:
        feature, shapes = next(self.features)
        with skipping(self.layout, self.branch, feature, shapes, True):
            return forward()


class Measurer:
    """Measures the tables of one denoiser and solver on one batch of images."""

    def __init__(
        self, denoiser: Denoiser, solver: SolverMaker, noise: Tensor, images: slice, branches: Sequence[int]
    ) -> None:
        self.denoiser, self.solver, self.images = denoiser, solver, images
        self.grid = grid_of(denoiser.levels)
        self.sigmas = denoiser.levels.sigmas(self.grid)
        # Differences are measured as the network sees samples, so that all levels count alike; the end is clean.
        kind = denoiser.levels.kind
        self.scales = (*(network_scale(sigma, kind) for sigma in self.sigmas), 1.0)
        self.branches = tuple(branches)
        self.layout: Layout = find_layout(denoiser.network)
        self.calls: dict[int | None, int] = {}
        self._trace(noise)
        self.partial: dict[tuple[int, int, int, int], Tensor] = {}

    def _solver(self, levels: Sequence[int]) -> Solver:
        return self.solver([self.sigmas[level] for level in levels])

    def _call(self, state: Tensor, level: int, branch: int | None = None, calls: Calls | None = None) -> Tensor:
        self.calls[branch] = self.calls.get(branch, 0) + len(state)
        return self.denoiser(state, self.grid[level], self.images, calls)

    def _trace(self, noise: Tensor) -> None:
        """The trajectory over the whole grid: states, predictions and features at every level, and the end."""
        solver = dpmpp_2m(self.sigmas)
        state = noise.to(self.denoiser.device) * initial_scale(self.sigmas[0], self.denoiser.levels.kind)
        self.states: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.features: list[list[dict[int, Feature]]] = []  # of every level, and call of the network there
        for level in range(len(self.grid)):
            seen = _Capturing(self.layout, self.branches)
            output = self._call(state, level, calls=seen)
            self.shapes = [capture.shapes for capture in seen.captures]
            self.states.append(state)
            self.outputs.append(output)
            self.features.append([capture.features for capture in seen.captures])
            state = solver.step(output, state, level)
        self.states.append(state)

    def output_of_partial(self, before: int | None, full: int, level: int, branch: int) -> Tensor:
        """The guided prediction of a partial step at `level` after full steps at `before` and `full`."""
        key = (-1 if before is None else before, full, level, branch)
        if key not in self.partial:
            nodes = [full] if before is None else [before, full]
            kind = self.denoiser.levels.kind
            at, places = place_of(self.sigmas[level], kind), [place_of(self.sigmas[node], kind) for node in nodes]
            features = []
            for number, shapes in enumerate(self.shapes):
                known = [self.features[node][number][branch] for node in nodes]
                features.append((predict_feature("linear", list(zip(places, known, strict=True)), at), shapes))
            given = _Skipping(self.layout, branch, features)
            self.partial[key] = self._call(self.states[level], level, branch, given)
        return self.partial[key]

    def arrival(self, before: int | None, i: int, j: int, kind: MacroStep) -> Tensor | None:
        """The state in which the macro-step arrives at level j, or at the end; None where there is none."""
        places = kind.places(i, j)
        if places is None:
            return None
        last = None if before is None else (before, *(kind.places(before, i) or ()))[-1]
        levels = [*([] if last is None else [last]), i, *places]
        solver = self._solver(levels if j == len(self.grid) else [*levels, j])
        if last is not None:  # for the solver's memory only
            solver.step(self.outputs[last], self.states[last], 0)
        state = self.states[i]
        for step, level in enumerate((i, *places), 0 if last is None else 1):
            if level == i:
                output = self.outputs[i]
            else:
                # Evaluated on the trajectory, where the calls of all macro-steps are shared; used where this one has
                # come to, which lies beside it: of the two predictions the noise is taken to be the same.
                output = self.output_of_partial(before, i, level, kind.branch) + state - self.states[level]
            state = solver.step(output, state, step)
        return state

    def distance(self, state: Tensor, level: int) -> float:
        """From the trajectory's own state there: root mean square of each image, mean over images."""
        return float(_rms((state - self.states[level]) / self.scales[level]).mean())

    def errors(self, progress: Callable[[], None]) -> Errors:
        """As `StepErrors.errors`."""
        count = len(self.grid)
        table = np.full((len(MACRO_STEPS), count, REACH, REACH), np.inf, np.float32)
        for i in range(count):
            for before, j in _neighbours(i, count):
                for number, kind in enumerate(MACRO_STEPS):
                    if kind.partials and kind.branch not in self.branches:
                        continue
                    arrived = self.arrival(before, i, j, kind)
                    if arrived is not None:
                        gap = 0 if before is None else i - before - 1
                        table[number, i, gap, j - i - 1] = self.distance(arrived, j)
            # features of partial steps from here are not asked for again
            self.partial.clear()
            progress()
        return table

    def gains(self) -> Errors:
        """As `StepErrors.gains`."""
        count = len(self.grid)
        anchors = sorted({*range(ANCHORS, count, ANCHORS), count - 1})
        grown = []
        for j in anchors:
            arrived = self.arrival(None, j - min(j, 2), j, MacroStep(0, -1))
            assert arrived is not None
            levels = list(range(j, count, STRIDE))
            ends = []
            for state in (self.states[j], arrived):
                solver = self._solver(levels)
                for index, level in enumerate(levels):
                    state = solver.step(self._call(state, level), state, index)
                ends.append(state)
            grown.append(float(_rms(ends[1] - ends[0]).mean()) / self.distance(arrived, j))
        return np.interp(range(count + 1), [*anchors, count], [*grown, 1.0]).astype(np.float32)


def _neighbours(i: int, count: int) -> Iterator[tuple[int | None, int]]:
    """(last full level, arrival) of the macro-steps that leave level i."""
    befores = [None] if i == 0 else range(max(0, i - REACH), i)
    for before in befores:
        for j in range(i + 1, min(i + REACH, count) + 1):
            yield before, j


def _rms(difference: Tensor) -> Tensor:
    """Root mean square of each image: (n, ...) -> (n,)."""
    return difference.double().square().flatten(1).mean(1).sqrt()


@torch.inference_mode()
def measure(
    denoiser: Denoiser, solver: SolverMaker, noise: Tensor, batch: int, progress: Callable[[], None] = lambda: None
) -> StepErrors:
    """The errors of a denoiser and a solver over the first images of its set, whose noise (n, C, H, W) is given.

    `progress` is told after each level of each batch of `batch` images.
    """
    branches = [branch for branch in BRANCHES if branch < denoiser.branches]
    parts, weights, calls = [], [], Counter[int | None]()
    for first in range(0, len(noise), batch):
        rows = slice(first, min(first + batch, len(noise)))
        measurer = Measurer(denoiser, solver, noise[rows], rows, branches)
        parts.append((measurer.errors(progress), measurer.gains()))
        weights.append(rows.stop - rows.start)
        calls.update(measurer.calls)
    errors, gains = (np.average([part[k] for part in parts], axis=0, weights=weights) for k in (0, 1))
    made = tuple(calls[kind] for kind in (None, *BRANCHES))
    return StepErrors(measurer.grid, errors.astype(np.float32), gains.astype(np.float32), made)
