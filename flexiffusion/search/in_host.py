"""What the hosts' searches share: the host's guided model as a search takes it, which solver, which levels, the files.

The search itself is `in_place`; each host calls it in the place of a sampler's loop.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..codec import dumps, write
from ..fingerprint import fingerprint_of
from ..fit import model_info
from ..layouts import find_layout
from ..metadata import Sampling
from ..noise import NoiseKind, NoiseLevels
from ..schedule import Schedule
from ..solver import SolverMaker, dpmpp_2m, euler
from .denoiser import Calls
from .in_place import Found, schedule_of

BETWEEN = 16  # places of the search between two levels of the host's list
FOLDER = "searched"  # of the user's own schedules

_SOLVERS: dict[str, SolverMaker] = {"euler": euler, "ddim": euler, "dpmpp_2m": dpmpp_2m}


@dataclass(eq=False)
class HostDenoiser:
    """The host's guided model, as a search takes it.

    predict: the sample at a place, of these images of the search -> the prediction of the clean one; on its way it
             calls the network
    calls:   what the network's calls go through just now; the host's wrapper of the network asks for it
    """

    predict: Callable[[Tensor, int, slice], Tensor]
    network: nn.Module
    levels: NoiseLevels
    device: torch.device
    calls: Calls | None = None

    @property
    def branches(self) -> int:
        return find_layout(self.network).branches

    def __call__(self, sample: Tensor, place: int, images: slice, run: Calls | None) -> Tensor:
        self.calls = run
        try:
            return self.predict(sample, place, images).float()
        finally:
            self.calls = None


def solver_for(sampler: str | None) -> tuple[str, SolverMaker, str | None]:
    """The solver that a search replays for a sampler of the host: its name, it, and what to tell if it is another."""
    if sampler in _SOLVERS:
        return ("euler" if sampler == "ddim" else str(sampler)), _SOLVERS[str(sampler)], None
    sibling = "euler" if sampler is not None and sampler.startswith("euler") else "dpmpp_2m"
    random = sampler is not None and ("ancestral" in sampler or "sde" in sampler or sampler in ("lcm", "ddpm"))
    why = "adds noise of its own, which cannot be replayed" if random else "cannot be replayed by the search"
    note = f"sampler {sampler} {why}: searched for {sibling}. Draw with that one"
    return sibling, _SOLVERS[sibling], note


def fine(levels: Sequence[float], kind: NoiseKind) -> NoiseLevels:
    """The places of a search: the list's own levels, and others between them, even in log sigma."""
    values = [levels[-1]]
    for low, high in itertools.pairwise(reversed(levels)):
        step = (math.log(high) - math.log(low)) / BETWEEN
        values += [math.exp(math.log(low) + step * i) for i in range(1, BETWEEN)]
        values.append(high)
    return NoiseLevels(tuple(values), kind)


def schedules_of(found: Found, denoiser: HostDenoiser, sampling: Sampling, seed: int) -> list[Schedule]:
    """The schedule files of what was found, with the loaded checkpoint's fingerprint.

    sampling: the settings of the search, its number of steps the teacher's
    """
    info = replace(model_info(denoiser.network), fingerprint=fingerprint_of(denoiser.network))
    return [
        schedule_of(
            one, denoiser, f"{info.family}-{sampling.sampler}-{sampling.steps}-{one.speedup:g}x", info, sampling,
            found.evaluations, seed,
        )
        for one in found.schedules
    ]  # fmt: skip


def save(schedules: Sequence[Schedule], folder: Path) -> list[Path]:
    """Writes each to a file of its own, named by what it is and a part of its hash. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for schedule in schedules:
        digest = hashlib.sha256(dumps(schedule)).hexdigest()[:8]
        paths.append(folder / f"{schedule.name}-{digest}.json")
        write(paths[-1], schedule)
    return paths
