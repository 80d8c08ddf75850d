"""Tables of macro-steps: what one full step, with a few partial ones after it, costs in error anywhere on a fine grid.

A macro-step leaves grid level i with a full step, does m partial steps at even places on the way, and arrives at level
j > i. It begins on the converged trajectory (so nothing earlier matters but the solver's memory and the last full
feature, both taken from there too), and its error is its distance from that trajectory at j. Placement of plain steps
(GITS, OSS: METHOD.md section 5) is the special case m = 0.

All network calls that this takes: one full call at every level, and one partial call for every (last full level, full
level, partial level, branch) within reach. The rest is the solver's arithmetic.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from flexiffusion.cost import CostTable
from flexiffusion.cut import capturing, skipping
from flexiffusion.layout import Layout, find_layout
from flexiffusion.noise import NoiseSchedule, spaced_timesteps
from flexiffusion.predictor import log_snr, predict
from flexsearch.models.model import Conditioning, DiffusionModel
from flexsearch.sampling.references import ImageSet
from flexsearch.sampling.solvers import Solver, make_solver
from flexsearch.sampling.trajectory import Recipe
from flexsearch.whole_file import whole_file

IMAGES = 4  # that the tables are measured on
LEVELS = 32
REACH = 8  # the longest macro-step, in grid levels
MOST_PARTIALS = 3
BRANCHES = (-1, 0)  # where nearly all of the gain is (METHOD.md section 7); the search tries the others
STRIDE = 3  # of the plain steps that carry a perturbation to the end
ANCHORS = 4  # a gain is measured at every fourth level

Errors = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """What a macro-step does after its full step: `partials` steps of one branch, with linear prediction."""

    partials: int
    branch: int

    def places(self, i: int, j: int) -> tuple[int, ...] | None:
        """Grid levels of the partial steps, evenly between i and j; None where there are not enough levels."""
        if j - i <= self.partials:
            return None
        return tuple(i + round(r * (j - i) / (self.partials + 1)) for r in range(1, self.partials + 1))


KINDS = (Kind(0, -1), *(Kind(m, b) for b in BRANCHES for m in range(1, MOST_PARTIALS + 1)))


@dataclass(frozen=True, eq=False)
class Tables:
    """`errors[kind, i, g - 1, h - 1]`: the macro-step from level i over h levels, the last full step g levels before it
    (g = 1 at the first level, where there is none); infinite where there is none. A level's number is its place in
    `grid` (timesteps, falling); the end, zero noise, is level len(grid). Errors are root mean squares, means over
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

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        arrays = {"grid": np.array(self.grid), "errors": self.errors, "gains": self.gains}
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft:
            save_file({**arrays, "calls": np.array(self.calls)}, draft)

    @classmethod
    def load(cls, path: Path) -> Tables:
        arrays = load_file(path)
        return cls(tuple(arrays["grid"].tolist()), arrays["errors"], arrays["gains"], tuple(arrays["calls"].tolist()))


def known_or_measured(
    model: DiffusionModel,
    recipe: Recipe,
    images: ImageSet,
    folder: Path,
    batch: int,
    progress: Callable[[], None] = lambda: None,
) -> Tables:
    """The tables over an image set, from `folder` if they are there, else measured and kept.

    `progress` is told after each level of each batch, or as often at once.
    """
    determines = {
        "model": model.sha256,
        "prediction": model.noise_config,
        "zero_negative": model.zero_negative,
        "size": model.image_size,
        "dtype": str(model.dtype),
        "recipe": asdict(recipe),
        "images": asdict(images),
        "grid": grid_of(model.schedule),
        "kinds": [asdict(kind) for kind in KINDS],
        "reach": REACH,
        "version": 3,
    }
    key = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"tables-{key}.safetensors"
    if path.exists():
        try:
            tables = Tables.load(path)
        except (SafetensorError, KeyError):
            path.unlink()  # half written by a machine that went down: it is made again
        else:
            for _ in range(len(tables.grid) * math.ceil(images.count / batch)):
                progress()
            return tables
    tables = measure(model, recipe, images.noise(model), images.conditioning(model), batch, progress)
    tables.save(path)
    return tables


def grid_of(schedule: NoiseSchedule) -> tuple[int, ...]:
    return spaced_timesteps(schedule, min(LEVELS, len(schedule)), "logsnr")


class Measurer:
    """Measures the tables of one model and solver on one batch of images."""

    def __init__(
        self, model: DiffusionModel, recipe: Recipe, noise: Tensor, conditioning: Conditioning, branches: Sequence[int]
    ) -> None:
        self.model, self.recipe, self.conditioning = model, recipe, conditioning
        self.grid = grid_of(model.schedule)
        self.sigmas = model.schedule.sigmas(self.grid)
        self.branches = tuple(branches)
        self.layout: Layout = find_layout(model.unet)
        self.calls: dict[int | None, int] = {}
        self.images = len(noise)
        self._trace(noise)
        self.partial: dict[tuple[int, int, int, int], Tensor] = {}

    def _solver(self, levels: Sequence[int]) -> Solver:
        return make_solver(self.recipe.solver, self.model.noise_config, [self.grid[level] for level in levels])

    def _call(self, sample: Tensor, level: int, branch: int | None = None) -> Tensor:
        self.calls[branch] = self.calls.get(branch, 0) + self.images
        rows, told = self.model.network_input(sample.to(self.model.dtype), self.conditioning, self.recipe.guidance)
        return self.model.call(rows, self.grid[level], told)

    def _guided(self, output: Tensor) -> Tensor:
        return self.model.guided(output.float(), self.recipe.guidance)

    def _trace(self, noise: Tensor) -> None:
        """The trajectory over the whole grid: samples, outputs and features at every level, and the end."""
        solver = make_solver("dpmpp_2m", self.model.noise_config, self.grid)
        state = solver.start(noise.to(self.model.device))
        self.samples: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.features: list[dict[int, Tensor]] = []
        for level in range(len(self.grid)):
            sample = solver.model_input(state, level)
            with capturing(self.layout, self.branches) as capture:
                output = self._guided(self._call(sample, level))
            self.shapes = capture.shapes
            self.samples.append(sample)
            self.outputs.append(output)
            self.features.append(capture.features)
            state = solver.step(output, state, level)
        self.end = state

    def output_of_partial(self, before: int | None, full: int, level: int, branch: int) -> Tensor:
        """The guided output of a partial step at `level` after full steps at `before` and `full`."""
        key = (-1 if before is None else before, full, level, branch)
        if key not in self.partial:
            nodes = [full] if before is None else [before, full]
            history = [(log_snr(self.sigmas[node]), self.features[node][branch]) for node in nodes]
            feature = predict("linear", history, log_snr(self.sigmas[level]))
            with skipping(self.layout, branch, feature, self.shapes, True):
                self.partial[key] = self._guided(self._call(self.samples[level], level, branch))
        return self.partial[key]

    def arrival(self, before: int | None, i: int, j: int, kind: Kind) -> Tensor | None:
        """Where the macro-step arrives at level j: the sample there, or the end's latents. None: there is none."""
        places = kind.places(i, j)
        if places is None:
            return None
        last = None if before is None else (before, *(kind.places(before, i) or ()))[-1]
        levels = [*([] if last is None else [last]), i, *places]
        solver = self._solver(levels if j == len(self.grid) else [*levels, j])
        if last is not None:  # for the solver's memory only
            solver.step(self.outputs[last], self._state(solver, last, 0), 0)
        index = 0 if last is None else 1
        state = self._state(solver, i, index)
        for step, level in enumerate((i, *places), index):
            output = self.outputs[i] if level == i else self.output_of_partial(before, i, level, kind.branch)
            state = solver.step(output, state, step)
        return state if j == len(self.grid) else solver.model_input(state, len(levels))

    def _state(self, solver: Solver, level: int, index: int) -> Tensor:
        """A level's sample as the solver's state: the inverse of `model_input`, which scales."""
        sample = self.samples[level]
        return sample / solver.model_input(torch.ones(1, device=sample.device), index)

    def truth(self, level: int) -> Tensor:
        return self.end if level == len(self.grid) else self.samples[level]

    def errors(self, progress: Callable[[], None]) -> Errors:
        """As `Tables.errors`."""
        count = len(self.grid)
        table = np.full((len(KINDS), count, REACH, REACH), np.inf, np.float32)
        for i in range(count):
            for before, j in _neighbours(i, count):
                for number, kind in enumerate(KINDS):
                    if kind.partials and kind.branch not in self.branches:
                        continue
                    arrived = self.arrival(before, i, j, kind)
                    if arrived is not None:
                        gap = 0 if before is None else i - before - 1
                        table[number, i, gap, j - i - 1] = float(_rms(arrived - self.truth(j)).mean())
            # features of partial steps from here are not asked for again
            self.partial.clear()
            progress()
        return table

    def gains(self) -> Errors:
        """As `Tables.gains`."""
        count = len(self.grid)
        anchors = sorted({*range(ANCHORS, count, ANCHORS), count - 1})
        grown = []
        for j in anchors:
            arrived = self.arrival(None, j - min(j, 2), j, Kind(0, -1))
            assert arrived is not None
            change = arrived - self.samples[j]
            levels = list(range(j, count, STRIDE))
            ends = []
            for sample in (self.samples[j], self.samples[j] + change):
                solver = self._solver(levels)
                state = sample / solver.model_input(torch.ones(1, device=sample.device), 0)
                for index, level in enumerate(levels):
                    state = solver.step(self._guided(self._call(solver.model_input(state, index), level)), state, index)
                ends.append(state)
            grown.append(float(_rms(ends[1] - ends[0]).mean() / _rms(change).mean()))
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
    model: DiffusionModel,
    recipe: Recipe,
    noise: Tensor,
    conditioning: Conditioning,
    batch: int,
    progress: Callable[[], None] = lambda: None,
) -> Tables:
    """Tables of a model and a solver over the images of `noise`; `progress` is told after each level of each batch."""
    branches = [branch for branch in BRANCHES if branch < model.branches]
    parts, weights, calls = [], [], Counter[int | None]()
    for first in range(0, len(noise), batch):
        measurer = Measurer(
            model, recipe, noise[first : first + batch], conditioning.rows(first, first + batch), branches
        )
        parts.append((measurer.errors(progress), measurer.gains()))
        weights.append(measurer.images)
        calls.update(measurer.calls)
    errors, gains = (np.average([part[k] for part in parts], axis=0, weights=weights) for k in (0, 1))
    made = tuple(calls[kind] for kind in (None, *BRANCHES))
    return Tables(measurer.grid, errors.astype(np.float32), gains.astype(np.float32), made)
