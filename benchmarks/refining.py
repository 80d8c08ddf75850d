"""What a last fit and refined weights are worth, on what a run found.

    python -m benchmarks.refining RUN [--speedup 5 ...] [--images 24 ...] [--rounds 2] [--placed] [--held-out 64]

For each asked speed-up the best schedule of a finished run with fitted solvers (or of its full steps only, --placed):
its weights as the search had them; fitted once more on all search images, with free sums and with sums about one
(`flexiffusion.search.fitting`); and from both refined on so many of them (`flexiffusion.search.refining`), round after
round, without and with images at other guidance scales. Printed, as Markdown: network calls of refining, of one image
each; mean squared latent error to the teacher on the held-out images; its ratio to the first row with 95 %
paired-bootstrap intervals; and the same ratio at the other guidance scales.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.ratios import ratio_text
from benchmarks.searches import finished
from flexiffusion.search.candidate import Candidate
from flexiffusion.search.fitting import ABOUT_ONE, Fitting
from flexiffusion.search.paired import Errors
from flexiffusion.search.refining import Images, refined
from flexiffusion.solver import Weights
from flexsearch.evaluators.local import LocalEvaluator
from flexsearch.models.checkpoint import CheckpointDenoiser, Counted
from flexsearch.runs.experiment import Experiment
from flexsearch.sampling.guidance import other_scales

FITS = {"free sums": Fitting(), "sums about one": ABOUT_ONE}


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
    judges = held_out(experiment)
    head = ["asked", "weights", "network calls", "latent error to teacher", "/ the search's"]
    head += [f"at guidance {scale:g}" for scale in [*judges][1:]]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for speedup, target in zip(experiment.settings.speedups, experiment.settings.targets, strict=True):
        if speedup in (options.speedup or experiment.settings.speedups):
            able = [item for item in evaluated if item.cost <= target + 1e-9]
            best = min((i for i in able if i.candidate.plain or not options.placed), key=lambda item: item.error)
            compare(experiment, judges, f"{speedup:g}x", best.candidate, options.images, options.rounds)


def held_out(experiment: Experiment) -> dict[float, LocalEvaluator]:
    """By guidance scale, the search's own first, the held-out images and their teacher."""
    own = experiment.sampling.guidance
    folder, settings = experiment.folder, experiment.settings
    others = {scale: replace(settings, guidance=scale) for scale in other_scales(experiment.model, own)}
    return {
        own: experiment.held_out_against({"teacher"}),
        **{scale: Experiment(changed, folder).held_out_against({"teacher"}) for scale, changed in others.items()},
    }


def compare(
    experiment: Experiment,
    judges: dict[float, LocalEvaluator],
    asked: str,
    candidate: Candidate,
    images: list[int],
    rounds: int,
) -> None:
    evaluator = experiment.search_evaluator
    assert evaluator.path is not None
    first: list[Errors] = []

    def row(label: str, weights: Weights, calls: int = 0) -> None:
        errors = [judge.evaluate(candidate, solver=weights).latent_errors("teacher") for judge in judges.values()]
        ratios = (
            [ratio_text(now, then) for now, then in zip(errors, first, strict=True)] if first else [""] * len(errors)
        )
        first[:] = first or errors
        print(f"| {asked} | {label} | {calls or ''} | {errors[0].mean():.2e} | {' | '.join(ratios)} |", flush=True)

    calls: list[int] = []

    def counted(images: Images, count: int) -> Images:
        assert isinstance(images.denoiser, CheckpointDenoiser)
        return Images(Counted(images.denoiser, calls.append), images.noise[:count], images.wanted[:count])

    own = Images(evaluator.denoiser, evaluator.noise, evaluator.references["teacher"].latents)
    row(f"fitted on {evaluator.fitted_on} images", evaluator.fit(candidate))
    for fit, fitting in FITS.items():
        whole = evaluator.fit(candidate, len(evaluator.path.end), fitting)
        row(f"fitted on {len(evaluator.path.end)}, {fit}", whole)
        for count in images or [evaluator.count]:
            for elsewhere in (False, True) if evaluator.elsewhere else (False,):
                sets = [counted(own, count), *(counted(other, count) for other in evaluator.elsewhere if elsewhere)]
                weights, words = whole, f"refined on {count}{' and at other scales' if elsewhere else ''}"
                for number in range(rounds):
                    calls.clear()
                    weights = refined(sets, candidate.places, candidate.actions, weights, batch=evaluator.batch)
                    row(f"{words}, round {number + 1}", weights, sum(calls))


if __name__ == "__main__":
    main()
