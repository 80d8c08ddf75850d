"""What a planner and a search should minimise, for images that neither has seen.

    python -m benchmarks.objectives RUN [--held-out 32]

RUN is a finished run with fitted solvers. First its planner: the sum of the steps' errors, each times its growth to the
end, against the largest of them (as LeMiCa, arXiv 2511.00090, plans). Then its trials: the schedule that is chosen for
each asked speed-up by the mean distance over the search images (what `flexsearch run` takes), by the arithmetic mean,
by the worst image, by the worst tenth, and by the mean distance and a tenth of the worst image's together. Every
schedule has its solver fitted on the search images and is measured on held-out ones. Printed, as Markdown:
latent error to the teacher, its mean and the worst image's, and the ratio to the first row with 95 % paired-bootstrap
intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ratios import ratio_text
from benchmarks.searches import finished
from flexiffusion.search.candidate import Candidate
from flexiffusion.search.macro_steps import MACRO_STEPS
from flexiffusion.search.method import Evaluated
from flexiffusion.search.objective import Objective
from flexiffusion.search.paired import Errors, mean_root
from flexiffusion.search.planner import Planner
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.final_table import solver_of

BY: dict[str, Callable[[Errors], float]] = {
    "mean distance": mean_root,
    "arithmetic mean": lambda errors: float(errors.mean()),
    "worst image": lambda errors: float(errors.max()),
    "worst tenth": Objective("latent", "worst-decile").of,
    "mean distance and worst image": lambda errors: float(np.sqrt(errors).mean() + 0.1 * np.sqrt(errors.max())),
}


class LargestStep(Planner):
    """Plans so that the largest error of a step, at the end, is least."""

    def _joined(self, reached: NDArray[np.float64], error: float) -> NDArray[np.float64]:
        return np.maximum(reached, error)


def planned(experiment: Experiment, target: float) -> Iterator[tuple[str, Candidate]]:
    tables = experiment.step_errors()
    for words, kinds in (("full steps", MACRO_STEPS[:1]), ("all kinds", MACRO_STEPS)):
        for name, planner in (("sum of steps", Planner), ("largest step", LargestStep)):
            made = planner(tables, experiment.costs, target, kinds).best(target)
            if made is not None:
                yield f"planned, {words}, {name}", made.candidate


def chosen(experiment: Experiment, evaluated: list[Evaluated], target: float) -> Iterator[tuple[str, Candidate]]:
    able = [
        item
        for item in evaluated
        if item.cost <= target + 1e-9 and len(item.errors) == experiment.search_evaluator.count
    ]
    for name, statistic in BY.items():
        best = min(able, key=lambda item: statistic(item.errors))
        yield f"found by {name}: trial {best.number}", best.candidate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--held-out", type=int, default=32)
    options = parser.parse_args()
    experiment, evaluated = finished(options.run, held_out=options.held_out)
    known: dict[str, Errors] = {}

    def errors_of(candidate: Candidate) -> Errors:
        if candidate.key not in known:
            outcome = experiment.held_out_evaluator.evaluate(candidate, solver=solver_of(experiment, candidate))
            known[candidate.key] = outcome.latent_errors("teacher")
        return known[candidate.key]

    print("| asked | schedule | cost | mean error | worst image | / the first |\n|---|---|---|---|---|---|")
    for speedup, target in zip(experiment.settings.speedups, experiment.settings.targets, strict=True):
        pairs = list(planned(experiment, target))
        for rows in (pairs[:2], pairs[2:], list(chosen(experiment, evaluated, target))):
            first: Errors | None = None
            for label, candidate in rows:
                errors = errors_of(candidate)
                ratio = "" if first is None else ratio_text(errors, first)
                first = errors if first is None else first
                cells = f"{candidate.cost(experiment.macs):.2f} | {errors.mean():.2e} | {errors.max():.2e} | {ratio}"
                print(f"| {speedup:g}x | {label} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
