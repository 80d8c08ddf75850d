"""What a search costs: the share of its wall time inside the network, and seconds per candidate.

    python -m benchmarks.search_cost --model FILE [--sizes 64 128] [--steps 5 10 20] [--images 1 2 4] [--device cuda]

First a whole search (`--evaluations`, the smallest size, middle steps, most images): references, proposals, sampling,
errors and trial store, everything but loading the model. Then one full-length candidate for every number of steps, of
images, and size, one of them varied at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.layouts import add_device_options, described, device_of
from flexiffusion.search import trajectory
from flexsearch.devices import in_words, peak_memory
from flexsearch.runs import final_table
from flexsearch.runs.driver import search
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.optuna_sampler import MethodSampler
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings


class NetworkClock:
    """Adds up what every trajectory spends inside the network."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.original = trajectory._sample_group

    def __enter__(self) -> NetworkClock:
        def watched(*args: Any) -> Any:
            made = self.original(*args)
            self.seconds += made.denoiser_seconds
            return made

        trajectory._sample_group = watched  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        trajectory._sample_group = self.original


def whole_search(settings: Settings, folder: Path) -> None:
    opened = RunFolder.create(folder, settings)
    experiment = Experiment(settings, opened.references)
    _ = experiment.model, experiment.features, experiment.macs
    marks = []

    def ignored(number: int, error: float, cost: float) -> None:
        pass

    with NetworkClock() as network:
        began = time.perf_counter()
        evaluator = experiment.search_evaluator
        marks.append((time.perf_counter() - began, network.seconds))
        sampler = MethodSampler(experiment.method, settings.seed)
        search(
            opened.study(settings, sampler),
            sampler,
            evaluator,
            experiment.costs,
            settings.evaluations,
            settings.racing,
            ignored,
        )
        marks.append((time.perf_counter() - began, network.seconds))
    (reference_wall, reference_inside), (wall, inside) = marks
    print("| part | wall, s | inside the network, s | share |\n|---|---|---|---|")
    for name, seconds, within in (
        ("references", reference_wall, reference_inside),
        (f"{settings.evaluations} evaluations", wall - reference_wall, inside - reference_inside),
        ("together", wall, inside),
    ):
        print(f"| {name} | {seconds:.1f} | {within:.1f} | {within / seconds:.1%} |", flush=True)


def candidate_seconds(settings: Settings, folder: Path) -> tuple[float, int]:
    """Seconds of one full-length candidate, and the batch that was used; the network has been warmed up."""
    experiment = Experiment(replace(settings, solver=settings.usual_solver), folder)
    candidate = final_table.teacher(experiment).candidate
    evaluator = experiment.evaluator_for_search({})
    evaluator.seconds(candidate, 1, evaluator.solver)
    began = time.perf_counter()
    evaluator.evaluate(candidate)
    return time.perf_counter() - began, evaluator.batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--images", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--evaluations", type=int, default=12)
    add_device_options(parser, wall_only=True)
    options = parser.parse_args()
    device, dtype = device_of(options)
    name = str(dtype).removeprefix("torch.")

    def settings(steps: int, images: int, size: int) -> Settings:
        return Settings(
            model=options.model, steps=steps, images=images, size=(size, size), speedups=(2.0,), device=options.device,
            dtype=name, evaluations=options.evaluations, held_out=2,
        )  # fmt: skip

    middle = sorted(options.steps)[len(options.steps) // 2]
    most, smallest = max(options.images), min(options.sizes)
    print(f"{Path(options.model).name}; {described(options)}.\n")
    print(f"Search: {options.evaluations} evaluations, T = {middle}, {most} images, {smallest} px.\n")
    with tempfile.TemporaryDirectory() as folder:
        whole_search(settings(middle, most, smallest), Path(folder) / "run")
        points = [(steps, most, smallest) for steps in options.steps]
        points += [(middle, images, smallest) for images in options.images if images != most]
        points += [(middle, most, size) for size in options.sizes if size != smallest]
        print("\n| T | images | size | s per candidate | s per image and step | batch |\n|---|---|---|---|---|---|")
        for steps, images, size in points:
            seconds, batch = candidate_seconds(settings(steps, images, size), Path(folder))
            per_step = seconds / steps / images
            print(f"| {steps} | {images} | {size} | {seconds:.2f} | {per_step:.3f} | {batch} |", flush=True)
    print(f"\nPeak memory {in_words(peak_memory(device))}.")


if __name__ == "__main__":
    main()
