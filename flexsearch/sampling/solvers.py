"""The solvers that the tool offers, by name: the core's, and UniPC through diffusers' scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flexiffusion.noise import NoiseLevels, network_scale
from flexiffusion.search.fitting import Fitting, TeacherPath, fit
from flexiffusion.search.trajectory import Trajectory, sample
from flexiffusion.solver import Multistep, Plms, SolverMaker, Weights, check_falling, dpmpp_2m, dpmpp_3m, euler
from flexsearch.choices import SOLVERS as SOLVERS
from flexsearch.errors import ConfigError
from flexsearch.models.checkpoint import CheckpointDenoiser
from flexsearch.models.model import no_room
from flexsearch.named import callable_of, is_named


@dataclass(frozen=True)
class SamplerSettings:
    """How every trajectory of a run is sampled, whatever its schedule."""

    solver: str
    guidance: float


class UniPc:
    """UniPC of order two (arXiv 2302.04867), diffusers' scheduler with its sigmas set by hand."""

    # What diffusers' scheduler remembers of the steps that it took; lists are changed in place.
    HISTORY = ("model_outputs", "timestep_list", "lower_order_nums", "last_sample", "this_order", "_step_index")

    def __init__(self, sigmas: Sequence[float]) -> None:
        from diffusers import UniPCMultistepScheduler

        check_falling(sigmas)
        self.scales = [network_scale(sigma, "vp") for sigma in (*sigmas, 0.0)]  # diffusers' samples are y / scale
        self.scheduler: Any = UniPCMultistepScheduler(
            solver_order=2, final_sigmas_type="zero", prediction_type="sample"
        )
        self.scheduler.set_timesteps(len(sigmas))
        # It takes no list of levels; its update rules read only these two, so they are put in place of its own.
        self.scheduler.timesteps = torch.arange(len(sigmas), 0, -1)
        self.scheduler.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float32)
        self.scheduler.set_begin_index(0)

    def step(self, denoised: Tensor, state: Tensor, index: int) -> Tensor:
        time = self.scheduler.timesteps[index]
        made = self.scheduler.step(denoised, time, state / self.scales[index], return_dict=False)
        return torch.as_tensor(made[0]) * self.scales[index + 1]

    def history(self) -> dict[str, Any]:
        return {name: copy(vars(self.scheduler)[name]) for name in self.HISTORY if name in vars(self.scheduler)}

    def recall(self, history: Mapping[str, Any]) -> None:
        for name, value in history.items():
            setattr(self.scheduler, name, copy(value))


def _plms(levels: NoiseLevels) -> SolverMaker:
    return lambda sigmas: Plms(sigmas, [levels.place(sigma) for sigma in sigmas])


def _same(maker: SolverMaker) -> Callable[[NoiseLevels], SolverMaker]:
    return lambda levels: maker


# The registry: a name (one of SOLVERS, or DPM-Solver++ 3M), and what makes the solver of one trajectory for a model's
# levels. The order of 3M's last step but one depends on how many steps there are: no two lists share what begins alike,
# as a search needs it, so it is a rival only.
MAKERS: dict[str, Callable[[NoiseLevels], SolverMaker]] = {
    "ddim": _same(euler),
    "plms": _plms,
    "dpmpp_2m": _same(dpmpp_2m),
    "dpmpp_3m": _same(dpmpp_3m),
    "euler": _same(euler),
    "uni_pc": _same(UniPc),
}


VP_ONLY = ("plms", "uni_pc")  # written for samples of a variance-preserving model


def solver_maker(name: str, levels: NoiseLevels) -> SolverMaker:
    """What makes the solver of one trajectory.

    Raises ValueError for an unknown name, and ConfigError for a `package.module:name`, itself such a maker, that cannot
    be imported, and for a solver that the model's kind of noise does not have.
    """
    if is_named(name):
        own: SolverMaker = callable_of("--solver", name)
        return own
    if name not in MAKERS:
        raise ValueError(f"unknown solver {name!r}: choose from {', '.join(MAKERS)}")
    if levels.kind == "flow" and name in VP_ONLY:
        raise ConfigError("--solver", f"{name} is not there for flow models", "Choose dpmpp_2m or euler")
    return MAKERS[name](levels)


def draw(
    denoiser: CheckpointDenoiser, solver: str | Weights, noise: Tensor, places: Sequence[int], *rest: Any, **more: Any
) -> Trajectory:
    """`flexiffusion.search.trajectory.sample` by a solver's name, or with a table of weights. Raises ModelError where
    not even one image fits."""
    maker = solver_maker(solver, denoiser.levels) if isinstance(solver, str) else partial(Multistep, weights=solver)
    try:
        return sample(denoiser, maker, noise, places, *rest, **more)
    except MemoryError as error:
        raise no_room(denoiser.model) from error


def draw_fitted(
    denoiser: CheckpointDenoiser, path: TeacherPath, fitting: Fitting, noise: Tensor, *rest: Any, **more: Any
) -> tuple[Trajectory, Weights]:
    """`flexiffusion.search.fitting.fit`. Raises ModelError where not even one image fits."""
    try:
        return fit(denoiser, path, fitting, noise, *rest, **more)
    except MemoryError as error:
        raise no_room(denoiser.model) from error
