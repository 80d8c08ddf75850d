"""Searched timesteps and dropped layers against hand-made ones: FID to the 10,000 test pictures of Fashion-MNIST.

    python -m benchmarks.autodiffusion steps --work FOLDER      # timesteps alone: 4, 6, 10, 15 steps
    python -m benchmarks.autodiffusion methods --work FOLDER    # the search methods at 2x, 3x, 5x
    python -m benchmarks.autodiffusion fitted --work FOLDER     # the placement search with its own solver at 2x, 5x

Searches minimise, on noise that no table sees, a paired error of `--images` images to the teacher, in the bundled
features (which bounds relative FID) or in the model's own space, or with `--fitness fid` what AutoDiffusion's paper
minimises: FID to the *training* pictures, of `--fid-images` images. Every seed is a search and a set of samples of its
own. `--model pixel` is the bundled DDPM. FID falls with the number of samples: compare rows of one table only. Prints a
Markdown table: the mean over the seeds, in brackets the lowest and the highest. Interrupted, it goes on where it
stopped, and samples are only added to when `--samples` grows.
Needs Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.real_fid import FIRST, real_features
from benchmarks.searches import searched
from flexiffusion.noise import Spacing, spaced_places
from flexiffusion.search.candidate import Candidate, plain
from flexiffusion.search.objective import ErrorName
from flexiffusion.solver import Weights
from flexiffusion.whole_file import whole_file
from flexsearch.choices import FITTED, MethodName
from flexsearch.metrics.features import BundledFeatures, extract
from flexsearch.metrics.real_fid import RealFid, statistics_of, write_statistics
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.final_table import choose, described
from flexsearch.runs.settings import Settings
from flexsearch.sampling.references import ImageSet
from flexsearch.sampling.solvers import draw

STEPS = (4, 6, 10, 15)
SPEEDUPS = (2.0, 3.0, 5.0)
FITTED_SPEEDUPS = (2.0, 5.0)
TEACHER = 30
UNIFORM: tuple[str, str, Spacing] = ("uniform", "dpmpp_2m", "uniform")
HAND_MADE: tuple[tuple[str, str, Spacing], ...] = (
    ("uniform", "ddim", "uniform"),
    ("quadratic", "ddim", "quadratic"),
    UNIFORM,
)
LOG_SNR: tuple[str, str, Spacing] = ("even in log-SNR", "dpmpp_2m", "logsnr")
SOLVER: dict[str, str] = {"ddim": "DDIM", "dpmpp_2m": "DPM-Solver++ 2M"}
NAMES = SOLVER | {FITTED: "a solver of its own"}
TIMESTEPS_ONLY: tuple[tuple[str, MethodName, bool], ...] = (
    ("AutoDiffusion: timesteps only", "autodiffusion", True),
    ("placement search: timesteps only", "placement", True),
)
PLACEMENT: tuple[str, MethodName, bool] = ("placement search: with partial steps", "placement", False)
METHODS: tuple[tuple[str, MethodName, bool], ...] = (
    ("Flexiffusion: segments", "flexiffusion", False),
    *TIMESTEPS_ONLY,
    ("AutoDiffusion: timesteps and layers", "autodiffusion", False),
    PLACEMENT,
    ("joint space", "joint", False),
)
FITNESS: dict[ErrorName, str] = {"latent": "latent error", "features": "feature error", "fid": "FID"}
Sampled = tuple[Candidate, str | Weights]  # a candidate and its solver
CHUNK = 250  # samples that are kept at a time, at most lost by an interrupt
BATCH = 50  # fastest on a CPU


class Bench:
    """What all rows share."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.module = BundledFeatures()
        self.fid = RealFid(statistics_of(real_features(self.module, "t10k")))
        train = real_features(self.module, "train")
        self.floor = self.fid(train[::2])
        self.train = self.work / "train.npz"
        if not self.train.exists():
            write_statistics(self.train, statistics_of(train))
        self.plain_experiment = self.experiment(self.settings("ddim", 2.0, "features", seed=0))
        self.plain_experiment.model.network.to(
            memory_format=torch.channels_last
        )  # a fifth faster at this size on a CPU

    def experiment(self, settings: Settings) -> Experiment:
        return Experiment(settings, self.work / "references")

    def settings(
        self,
        solver: str,
        speedup: float,
        fitness: ErrorName,
        seed: int,
        method: MethodName = "placement",
        steps_only: bool = False,
    ) -> Settings:
        paired = fitness != "fid"
        return Settings(
            model=self.arguments.model,
            method=method,
            solver=solver,
            steps=TEACHER,
            speedups=(speedup,),
            reference="teacher" if paired else str(self.train),
            error=fitness,
            evaluations=self.arguments.evaluations,
            images=self.arguments.images if paired else self.arguments.fid_images,
            seed=seed,
            plain_only=steps_only,
            batch=250,  # above any paired error's images: an evaluation is one batch
        )

    def found(self, settings: Settings) -> Sampled:
        """The best candidate of a search on its own images, and what it is sampled with: weights as `flexsearch run`
        refines them where the search fits them."""
        method = f"{settings.method}{'-steps' if settings.plain_only else ''}-{settings.speedups[0]:g}x"
        name = (
            f"{settings.solver}-{method}-seed{settings.seed}-{settings.error}-{settings.evaluations}-{settings.images}"
        )
        experiment, evaluated = searched(self.work / name, settings)
        affordable = [item for item in evaluated if item.cost <= settings.targets[0] + 1e-9]
        best = min(affordable, key=lambda item: item.error).candidate
        return best, experiment.search_evaluator.refine(best) if settings.fits else settings.chosen_solver

    def measured(self, candidate: Candidate, solver: str | Weights, seed: int) -> float:
        """FID to the test pictures."""
        experiment = self.plain_experiment
        model, prompts = experiment.model, experiment.prompts[0]
        name = solver if isinstance(solver, str) else f"fitted-{sha256(repr(solver).encode()).hexdigest()[:16]}"
        path = self.work / f"{name}-{candidate.key[:16]}-{model.sha256[:16]}-{seed}.safetensors"
        parts = [load_file(path)["features"]] if path.exists() else []
        for first in range(sum(map(len, parts)), self.arguments.samples, CHUNK):
            images = ImageSet(seed, FIRST + first, min(CHUNK, self.arguments.samples - first), prompts)
            made = draw(
                images.denoiser(model, experiment.sampling.guidance),
                solver,
                images.noise(model),
                candidate.places,
                candidate.actions,
                batch=BATCH,
            )
            parts.append(extract(self.module, model.decode(made.latents)))
            with whole_file(path) as draft:
                save_file({"features": torch.cat(parts)}, draft)
            print(f"{path.name} {first + images.count}/{self.arguments.samples}", file=sys.stderr, flush=True)
        return self.fid(torch.cat(parts)[: self.arguments.samples])

    def row(self, group: str, label: str, solver: str, sampled: list[Sampled]) -> str:
        """One candidate a seed."""
        values = [self.measured(*each, seed) for seed, each in enumerate(sampled)]
        candidates = [candidate for candidate, _ in sampled]
        cost = sum(candidate.cost(self.plain_experiment.macs) for candidate in candidates) / len(candidates)
        fid = f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        words = "; ".join(dict.fromkeys(map(described, candidates)))
        return f"| {group} | {NAMES[solver]}, {label} | {words} | {cost:.2f} | {fid} |"

    def hand_made(self, group: str, count: int, *made: tuple[str, str, Spacing]) -> Iterator[str]:
        for label, solver, spacing in made:
            candidate = plain(spaced_places(self.plain_experiment.model.levels, count, spacing))
            yield self.row(group, label, solver, [(candidate, solver)] * self.arguments.seeds)

    def deepcache(self, group: str, solver: str, speedup: float) -> Iterator[str]:
        """DeepCache at the interval and branch that are best by the first fitness, on each search's images; no row
        where none costs so little."""
        fitness = self.arguments.fitness[0]
        sessions = [
            self.experiment(self.settings(solver, speedup, fitness, seed)) for seed in range(self.arguments.seeds)
        ]
        best: list[Sampled] = [
            (entry.candidate, solver)
            for experiment in sessions
            for entry in choose(experiment, ())
            if entry.kind == "deepcache"
        ]
        if best:
            yield self.row(group, f"best DeepCache by {FITNESS[fitness]}", solver, best)

    def searches(
        self, group: str, solver: str, speedup: float, methods: tuple[tuple[str, MethodName, bool], ...]
    ) -> Iterator[str]:
        for label, method, steps_only in methods:
            for fitness in self.arguments.fitness:
                found = [
                    self.found(self.settings(solver, speedup, fitness, seed, method, steps_only))
                    for seed in range(self.arguments.seeds)
                ]
                yield self.row(group, f"{label}, by {FITNESS[fitness]}", solver, found)

    def steps(self) -> Iterator[str]:
        """Timesteps alone."""
        for count in self.arguments.only or STEPS:
            group = f"{count:g} steps"
            yield from self.hand_made(group, int(count), *HAND_MADE)
            for solver in SOLVER:
                yield from self.searches(group, solver, TEACHER / count, TIMESTEPS_ONLY)

    def methods(self) -> Iterator[str]:
        """What else a step may be."""
        solver, teacher = self.arguments.solver, plain(self.plain_experiment.teacher)
        yield self.row(
            "1x", f"uniform: the teacher, {TEACHER} steps", solver, [(teacher, solver)] * self.arguments.seeds
        )
        for speedup in self.arguments.only or SPEEDUPS:
            yield from self.hand_made(f"{speedup:g}x", int(TEACHER / speedup), *HAND_MADE, LOG_SNR)
            yield from self.deepcache(f"{speedup:g}x", solver, speedup)
            yield from self.searches(f"{speedup:g}x", solver, speedup, METHODS)

    def fitted(self) -> Iterator[str]:
        """What `flexsearch run` finds by default: a solver of its own, refined in the end."""
        for speedup in self.arguments.only or FITTED_SPEEDUPS:
            group = f"{speedup:g}x"
            yield from self.hand_made(group, int(TEACHER / speedup), UNIFORM)
            yield from self.searches(group, FITTED, speedup, (PLACEMENT,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["steps", "methods", "fitted"])
    parser.add_argument("--work", type=Path, required=True, help="keeps searches and features for a later call")
    parser.add_argument("--model", default="pixel")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fitness", nargs="+", choices=sorted(FITNESS), default=["features"], help="a search each")
    parser.add_argument("--evaluations", type=int, default=250, help="of each search")
    parser.add_argument("--images", type=int, default=8, help="of each evaluation by a paired error")
    parser.add_argument("--fid-images", type=int, default=500, help="of each evaluation by FID")
    parser.add_argument("--solver", choices=sorted(SOLVER), default="dpmpp_2m", help="of the table of methods")
    parser.add_argument("--only", type=float, nargs="*", help="these numbers of steps, or speed-ups")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    print(f"FID to the test pictures, {arguments.samples} samples, {arguments.seeds} seeds; searches: "
          f"{arguments.evaluations} evaluations of {arguments.images} images ({arguments.fid_images} by FID). "
          "Floor (half of the training pictures): "
          f"{bench.floor:.3f}.\n")  # fmt: skip
    print("| asked | schedule | | cost in full steps | FID |\n|---|---|---|---|---|", flush=True)
    tables = {"steps": bench.steps, "methods": bench.methods, "fitted": bench.fitted}
    for line in tables[arguments.table]():
        print(line, flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
