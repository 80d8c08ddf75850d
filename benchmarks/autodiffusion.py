"""Searched timesteps and dropped layers against hand-made ones: FID to the 10,000 test pictures of Fashion-MNIST.

    python -m benchmarks.autodiffusion steps --work FOLDER      # 4, 6, 10, 15 steps; timesteps alone, and with layers
    python -m benchmarks.autodiffusion methods --work FOLDER    # the three search methods at 2x, 3x, 5x

Searches minimise FID to the *training* pictures, on noise that no table sees; every seed is a search and a set of
samples of its own. `--model pixel` is the bundled DDPM. FID falls with the number of samples: compare rows of one table
only. Prints a Markdown table: the mean over the seeds, in brackets the lowest and the highest. Interrupted, it goes on
where it stopped. Needs Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.searches import searched
from flexsearch.metrics.features import BundledFeatures, extract
from flexsearch.metrics.real_fid import RealFid, statistics_of, write_statistics
from flexsearch.sampling.levels import Spacing, spaced_timesteps
from flexsearch.sampling.references import ImageSet
from flexsearch.sampling.solvers import SolverName
from flexsearch.sampling.trajectory import Recipe, sample
from flexsearch.search.candidate import Candidate, plain
from flexsearch.search.session import Session
from flexsearch.search.settings import MethodName, Settings
from flexsearch.search.verdict import described
from tools.fashion_mnist import read, to_rgb

STEPS = (4, 6, 10, 15)
SPEEDUPS = (2.0, 3.0, 5.0)
TEACHER = 30
HAND_MADE: tuple[tuple[str, SolverName, Spacing], ...] = (
    ("DDIM, uniform", "ddim", "uniform"),
    ("DDIM, quadratic", "ddim", "quadratic"),
    ("DPM-Solver++ 2M, uniform", "dpmpp_2m", "uniform"),
    ("DPM-Solver++ 2M, even in log-SNR", "dpmpp_2m", "logsnr"),
)
METHODS: tuple[tuple[str, MethodName, bool], ...] = (
    ("Flexiffusion: segments", "flexiffusion", False),
    ("AutoDiffusion: timesteps only", "autodiffusion", True),
    ("AutoDiffusion: timesteps and layers", "autodiffusion", False),
    ("joint space", "joint", False),
)
FIRST = 1 << 28  # image indices apart from those of any search or held-out set
BATCH = 250


class Bench:
    """What all rows share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.module = BundledFeatures()
        self.train = self.work / "train.npz"
        if not self.train.exists():
            write_statistics(self.train, statistics_of(self.real("train")))
        self.fid = RealFid(statistics_of(self.real("t10k")))
        self.plain_session = self.session("autodiffusion", TEACHER / 4, 0, True)

    def real(self, split: str) -> Tensor:
        pictures = read(split)[0]  # type: ignore[arg-type]
        return torch.cat([extract(self.module, to_rgb(chunk)) for chunk in pictures.split(1000)])

    def settings(self, method: MethodName, speedup: float, seed: int, steps_only: bool) -> Settings:
        return Settings(
            model=self.arguments.model,
            method=method,
            solver="ddim",
            steps=TEACHER,
            speedups=(speedup,),
            reference=str(self.train),
            evaluations=self.arguments.evaluations,
            images=self.arguments.images,
            seed=seed,
            planner=False,
            plain_only=steps_only,
            batch=BATCH,
        )

    def session(self, method: MethodName, speedup: float, seed: int, steps_only: bool) -> Session:
        return Session(self.settings(method, speedup, seed, steps_only), self.work / "references")

    def found(self, method: MethodName, speedup: float, seed: int, steps_only: bool) -> Candidate:
        """The best candidate of a search on its own images."""
        name = f"{method}{'-steps' if steps_only else ''}-{speedup:g}x-seed{seed}-{self.arguments.evaluations}"
        session, evaluated = searched(self.work / name, self.settings(method, speedup, seed, steps_only))
        affordable = [item for item in evaluated if item.cost <= session.settings.targets[0] + 1e-9]
        return min(affordable, key=lambda item: item.error).candidate

    def measured(self, recipe: Recipe, candidate: Candidate, seed: int) -> float:
        """FID to the test pictures."""
        model, count = self.plain_session.model, self.arguments.samples
        path = self.work / f"{recipe.solver}-{candidate.key[:16]}-{model.sha256[:16]}-{seed}-{count}.safetensors"
        if not path.exists():
            parts = []
            prompts = self.plain_session.prompts[0]
            for first in range(0, count, BATCH):
                images = ImageSet(seed, FIRST + first, min(BATCH, count - first), prompts)
                made = sample(
                    model,
                    recipe,
                    images.noise(model),
                    images.conditioning(model),
                    candidate.timesteps,
                    candidate.actions,
                    batch=BATCH,
                )
                parts.append(extract(self.module, model.decode(made.latents)))
                print(f"{path.name} {first + images.count}/{count}", file=sys.stderr, flush=True)
            save_file({"features": torch.cat(parts)}, path)
        return self.fid(load_file(path)["features"])

    def row(self, group: str, label: str, solver: SolverName, candidates: list[Candidate]) -> str:
        """One candidate a seed; what is said of it is the first one's."""
        recipe = dataclasses.replace(self.plain_session.recipe, solver=solver)
        values = [self.measured(recipe, candidate, seed) for seed, candidate in enumerate(candidates)]
        cost = sum(candidate.cost(self.plain_session.table) for candidate in candidates) / len(candidates)
        fid = f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        return f"| {group} | {label} | {described(candidates[0])} | {cost:.2f} | {fid} |"

    def hand_made(self, group: str, count: int) -> Iterator[str]:
        for label, solver, spacing in HAND_MADE:
            candidate = plain(spaced_timesteps(self.plain_session.model.schedule, count, spacing))
            yield self.row(group, label, solver, [candidate] * self.arguments.seeds)

    def searches(self, group: str, speedup: float, methods: tuple[tuple[str, MethodName, bool], ...]) -> Iterator[str]:
        for label, method, steps_only in methods:
            found = [self.found(method, speedup, seed, steps_only) for seed in range(self.arguments.seeds)]
            yield self.row(group, f"DDIM, {label}", "ddim", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["steps", "methods"])
    parser.add_argument("--work", type=Path, required=True, help="keeps searches and features for a later call")
    parser.add_argument("--model", default="pixel")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=500, help="of each search")
    parser.add_argument("--images", type=int, default=1000, help="of each evaluation")
    parser.add_argument("--only", type=float, nargs="*", help="these numbers of steps, or speed-ups")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    floor = bench.fid(bench.real("train")[::2])
    print(f"FID to the test pictures, {arguments.samples} samples, {arguments.seeds} seeds; searches: "
          f"{arguments.evaluations} evaluations of {arguments.images} images. Floor (half of the training pictures): "
          f"{floor:.3f}.\n")  # fmt: skip
    print("| asked | schedule | | cost in full steps | FID |\n|---|---|---|---|---|", flush=True)
    if arguments.table == "steps":
        for count in arguments.only or STEPS:
            for line in bench.hand_made(f"{count:g} steps", int(count)):
                print(line, flush=True)
            for line in bench.searches(f"{count:g} steps", TEACHER / count, METHODS[1:3]):
                print(line, flush=True)
        return
    teacher = plain(bench.plain_session.teacher)
    print(bench.row("1x", f"DDIM, uniform: the teacher, {TEACHER} steps", "ddim", [teacher] * arguments.seeds))
    for speedup in arguments.only or SPEEDUPS:
        for line in bench.hand_made(f"{speedup:g}x", int(TEACHER / speedup)):
            print(line, flush=True)
        for line in bench.searches(f"{speedup:g}x", speedup, METHODS):
            print(line, flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
