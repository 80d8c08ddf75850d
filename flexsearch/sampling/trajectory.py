"""Run one schedule over a batch of images: the sampling loop of teacher and candidates alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action
from flexsearch.devices import clock, out_of_memory, release
from flexsearch.models.model import Conditioning, DiffusionModel, Told, halved
from flexsearch.sampling.prefixes import Prefixes, State
from flexsearch.sampling.solvers import SolverName, make_solver


@dataclass(frozen=True)
class Recipe:
    """How every trajectory of a run is sampled, whatever its schedule."""

    solver: SolverName
    guidance: float


@dataclass(frozen=True)
class Trajectory:
    """What sampling gave. `states` (when asked for) are the solver's inputs to each step: (steps, n, C, H, W)."""

    latents: Tensor  # (n, C, H, W) float32 on the CPU
    seconds: float  # wall time of the whole loop
    network_seconds: float  # the part of it inside the U-Net
    misses: int
    calls: int  # network calls that were made, of one image each; guidance counts as one
    states: Tensor | None = None
    batch: int = 0  # images sampled together in the end: fewer than asked for where memory ran out


@torch.inference_mode()
def sample(
    model: DiffusionModel,
    recipe: Recipe,
    noise: Tensor,
    conditioning: Conditioning,
    timesteps: Sequence[int],
    actions: Sequence[Action] | None = None,
    *,
    batch: int = 64,
    keep_states: bool = False,
    prefixes: Prefixes | None = None,
    origin: int = 0,
) -> Trajectory:
    """Integrate from `noise` (n, C, H, W) over `timesteps` (falling), doing `actions` (all full when None).

    Images go through in batches of `batch`, so the result for an image does not depend on how many there are (beyond
    the last, smaller batch). A batch that does not fit into memory is halved, and sampled again. The first action must
    be full. Raises ModelError when not even one image fits. With `prefixes` it goes on from states that earlier
    schedules left there for the same images, `origin` being the number of the first; the result is bitwise the same.
    """
    plan = Plan(levels=model.schedule.sigmas(timesteps), actions=tuple(actions or [FULL] * len(timesteps)), nulls=0)
    parts: list[Tensor] = []
    states: list[Tensor] = []
    started, inside, misses, calls = time.perf_counter(), 0.0, 0, 0
    first = 0
    while first < len(noise):
        rows = slice(first, first + batch)
        part: Trajectory | None = None
        try:
            part = _sample_batch(
                model,
                recipe,
                noise[rows],
                conditioning.rows(first, first + batch),
                timesteps,
                plan,
                keep_states,
                prefixes,
                origin + first,
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if part is None:  # outside of the handler, whose traceback holds on to what the batch had made
            if prefixes is not None:
                prefixes.clear()
            release(model.device)
            batch = halved(batch, model)
            continue
        first += batch
        parts.append(part.latents)
        inside += part.network_seconds
        misses += part.misses
        calls += part.calls
        if part.states is not None:
            states.append(part.states)
    return Trajectory(
        latents=torch.cat(parts),
        seconds=time.perf_counter() - started,
        network_seconds=inside,
        misses=misses,
        calls=calls,
        states=torch.cat(states, dim=1) if keep_states else None,
        batch=batch,
    )


def _sample_batch(
    model: DiffusionModel,
    recipe: Recipe,
    noise: Tensor,
    conditioning: Conditioning,
    timesteps: Sequence[int],
    plan: Plan,
    keep_states: bool,
    prefixes: Prefixes | None,
    origin: int,
) -> Trajectory:
    solver = make_solver(recipe.solver, model.noise_config, timesteps)
    chunks = model.chunks(recipe.guidance)
    # The solver works in float32 whatever the network's precision, as the hosts' samplers do.
    state = solver.start(noise.to(model.device))
    states, inside, begin = [], 0.0, 0
    steps, images = list(zip(timesteps, plan.actions, strict=True)), (origin, len(noise))
    with Run(model.unet, plan) as run:
        if prefixes is not None and not keep_states:
            begin, known = prefixes.find(images, steps)
            if known is not None:
                state = known.latents
                solver.recall(known.history)
                run.go_on(known.features)
        for index, timestep in enumerate(timesteps[begin:], begin):
            if prefixes is not None and index > begin and plan.actions[index].kind == "full":
                prefixes.keep(images, steps[:index], timestep, State(state, solver.history(), run.features()))
            seen = solver.model_input(state, index)
            if keep_states:
                states.append(seen.float().cpu())
            rows, told = model.network_input(seen.to(model.dtype), conditioning, recipe.guidance)
            run.evaluate(plan.levels[index])
            began = clock(model.device)

            def forward(rows: Tensor = rows, timestep: int = timestep, told: Told | None = told) -> Tensor:
                return model.call(rows, timestep, told)

            output = run(forward, rows, chunks)
            inside += clock(model.device) - began
            state = solver.step(model.guided(output.float(), recipe.guidance), state, index)
        misses = run.report.misses
    calls = (len(timesteps) - begin) * len(noise)
    return Trajectory(state.float().cpu(), 0.0, inside, misses, calls, torch.stack(states) if keep_states else None)
