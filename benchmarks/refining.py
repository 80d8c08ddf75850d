"""What a last fit and refined weights are worth, on what a run found.

    python -m benchmarks.refining RUN [--speedup 5 ...] [--images 24 ...] [--rounds 2] [--placed] [--held-out 64]

For each asked speed-up the best schedule of a finished run with fitted solvers (or of its full steps only, --placed):
its weights as the search had them, fitted once more on all search images, and from there refined on so many of them
(see `flexiffusion.search.refining`), round after round, without and with images at other guidance scales. Printed, as
Markdown: network calls of refining, of one image each; mean squared latent error to the teacher on the held-out images;
and its ratio to the first row with 95 % paired-bootstrap intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.ratios import ratio_text
from benchmarks.searches import finished
from flexiffusion.search.candidate import Candidate
from flexiffusion.search.paired import Errors
from flexiffusion.search.refining import Images, refined
from flexiffusion.solver import Weights
from flexsearch.models.checkpoint import CheckpointDenoiser, Counted
from flexsearch.runs.experiment import Experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--speedup", type=float, action="append", default=[])
    parser.add_argument("--images", type=int, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--placed", action="store_true")
    parser.add_argument("--held-out", type=int, default=64)
    options = parser.parse_args()
    experiment, evaluated = finished(options.run, held_out=options.held_out)
    print("| asked | weights | network calls | latent error to teacher | / the search's |\n|---|---|---|---|---|")
    for speedup, target in zip(experiment.settings.speedups, experiment.settings.targets, strict=True):
        if speedup in (options.speedup or experiment.settings.speedups):
            able = [item for item in evaluated if item.cost <= target + 1e-9]
            best = min((i for i in able if i.candidate.plain or not options.placed), key=lambda item: item.error)
            compare(experiment, f"{speedup:g}x", best.candidate, options.images, options.rounds)


def compare(experiment: Experiment, asked: str, candidate: Candidate, images: list[int], rounds: int) -> None:
    evaluator = experiment.search_evaluator
    assert evaluator.path is not None
    first: Errors | None = None

    def row(label: str, weights: Weights, calls: int) -> None:
        nonlocal first
        errors = experiment.held_out_evaluator.evaluate(candidate, solver=weights).latent_errors("teacher")
        ratio = "" if first is None else ratio_text(errors, first)
        first = errors if first is None else first
        print(f"| {asked} | {label} | {calls or ''} | {errors.mean():.2e} | {ratio} |", flush=True)

    row(f"fitted on {evaluator.fitted_on} images", evaluator.fit(candidate), 0)
    whole = evaluator.fit(candidate, len(evaluator.path.end))
    row(f"fitted on {len(evaluator.path.end)}", whole, 0)
    calls: list[int] = []

    def counted(images: Images, count: int) -> Images:
        assert isinstance(images.denoiser, CheckpointDenoiser)
        return Images(Counted(images.denoiser, calls.append), images.noise[:count], images.wanted[:count])

    own = Images(evaluator.denoiser, evaluator.noise, evaluator.references["teacher"].latents)
    for count in images or [evaluator.count]:
        for elsewhere in (False, True):
            sets = [counted(own, count), *(counted(other, count) for other in evaluator.elsewhere if elsewhere)]
            words, weights = f"{count}{' and other scales' if elsewhere else ''}", whole
            for number in range(rounds):
                calls.clear()
                weights = refined(sets, candidate.places, candidate.actions, weights, batch=evaluator.batch)
                row(f"refined on {words}, round {number + 1}", weights, sum(calls))


if __name__ == "__main__":
    main()
