"""Rules that skip network calls as each image allows: AdaptiveDiffusion and SADA, beside found schedules of equal cost.

    python -m benchmarks.adaptive [FILE ...] [--model tiny] [--images 16] [--held-out 64]

Both are written here from their papers, for variance-preserving models; the solver is DPM-Solver++ 2M, as the
teacher's. AdaptiveDiffusion (arXiv 2410.09873): a step reuses the last noise prediction while the third-order
difference of the states is small. SADA (arXiv 2507.17135): it reuses the noise at a state extrapolated by three
gradients while its stability criterion holds; then, from some step on, calls the network at every n-th step and takes
the clean prediction of the others from Lagrange's polynomial through the last four that were computed. SADA's pruning
of tokens in steps that are not stable is left out: those run in full, which is nearer and costs more.

Each rule decides for every image by itself. For every file (the bundled model's own, if none is given) the settings of
each rule, the number of steps among them, are those of the least error on the search images that cost no more than the
file does. Printed, as Markdown: mean network calls and latent error to the teacher on held-out images, and what the
file's error is of it, with 95 % paired-bootstrap intervals: below 1 the file is nearer.
"""

from __future__ import annotations

import argparse
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.ratios import ratio_text
from flexiffusion.codec import read
from flexiffusion.noise import NoiseLevels, spaced_places
from flexiffusion.search.paired import Errors, mean_root, squared_error
from flexiffusion.search.racing import SLACK
from flexiffusion.solver import dpmpp_2m
from flexsearch.evaluators.local import LocalEvaluator
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.from_file import settings_of, solver_in, to_candidate
from flexsearch.runs.settings import Settings

OWN = sorted((Path(__file__).parents[1] / "schedules").glob("tiny-*.json"))
STEPS = (30, 20, 15, 10)  # that a rule may begin with; the first is the teacher's
SKIPPED = 0.1  # part of the steps that a setting must skip at least: else it is fewer plain steps, which has a row


class Rule(ABC):
    """Decides after each step which images skip the network at the next one, and what they have instead."""

    def __init__(self, levels: NoiseLevels, places: Sequence[int]) -> None:
        sigmas = torch.tensor([*levels.sigmas(places), 0.0], dtype=torch.float64)
        self.sigmas, self.places, self.count = sigmas, places, len(places)
        self.alphas = (1 + sigmas**2).rsqrt()
        self.noise: list[Tensor] = []  # predicted noise of each step, reused where it was skipped

    def stand_in(self, index: int, state: Tensor) -> Tensor:
        """The prediction of the clean sample of images that skip this step: that of the noise predicted last."""
        return state - float(self.sigmas[index]) * self.noise[-1]

    def took(self, index: int, state: Tensor, denoised: Tensor, after: Tensor) -> Tensor:
        """Of a step all is known; which images (n,) skip the next one?"""
        self.noise.append((state - denoised) / float(self.sigmas[index]))
        return self.skips(index, state, denoised, after)

    @abstractmethod
    def skips(self, index: int, state: Tensor, denoised: Tensor, after: Tensor) -> Tensor:
        """As `took`; states (n, ...) are those of k-diffusion."""


class AdaptiveDiffusion(Rule):
    """Section 3.3: skip where |(d_i + d_{i-2}) / 2 - d_{i-1}| <= threshold d_{i-1}, d_i the mean absolute change of the
    sample in step i; the first three steps run, and never more than `most` in a row are skipped."""

    def __init__(self, levels: NoiseLevels, places: Sequence[int], threshold: float, most: int) -> None:
        super().__init__(levels, places)
        self.threshold, self.most = threshold, most
        self.changes: list[Tensor] = []
        self.row = torch.zeros(())

    def skips(self, index: int, state: Tensor, denoised: Tensor, after: Tensor) -> Tensor:
        change = after * float(self.alphas[index + 1]) - state * float(self.alphas[index])
        self.changes.append(change.abs().flatten(1).mean(1))
        if len(self.changes) < 3:
            self.row = torch.zeros(len(state))
            return torch.zeros(len(state), dtype=torch.bool)
        older, old, new = self.changes[-3:]
        skip = ((new + older) / 2 - old).abs() <= self.threshold * old
        skip &= self.row < self.most
        self.row = torch.where(skip, self.row + 1, 0.0)
        return skip


class Sada(Rule):
    """Sections 3.3 and 3.4: skip where (x' - x^) . (second difference of the gradients) < 0, x' being the solver's next
    sample and x^ the extrapolated one, whose clean prediction with the last noise stands in. From step `later` on,
    every `interval`-th step runs and Lagrange's polynomial gives the others (interval 0: never)."""

    TERMS = 4

    def __init__(
        self, levels: NoiseLevels, places: Sequence[int], first: int, most: int, interval: int, later: int
    ) -> None:
        super().__init__(levels, places)
        self.first, self.most, self.interval, self.later = first, most, interval, later if interval else len(places)
        # of the levels, by place: a sample is alpha (clean + sigma noise), so its gradient needs both derivatives
        known = np.array(levels.values)
        slopes = (np.gradient(1 / np.sqrt(1 + known**2)), np.gradient(known))
        self.slopes = [(float(slopes[0][place]), float(slopes[1][place])) for place in places]
        self.gradients: list[Tensor] = []
        self.expected: Tensor | None = None
        self.computed: list[tuple[int, Tensor]] = []
        self.row = torch.zeros(())

    def _regular(self, index: int) -> bool:
        return index >= self.later

    def stand_in(self, index: int, state: Tensor) -> Tensor:
        if not self._regular(index):
            assert self.expected is not None
            return super().stand_in(index, self.expected / float(self.alphas[index]))
        result = torch.zeros_like(state)
        for i, value in self.computed:
            others = [j for j, _ in self.computed if j != i]
            result += value * float(np.prod([(index - j) / (i - j) for j in others]))
        return result

    def skips(self, index: int, state: Tensor, denoised: Tensor, after: Tensor) -> Tensor:
        alpha, sigma = self.slopes[index]
        self.gradients.append(alpha * state + float(self.alphas[index]) * sigma * self.noise[-1])
        nothing = torch.zeros(len(state), dtype=torch.bool)
        following = index + 1
        if self.interval and (following < self.later or not self._skipped(index)):
            self.computed = [*self.computed, (index, denoised)][-self.TERMS :]
        if following == self.count or len(self.gradients) < 3:
            self.row = torch.zeros(len(state))
            return nothing
        here, before, earlier = self.gradients[-1], self.gradients[-2], self.gradients[-3]
        span = self.places[index] - self.places[following]
        self.expected = state * float(self.alphas[index]) - span * (5 * here + 5 * before - 4 * earlier) / 6
        if self._regular(following):
            return torch.full_like(nothing, self._skipped(following))
        bend = here - 2 * before + earlier
        away = after * float(self.alphas[following]) - self.expected
        stable = (away * bend).flatten(1).mean(1) < 0
        skip = stable & (self.row < self.most)
        if following < self.first or following >= self.count - 1:
            skip = nothing
        self.row = torch.where(skip, self.row + 1, 0.0)
        return skip

    def _skipped(self, index: int) -> bool:
        return self._regular(index) and (index - self.later) % self.interval != 0 and index < self.count - 1


@dataclass(frozen=True)
class Setting:
    """A rule with its knobs, over so many of the uniform steps."""

    name: str
    steps: int
    knobs: tuple[float | int, ...]

    def rule(self, levels: NoiseLevels, places: Sequence[int]) -> Rule:
        if self.name == "AdaptiveDiffusion":
            threshold, most = self.knobs
            return AdaptiveDiffusion(levels, places, float(threshold), int(most))
        return Sada(levels, places, *(int(knob) for knob in self.knobs))

    def text(self) -> str:
        if self.name == "AdaptiveDiffusion":
            return f"{self.name}, {self.steps} steps, threshold {self.knobs[0]:g}, at most {self.knobs[1]} in a row"
        first, most, interval, later = self.knobs
        words = f"{self.name}, {self.steps} steps, from step {first} on, at most {most} in a row"
        return words + (f"; from step {later} on one in {interval}" if interval else "")


def settings_to_try() -> Iterator[Setting]:
    for steps in STEPS:
        for threshold, most in itertools.product((0.01, 0.03, 0.1, 0.3), (2, 4)):  # 0.01 and 4 in its code
            yield Setting("AdaptiveDiffusion", steps, (threshold, most))
        first, later = max(3, round(0.2 * steps)), round(0.48 * steps)  # 10 and 24 of 50 in its code
        for most, interval in itertools.product((1, 4), (0, 2, 4)):  # 4 and 4 in its code
            yield Setting("SADA", steps, (first, most, interval, later if interval else 0))


@torch.inference_mode()
def sampled(engine: LocalEvaluator, setting: Setting) -> tuple[Errors, Errors]:
    """Latent errors to the teacher, and network calls, of each of the engine's images."""
    denoiser, levels = engine.denoiser, engine.model.levels
    places = spaced_places(levels, setting.steps, "uniform")
    rule, solver = setting.rule(levels, places), dpmpp_2m(levels.sigmas(places))
    state = engine.noise * (1 + levels.sigma(places[0]) ** 2) ** 0.5
    skip, calls = torch.zeros(len(state), dtype=torch.bool), np.zeros(len(state))
    for index, place in enumerate(places):
        rows = (~skip).nonzero().flatten().tolist()
        denoised = rule.stand_in(index, state) if skip.any() else torch.empty_like(state)
        if rows:
            denoised[rows] = denoiser.taken(rows)(state[rows], place, slice(0, len(rows)), None)
        calls += (~skip).numpy()
        after = solver.step(denoised, state, index)
        skip = rule.took(index, state, denoised, after)
        state = after
    return squared_error(state, engine.references["teacher"].latents), calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", default=OWN)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--references", type=Path, default=Path("runs/references"))
    options = parser.parse_args()
    base = Settings(model=options.model, images=options.images, held_out=options.held_out)
    experiment = Experiment(settings_of(read(options.files[0]), base), options.references)
    tried = []
    for setting in settings_to_try():
        errors, calls = sampled(experiment.search_evaluator, setting)
        if calls.mean() <= (1 - SKIPPED) * setting.steps and np.isfinite(errors).all():
            tried.append((setting, mean_root(errors), calls.mean()))
    print("| schedule | cost in full steps | latent error to teacher | the file's / it |\n|---|---|---|---|")
    for path in options.files:
        schedule = read(path)
        candidate, _ = to_candidate(schedule, experiment.model, experiment.teacher)
        own = solver_in(schedule, candidate, experiment.model.levels, "")
        found = experiment.held_out_evaluator.evaluate(candidate, solver=own or None).latent_errors("teacher")
        cost = candidate.cost(experiment.macs)
        print(f"| {schedule.name} | {cost:.2f} | {found.mean():.2e} | |", flush=True)
        for name in ("AdaptiveDiffusion", "SADA"):
            able = [item for item in tried if item[0].name == name and item[2] <= cost * (1 + SLACK)]
            if not able:
                print(f"| {name}: no setting is as cheap | | | |")
                continue
            best = min(able, key=lambda item: item[1])[0]
            errors, calls = sampled(experiment.held_out_evaluator, best)
            row = f"{best.text()} | {calls.mean():.2f} | {errors.mean():.2e} | {ratio_text(found, errors)}"
            print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
