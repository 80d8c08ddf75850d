"""The found schedules of a finished run against every rival at the same cost, fewer steps of other solvers among them.

    python -m benchmarks.rivals RUN

The run's own rivals (fewer steps of its solver, hand-made and with searched placement; DeepCache, Spectrum, EasyCache;
of transformers diffusers' own TaylorSeer and First-Block-Cache), and as many plain steps of DDIM, DPM-Solver++ 2M and
UniPC in the best of the hand-made spacings. Whatever is chosen is chosen on the search images; everything is measured
on the held-out ones. Printed, as Markdown: latent errors to the run's teacher and to the converged solution, and what
the found schedule's are of them, with 95 % paired-bootstrap intervals: below 1 the found one is better.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ratios import ratio_text
from benchmarks.searches import finished
from flexiffusion.search.objective import ReferenceName
from flexiffusion.search.seeds import plain_seeds
from flexsearch.evaluators.local import LocalEvaluator, Outcome
from flexsearch.runs import final_table
from flexsearch.runs.experiment import Experiment

SOLVERS: tuple[str, ...] = ("ddim", "dpmpp_2m")  # UniPC is a row already
REFERENCES: tuple[ReferenceName, ...] = ("teacher", "converged")


def with_solver(evaluator: LocalEvaluator, solver: str) -> LocalEvaluator:
    """The same images and references, sampled by another solver."""
    other = copy.copy(evaluator)
    other.solver, other.prefixes, other.path = solver, None, None
    return other


def other_solvers(
    experiment: Experiment, speedup: float, target: float
) -> Iterator[tuple[LocalEvaluator, final_table.Entry]]:
    """Of each solver that the run does not use the best hand-made plain steps."""
    for solver in SOLVERS:
        if solver != experiment.sampling.solver:
            evaluator = with_solver(experiment.search_evaluator, solver)
            seeds = list(plain_seeds(experiment.model.levels, [int(target + 1e-9)]))
            errors = [evaluator.judge(seed.candidate, experiment.method.objective).error for seed in seeds]
            best = seeds[errors.index(min(errors))]
            entry = final_table.Entry("plain", speedup, f"{solver}, {best.name}", best.candidate, solver)
            yield with_solver(experiment.held_out_evaluator, solver), entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    experiment, evaluated = finished(parser.parse_args().run)
    settings = experiment.settings
    chosen = final_table.choose(experiment, evaluated)
    if settings.fits:
        chosen = final_table.with_refined(experiment, chosen, evaluated, lambda label: None)
    headings = ("asked", "schedule", "cost", "to teacher", "found / it", "to converged", "found / it")
    print(f"| {' | '.join(headings)} |\n{'|---' * len(headings)}|")
    for speedup, target in zip(settings.speedups, settings.targets, strict=True):
        own = [entry for entry in chosen if entry.speedup == speedup]
        rows = [(experiment.held_out_evaluator, entry) for entry in own]
        rows += other_solvers(experiment, speedup, target)
        found: Outcome | None = None  # the first row
        for evaluator, entry in rows:
            outcome = final_table.evaluate(evaluator, entry)
            cells = []
            for name in REFERENCES:
                errors = outcome.latent_errors(name)
                ratio = ratio_text(found.latent_errors(name), errors) if found else ""
                cells += [f"{errors.mean():.2e}", ratio]
            cost = final_table.work_of(evaluator, entry, outcome).cost
            asked, label = ("", entry.label) if found else (f"{speedup:.3g}x", f"found: {entry.label}")
            print(f"| {asked} | {label} | {cost:.2f} | {' | '.join(cells)} |", flush=True)
            found = found or outcome


if __name__ == "__main__":
    main()
