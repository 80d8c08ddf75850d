"""A search that is a sampler: it takes a denoiser and a list of noise levels, spends minutes, and returns latents.

What a host has loaded (adapters, ControlNet, guidance, quantised weights, offloading) is in the denoiser, so what is
found is for exactly that. The teacher runs on the given list. Candidates are the rule's, fewer steps, full and partial
steps by turns, and then their children (`methods.placement`). Each has a solver fitted to the teacher on the first
images while it is sampled (`fitting`), and races with it over the others; the best keep the user's own solver where
that is nearer. The best so far of every asked speed-up is known at any moment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..cost import CostTable
from ..errors import FlexiffusionError
from ..metadata import Cost, ModelInfo, Provenance, Sampling
from ..schedule import FULL, Schedule, StepsPlan
from ..solver import Multistep, SolverMaker, Weights, dpmpp_2m
from .candidate import Candidate, plain
from .counting import counted_costs
from .denoiser import Denoiser
from .fitting import ABOUT_ONE, FEW_IMAGES, TeacherPath, fit
from .method import Evaluated, stream_of
from .methods.placement import PlacementMethod
from .methods.space import PlacementSpace, slots_for
from .methods.variation import Variation
from .objective import Objective
from .paired import Errors, mean_root, squared_error
from .prefixes import Prefixes
from .racing import SLACK, race, rival_of
from .seeds import evenly, listed_seeds, ruled
from .trajectory import Trajectory, joined, sample

FITTED_ON = 8  # images at most: the first stage of a race, so that the others judge what was fitted
MEMORY = 256 << 20  # bytes of states that candidates share
BRANCHES = (-1, 0)  # where nearly all of the gain is (docs/method.md 7)
ASSUMED = {-1: 0.01, 0: 0.1}  # shares of a full step, where nothing can be counted
LATENT = Objective("latent")


@dataclass(frozen=True)
class FoundSchedule:
    """The best candidate of one asked speed-up, within its cost.

    error, plain: mean squared latent error to the teacher (`paired.mean_root`), and that of fewer steps at equal cost,
                  spaced as the list is, by the same sampler
    cost:         in full calls
    weights:      of the fitted solver; none: the search's own
    """

    speedup: float
    candidate: Candidate
    weights: Weights
    error: float
    plain: float
    cost: float


@dataclass(frozen=True)
class Found:
    """schedules: of the speed-ups for which one was found, in their order; latents: their samples, (n, ...) each;
    teacher: the samples without a schedule; report: what was done, in lines."""

    schedules: tuple[FoundSchedule, ...]
    latents: tuple[Tensor, ...]
    teacher: Tensor
    report: str
    evaluations: int


@dataclass(frozen=True)
class Progress:
    """part: of the budget, 0 to 1; seconds_left: None before it can be told; best: by speed-up, the error over that of
    fewer steps; latents: of the best so far of the first speed-up."""

    part: float
    seconds_left: float | None
    evaluations: int
    best: dict[float, float]
    latents: Tensor | None = None


class Told(Protocol):
    def __call__(self, progress: Progress, /) -> None: ...


@torch.inference_mode()
def find(
    denoiser: Denoiser,
    noise: Tensor,
    levels: Sequence[float],
    speedups: Sequence[float],
    *,
    seconds: float | None = None,
    evaluations: int | None = None,
    calls: int | None = None,
    solver: SolverMaker = dpmpp_2m,
    fits: bool = True,
    seed: int = 0,
    batch: int = 64,
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
    on_progress: Told = lambda progress: None,
) -> Found:
    """Search schedules for the list of noise levels, on these images.

    noise:   standard normal (n, ...), of the denoiser's images 0 to n - 1
    levels:  the teacher's, falling, without the final 0; each is taken at the nearest place of `denoiser.levels`
    seconds, evaluations, calls: when to stop: wall time, candidates, or network calls of one image in full steps;
             whichever comes first. What is under way is finished, and each speed-up has the rule's schedule at least.
    solver:  the teacher's, and the candidates' where none is fitted. It must know its steps one by one: a step depends
             on the levels up to it and the next one only (Euler's and DPM-Solver++ 2M's do)
    fits:    give each candidate a solver of its own; False: the host's sampler cannot be replaced by it
    interrupts: exceptions that end the search with what was found until then; before the first result they go on.

    Raises:
        FlexiffusionError: no limit, no levels to search on, or samples of the teacher that are not finite.
        MemoryError: not even one image fits. (A batch that does not fit is halved before.)
    """
    if seconds is None and evaluations is None and calls is None:
        raise FlexiffusionError("search: no limit was given. Give seconds, evaluations or calls")
    search = _Search(denoiser, noise, levels, speedups, solver, fits, seed, batch)
    limits = _Limits(seconds, evaluations, calls)
    ended = "the limit was reached"
    try:
        search.begin()
        while not limits.reached(search):
            if not search.step():
                ended = "nothing new was left to try"
                break
            on_progress(search.progress(limits))
        search.complete()
    except interrupts:
        if not search.best:
            raise
        ended = "it was interrupted"
    return search.found(ended, limits)


def schedule_of(
    found: FoundSchedule,
    denoiser: Denoiser,
    name: str,
    model: ModelInfo,
    sampling: Sampling,
    evaluations: int,
    seed: int = 0,
) -> Schedule:
    """The schedule file of what was found.

    sampling: the settings of the search, its number of steps the teacher's
    """
    plan = found.candidate.steps_plan(denoiser.levels)
    if found.weights:
        rows = zip(plan.steps, found.weights, strict=True)
        plan = StepsPlan(tuple(replace(step, weights=row) for step, row in rows), plan.noise)
    return Schedule(
        name=name,
        description=f"Searched in place for {found.speedup:g}x; latent error {found.error:.3g}, of as many plain steps "
        f"{found.plain:.3g}, on the images of the search.",
        model=model,
        sampling=sampling,
        plan=plan,
        cost=Cost(speedup_macs=sampling.steps / found.cost),
        provenance=Provenance("searched", "flexiffusion, in place", seed, evaluations),
    )


def clearly(item: Evaluated, best: Evaluated) -> bool:
    """Whether a candidate is nearer than the best so far by more than chance on few images makes it: by a standard
    error of the paired differences. Of dozens of candidates that were judged on four images the first was often the
    better one on others."""
    differences = np.sqrt(item.errors) - np.sqrt(best.errors)
    spread = differences.std(ddof=1) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return bool(differences.mean() + spread < 0)


@dataclass(frozen=True)
class _Limits:
    seconds: float | None
    evaluations: int | None
    calls: int | None

    def part(self, search: _Search) -> float:
        """Of what may be spent, what was."""
        spent = (
            (time.perf_counter() - search.began, self.seconds),
            (len(search.evaluated), self.evaluations),
            (search.work, self.calls),
        )
        return max(done / limit for done, limit in spent if limit)

    def reached(self, search: _Search) -> bool:
        return self.part(search) >= 1


class _Search:
    """One search under way."""

    def __init__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        levels: Sequence[float],
        speedups: Sequence[float],
        solver: SolverMaker,
        fits: bool,
        seed: int,
        batch: int,
    ) -> None:
        self.denoiser, self.noise, self.solver, self.seed, self.batch = denoiser, noise, solver, seed, batch
        self.fits = fits
        self.speedups = tuple(speedups)
        self.places = tuple(dict.fromkeys(denoiser.levels.place(level) for level in levels))
        if len(self.places) < 3 or any(a <= b for a, b in zip(self.places, self.places[1:], strict=False)):
            raise FlexiffusionError(f"search: {len(levels)} noise levels are no falling list of at least three")
        self.targets = [len(self.places) / speedup * (1 + SLACK) for speedup in self.speedups]
        self.prefixes = Prefixes(MEMORY)
        self.evaluated: list[Evaluated] = []
        self.kept: dict[str, tuple[Weights, Tensor]] = {}  # weights and samples of the candidates that are the best
        self.few = min(FITTED_ON, len(noise))
        self.best: dict[float, Evaluated] = {}
        self.work = 0.0  # network calls of one image, in full steps
        self.diverged = 0
        self.notes: list[str] = []
        self.began = time.perf_counter()

    def begin(self) -> None:
        """The teacher, fewer steps, and the method."""
        levels = self.denoiser.levels
        taught = self._sampled(self.solver, plain(self.places), slice(0, len(self.noise)), keep=True)
        if not taught.latents.isfinite().all():
            raise FlexiffusionError(
                "search: the samples of the list itself are not finite. Draw a picture without a search first: the "
                "model, its precision or the sampler does not suit it"
            )
        self.teacher = taught.latents
        assert taught.states is not None and taught.denoised is not None
        few = slice(0, self.few)
        self.path = TeacherPath(
            self.solver, levels.sigmas(self.places), taught.states[:, few], taught.denoised[:, few], self.teacher[few]
        )
        self.work += len(self.places) * len(self.noise)
        self.costs = self._costs()
        self.ruled = [
            ruled(self.places, speedup, target, self.costs, levels.kind)
            for speedup, target in zip(self.speedups, self.targets, strict=True)
        ]
        self.method = self._method()
        self.rivals: dict[float, float] = {}
        for speedup, target in zip(self.speedups, self.targets, strict=True):
            rival = plain(evenly(self.places, int(target)))
            made = self._sampled(self.solver, rival, slice(0, len(self.noise)))
            self.work += len(rival.places) * len(self.noise)
            self.rivals[speedup] = mean_root(squared_error(made.latents, self.teacher))

    def step(self) -> bool:
        """Evaluate one candidate; False: there is none."""
        number = len(self.evaluated)
        genes = self.method.propose(number, self.evaluated, stream_of(self.seed, number))
        if genes is None:
            return False
        self._evaluate(number, genes, self.method.candidate(genes))
        return True

    def complete(self) -> None:
        """The rule's schedule of every speed-up that has none yet: a limit that the teacher alone has reached would
        leave nothing, after all that time."""
        for speedup, candidate in zip(self.speedups, self.ruled, strict=True):
            known = {item.candidate.key for item in self.evaluated}
            if speedup not in self.best and candidate.key not in known:
                self._evaluate(len(self.evaluated), self.method.variation.space.encode(candidate), candidate)

    def _evaluate(self, number: int, genes: dict[str, int], candidate: Candidate) -> None:
        cost = candidate.cost(self.costs)
        parts: list[Trajectory] = []
        weights: Weights = ()

        def errors_of(first: int, last: int) -> Errors:
            nonlocal weights
            beginning = first
            if self.fits and not parts:
                made, weights = self._fitted(candidate)
                parts.append(made)
                first = self.few
            if first < last:
                solver = partial(Multistep, weights=weights) if weights else self.solver
                parts.append(self._sampled(solver, candidate, slice(first, last)))
            return squared_error(joined(parts).latents[beginning:], self.teacher[beginning:last])

        rival = rival_of(candidate, cost, self.evaluated, len(self.noise))
        judged = race(errors_of, len(self.noise), rival, LATENT)
        self.work += len(judged.errors) * cost
        error = judged.error if math.isfinite(judged.error) else math.inf
        self.diverged += not math.isfinite(error)
        item = Evaluated(number, genes, candidate, error, cost, judged.errors)
        self.evaluated.append(item)
        if len(judged.errors) == len(self.noise) and math.isfinite(error):
            self._consider(item, weights, joined(parts).latents)

    def _consider(self, item: Evaluated, weights: Weights, latents: Tensor) -> None:
        """Keep the candidate where it is clearly the best; with the user's own solver, if its samples are nearer."""
        better = [
            speedup
            for speedup, target in zip(self.speedups, self.targets, strict=True)
            if item.cost <= target + 1e-9 and (speedup not in self.best or clearly(item, self.best[speedup]))
        ]
        if not better:
            return
        if self.fits:
            own = self._sampled(self.solver, item.candidate, slice(0, len(self.noise))).latents
            self.work += len(self.noise) * item.cost
            errors = squared_error(own, self.teacher)
            if mean_root(errors) < item.error:
                item, weights, latents = replace(item, error=mean_root(errors), errors=errors), (), own
        self.best.update(dict.fromkeys(better, item))
        used = {best.candidate.key for best in self.best.values()}
        self.kept = {key: value for key, value in self.kept.items() if key in used}
        self.kept[item.candidate.key] = (weights, latents)

    def _fitted(self, candidate: Candidate) -> tuple[Trajectory, Weights]:
        """The first images by the solver that is fitted to them, and its weights."""
        fitting = ABOUT_ONE if len(self.noise) > self.few else FEW_IMAGES
        made, weights = fit(
            self.denoiser, self.path, fitting, self.noise[: self.few], candidate.places, candidate.actions,
            batch=self.batch, prefixes=self.prefixes,
        )  # fmt: skip
        self._note(made)
        return made, weights

    def progress(self, limits: _Limits) -> Progress:
        part = min(1.0, limits.part(self))
        spent = time.perf_counter() - self.began
        first = self.best.get(self.speedups[0])
        return Progress(
            part,
            spent * (1 - part) / part if part > 0 else None,
            len(self.evaluated),
            {speedup: item.error / self.rivals[speedup] for speedup, item in self.best.items() if self.rivals[speedup]},
            None if first is None else self.kept[first.candidate.key][1],
        )

    def found(self, ended: str, limits: _Limits) -> Found:
        schedules, latents, lines = [], [], []
        for speedup in self.speedups:
            item = self.best.get(speedup)
            if item is None:
                lines.append(f"{speedup:g}x: nothing was found")
                continue
            weights, made = self.kept[item.candidate.key]
            error = mean_root(squared_error(made, self.teacher))
            schedules.append(FoundSchedule(speedup, item.candidate, weights, error, self.rivals[speedup], item.cost))
            latents.append(made)
            fulls = sum(action == FULL for action in item.candidate.actions)
            rest = len(item.candidate.actions) - fulls
            how = ", with a fitted solver" if weights else ""
            lines.append(
                f"{speedup:g}x: {fulls} full steps and {rest} partial ones, cost {item.cost:.2f} of {len(self.places)} "
                f"calls; latent error {error:.3g}{how}, of {int(len(self.places) / speedup)} plain steps "
                f"{self.rivals[speedup]:.3g}"
            )
        lines.append(
            f"{len(self.evaluated)} candidates on {len(self.noise)} images, {self.work:.0f} full calls of one image, "
            f"{time.perf_counter() - self.began:.0f} s; {ended}"
        )
        if self.diverged:
            lines.append(f"{self.diverged} candidates did not stay finite and were not considered")
        report = "\n".join([*lines, *self.notes])
        return Found(tuple(schedules), tuple(latents), self.teacher, report, len(self.evaluated))

    def _sampled(self, solver: SolverMaker, candidate: Candidate, rows: slice, keep: bool = False) -> Trajectory:
        made = sample(
            self.denoiser, solver, self.noise[rows], candidate.places, candidate.actions, origin=rows.start,
            batch=self.batch, together=keep, keep_states=keep,
            prefixes=self.prefixes if solver is self.solver else None,
        )  # fmt: skip
        self._note(made)
        return made

    def _note(self, made: Trajectory) -> None:
        self.batch = min(self.batch, made.batch)  # where memory ran out, the next one begins with less

    def _costs(self) -> CostTable:
        branches = [branch for branch in BRANCHES if branch < self.denoiser.branches]
        self.work += 2 * len(branches)
        counted = counted_costs(self.denoiser, self.noise[:1], self.places, branches)
        if counted is None:
            self.notes.append("the cost of partial steps is assumed: the network's layers cannot be counted")
            return CostTable("macs", 1.0, {branch: ASSUMED[branch] for branch in branches})
        return counted

    def _method(self) -> PlacementMethod:
        seeds = listed_seeds(self.places, self.costs, self.targets, self.ruled)
        # no more steps than the list has: the host would not run them
        slots = max(
            slots_for(self.costs, max(self.targets), len(self.places)), *(len(seed.candidate.places) for seed in seeds)
        )
        space = PlacementSpace(self.places[0], slots, min(len(self.costs.partial) - 1, self.denoiser.branches))
        return PlacementMethod(seeds, self.targets, Variation(space, self.denoiser.levels, self.costs))
