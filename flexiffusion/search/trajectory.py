"""Run one schedule over a batch of images: the sampling loop of teacher and candidates alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..noise import initial_scale
from ..plan import Plan
from ..run import Run
from ..schedule import FULL, Action
from ..solver import SolverMaker
from .denoiser import Denoiser
from .devices import clock, out_of_memory, release
from .prefixes import Prefixes, State

_log = logging.getLogger("flexiffusion")


@dataclass(frozen=True)
class Trajectory:
    """What sampling gave. `states` and `denoised` (when asked for) are the solver's states at each step and what was
    predicted there: (steps, n, C, H, W).
    """

    latents: Tensor  # (n, C, H, W) float32 on the CPU
    seconds: float  # wall time of the whole loop
    denoiser_seconds: float  # the part of it inside the denoiser
    misses: int
    calls: int  # network calls that were made, of one image each; guidance counts as one
    states: Tensor | None = None
    denoised: Tensor | None = None
    batch: int = 0  # images sampled together in the end: fewer than asked for where memory ran out


@dataclass(frozen=True)
class _Course:
    """What all batches of a trajectory share."""

    denoiser: Denoiser
    solver: SolverMaker
    places: tuple[int, ...]
    plan: Plan
    batch: int
    keep_states: bool
    prefixes: Prefixes | None
    sharing: Hashable


@torch.inference_mode()
def sample(
    denoiser: Denoiser,
    solver: SolverMaker,
    noise: Tensor,
    places: Sequence[int],
    actions: Sequence[Action] | None = None,
    *,
    origin: int = 0,
    batch: int = 64,
    together: bool = False,
    keep_states: bool = False,
    prefixes: Prefixes | None = None,
    sharing: Hashable = None,
) -> Trajectory:
    """Integrate from `noise` (n, C, H, W) over `places` (falling), doing `actions` (all full when None).

    `origin` is the number of the first image in the denoiser's set. Images go through in batches of `batch`, so the
    result for an image does not depend on how many there are (beyond the last, smaller batch). A batch that does not
    fit into memory is halved, and sampled again. The first action must be full. `together`: one solver steps all images
    at once, and only the network sees them in batches. With `prefixes` it goes on from states that earlier schedules
    left there for the same images and under the same `sharing`, which names all else that the states depend on; the
    result is bitwise the same.

    Raises MemoryError when not even one image fits.
    """
    plan = Plan(levels=denoiser.levels.sigmas(places), actions=tuple(actions or [FULL] * len(places)), nulls=0)
    parts: list[Trajectory] = []
    started, first = time.perf_counter(), 0
    while first < len(noise):
        part: Trajectory | None = None
        group = len(noise) if together else batch
        course = _Course(denoiser, solver, tuple(places), plan, batch, keep_states, prefixes, sharing)
        try:
            part = _sample_group(course, noise[first : first + group], origin + first)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if part is None:  # outside of the handler, whose traceback holds on to what the batch had made
            if prefixes is not None:
                prefixes.clear()
            release(denoiser.device)
            batch = halved(batch)
            continue
        first += group
        parts.append(part)
    return replace(joined(parts), seconds=time.perf_counter() - started, batch=batch)


def joined(parts: Sequence[Trajectory]) -> Trajectory:
    """One after the other; the batch is the last one's."""

    def all_of(tensors: list[Tensor | None]) -> Tensor | None:
        there = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(there, dim=1) if there else None

    return Trajectory(
        latents=torch.cat([part.latents for part in parts]),
        seconds=sum(part.seconds for part in parts),
        denoiser_seconds=sum(part.denoiser_seconds for part in parts),
        misses=sum(part.misses for part in parts),
        calls=sum(part.calls for part in parts),
        states=all_of([part.states for part in parts]),
        denoised=all_of([part.denoised for part in parts]),
        batch=parts[-1].batch,
    )


def _sample_group(course: _Course, noise: Tensor, origin: int) -> Trajectory:
    """Images that one solver steps together; the network sees them in batches, each with features of its own."""
    denoiser, places, plan, prefixes = course.denoiser, course.places, course.plan, course.prefixes
    solver = course.solver(plan.levels)
    # The solver works in float32 whatever the network's precision, as the hosts' samplers do.
    state = noise.to(denoiser.device) * initial_scale(plan.levels[0], denoiser.levels.kind)
    states, outputs, inside, begin = [], [], 0.0, 0
    steps = list(zip(places, plan.actions, strict=True))
    key = (course.sharing, origin, len(noise))
    batches = [slice(a, min(a + course.batch, len(noise))) for a in range(0, len(noise), course.batch)]
    with ExitStack() as stack:
        runs = [stack.enter_context(Run(denoiser.network, plan, denoiser.levels.kind)) for _ in batches]
        if prefixes is not None and not course.keep_states:
            begin, known = prefixes.find(key, steps)
            if known is not None:
                state = known.latents
                solver.recall(known.history)
                for run, remembered in zip(runs, known.features, strict=True):
                    run.go_on(remembered)
        for index, place in enumerate(places[begin:], begin):
            if prefixes is not None and index > begin and plan.actions[index].kind == "full":
                features = tuple(run.features() for run in runs)
                prefixes.keep(key, steps[:index], place, State(state, solver.history(), features))
            began = clock(denoiser.device)
            parts = []
            for run, rows in zip(runs, batches, strict=True):
                run.evaluate(plan.levels[index])
                parts.append(denoiser(state[rows], place, slice(origin + rows.start, origin + rows.stop), run))
            denoised = torch.cat(parts) if len(parts) > 1 else parts[0]
            inside += clock(denoiser.device) - began
            if course.keep_states:
                states.append(state.cpu())
                outputs.append(denoised.cpu())
            state = solver.step(denoised, state, index)
        misses = sum(run.report.misses for run in runs)
    calls = (len(places) - begin) * len(noise)
    kept = (torch.stack(states), torch.stack(outputs)) if states else (None, None)
    return Trajectory(state.cpu(), 0.0, inside, misses, calls, *kept)


def halved(batch: int) -> int:
    """What to try after a batch did not fit into memory. Raises MemoryError after a batch of one image."""
    if batch == 1:
        raise MemoryError("not even one image fits into memory")
    _log.warning("out of memory at %d images together; going on with %d", batch, batch // 2)
    return batch // 2
