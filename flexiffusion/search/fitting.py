"""A solver fitted to a network: the weights with which a few steps follow the teacher best (docs/method.md 8.1).

The student runs once over some images, on its own states. At every step its weights are the least-squares solution of

    y*_{i+1} = r y_i + (1 - r) sum_j w_j D_{i-j}

over all pixels of all images, y* being the teacher's state at the level to come: a closed form, a handful of unknowns a
step, no gradient, no network call beyond those of sampling. Ridge regression towards the weights of DPM-Solver++ 2M
keeps them near a solver where the predictions tell little apart. They cost nothing when sampling.

Weights of a solver add up to one: then it is exact where the predictions agree. Least squares alone give that up for a
smaller error right now, and shrink the sample where the images differ much, at high noise above all; from there some
images end as other pictures. A search over many images passes such candidates by, and is the better for the freedom; on
a few images, a sum other than one has a price (`FEW_IMAGES`; benchmarks/README.md, "A search where you draw").

Weights of a step depend on the steps up to it, on the level to come and on the images, on nothing else: so they are
shared with the prefix (see `prefixes`), and the same candidate on the same images always has the same weights.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..schedule import Action
from ..solver import SolverMaker, Weights, advanced, dpmpp_2m_weights
from .denoiser import Denoiser
from .prefixes import Prefixes
from .trajectory import Trajectory, sample

DIGITS = 6  # of a weight after the point, here and in the file: what is measured is what is written


@dataclass(frozen=True)
class Fitting:
    """How weights are fitted.

    memory: predictions that a step reads, at most
    last:   the same of the last step, whose result is a free combination of predictions
    ridge:  weight of the squared distance to the usual solver's weights, in parts of the predictions' mean square
    consistency: weight of the squared distance of their sum from one, in the same parts
    """

    memory: int = 4
    last: int = 4
    ridge: float = 1e-7
    consistency: float = 0.0


ABOUT_ONE = Fitting(consistency=10.0)
FEW_IMAGES = Fitting(ridge=1e-3, consistency=10.0)  # one to eight


class TeacherPath:
    """The teacher's states at any noise level: its own, and between two of them one step of its solver from the one
    above, which takes no network call. Between the last level and the end a straight line, as the last step is.
    """

    def __init__(
        self, solver: SolverMaker, sigmas: Sequence[float], states: Tensor, denoised: Tensor, end: Tensor
    ) -> None:
        """sigmas: the teacher's levels, falling; states, denoised: (steps, n, ...) there; end: (n, ...), its samples"""
        self.solver, self.sigmas = solver, tuple(sigmas)
        self.states, self.denoised, self.end = states, denoised, end
        self._histories: list[Mapping[str, Any]] = []
        replayed = solver(self.sigmas)
        for index in range(len(self.sigmas)):
            self._histories.append(replayed.history())
            replayed.step(denoised[index], states[index], index)

    def at(self, sigma: float, images: slice) -> Tensor:
        """The states (n, ...) of these images at a level of at most the first one's; 0 is the end."""
        if sigma == 0:
            return self.end[images]
        index = bisect.bisect_right([-level for level in self.sigmas], -sigma) - 1
        if index < 0:
            raise ValueError(f"the teacher begins at noise level {self.sigmas[0]:g}, below {sigma:g}")
        here = self.sigmas[index]
        if sigma == here:
            return self.states[index][images]
        if index + 1 == len(self.sigmas):
            return self.end[images] + (self.states[index][images] - self.end[images]) * (sigma / here)
        solver = self.solver((*self.sigmas[: index + 1], sigma))
        solver.recall(self._histories[index])
        # all images, and then those: a solver may keep tensors of all of them
        return solver.step(self.denoised[index], self.states[index], index)[images]


def fit(
    denoiser: Denoiser,
    path: TeacherPath,
    fitting: Fitting,
    noise: Tensor,
    places: Sequence[int],
    actions: Sequence[Action],
    *,
    batch: int = 64,
    prefixes: Prefixes | None = None,
) -> tuple[Trajectory, Weights]:
    """The first images of the denoiser's set, sampled over `places` with weights that are fitted on them, and these.

    noise: (n, C, H, W) of these images; the path has their teacher's states, or those of more images.
    The rest is as for `trajectory.sample`.
    """
    solvers: list[FittingSolver] = []

    def maker(sigmas: Sequence[float]) -> FittingSolver:
        solvers.append(FittingSolver(sigmas, path, slice(0, len(noise)), fitting))
        return solvers[-1]

    made = sample(
        denoiser, maker, noise, places, actions, batch=batch, together=True, prefixes=prefixes, sharing=fitting
    )
    return made, solvers[-1].weights


class FittingSolver:
    """A solver that finds its weights on the way: of one trajectory, over all images that they are fitted on."""

    def __init__(self, sigmas: Sequence[float], path: TeacherPath, images: slice, fitting: Fitting) -> None:
        self.sigmas = (*sigmas, 0.0)
        self.path, self.images, self.fitting = path, images, fitting
        self.usual = dpmpp_2m_weights(sigmas)
        self.past: tuple[Tensor, ...] = ()
        self.weights: Weights = ()

    def step(self, denoised: Tensor, state: Tensor, index: int) -> Tensor:
        last = index + 2 == len(self.sigmas)
        self.past = (denoised, *self.past)[: max(self.fitting.memory, self.fitting.last)]
        read = self.past[: self.fitting.last if last else self.fitting.memory]
        ratio = self.sigmas[index + 1] / self.sigmas[index]
        target = self.path.at(self.sigmas[index + 1], self.images)
        wanted = (_double(target) - ratio * _double(state)) / (1 - ratio)
        row = fitted_row(read, wanted, self.usual[index], self.fitting.ridge, self.fitting.consistency)
        self.weights = (*self.weights, row)
        return advanced(state, read, ratio, row)

    def history(self) -> dict[str, Any]:
        return {"past": list(self.past), "weights": self.weights}

    def recall(self, history: Mapping[str, Any]) -> None:
        self.past, self.weights = tuple(history["past"]), history["weights"]


def fitted_row(
    predictions: Sequence[Tensor], wanted: Tensor, usual: Sequence[float], ridge: float, consistency: float = 0.0
) -> tuple[float, ...]:
    """The weights w, newest first, that minimise

        |wanted - sum_j w_j predictions_j|^2 + ridge m |w - usual|^2 + consistency m (sum_j w_j - 1)^2,

    m being the mean of |predictions_j|^2. In double precision on the CPU, whatever the network's.

    `usual` adds up to one. It may be shorter than there are predictions; the rest of it is zero. Where there is no
    finite solution (a trajectory that diverged), the usual weights.
    """
    columns = torch.stack([_double(prediction).flatten() for prediction in predictions], 1)
    prior = torch.zeros(len(predictions), dtype=torch.float64)
    prior[: len(usual)] = torch.tensor(usual[: len(predictions)], dtype=torch.float64)
    products = columns.T @ columns
    rest = columns.T @ (_double(wanted).flatten() - columns @ prior)
    penalty = ridge * torch.eye(len(predictions), dtype=torch.float64) + consistency  # on the change from the usual
    damping = products.diagonal().mean() * penalty
    change, failed = torch.linalg.solve_ex(products + damping, rest)
    solution = prior if failed or not change.isfinite().all() else prior + change
    return tuple(round(float(weight), DIGITS) for weight in solution)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()
