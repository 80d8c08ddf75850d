"""diffusers' own caches beside what else can be typed at the same cost, on a transformer.

    python -m benchmarks.diffusers_caches --work FOLDER [--model emoji] [--speedup 2 --speedup 3]

No search: the rows are fewer plain steps, Spectrum, EasyCache and diffusers' own TaylorSeer and First-Block-Cache, as
`flexsearch run` has them in its final table. Settings, thresholds among them, are chosen on the search images;
everything is measured on the held-out ones. A cache's cost is what was really run, counted in multiply-adds. Printed,
as Markdown: errors to the teacher with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

from flexiffusion.search.candidate import plain
from flexiffusion.search.paired import estimate
from flexiffusion.search.seeds import near
from flexsearch.models.quiet import quiet_models
from flexsearch.runs import final_table
from flexsearch.runs.cache_rivals import cache_rivals
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings

SEEDS: tuple[Literal["plain", "spectrum", "easycache"], ...] = ("plain", "spectrum", "easycache")


def told(note: str) -> None:
    print(note, file=sys.stderr, flush=True)


def entries_at(
    experiment: Experiment, speedup: float, target: float, known: final_table.Known
) -> list[final_table.Entry]:
    """The best of each kind that costs about `target` full steps."""
    found, solver = [], experiment.settings.usual_solver
    for kind in SEEDS:
        alike = [seed for seed in experiment.seeds_at([target]) if seed.kind == kind]
        able = [seed for seed in alike if near(seed.candidate.cost(experiment.costs), [target])]
        if able:
            best = known.best(able, solver)
            told(best.name)
            found.append(final_table.Entry(kind, speedup, best.name, best.candidate, solver))
    for cache in cache_rivals(experiment, target):
        told(cache.label)
        steps = plain(experiment.teacher)
        found.append(final_table.Entry(cache.kind, speedup, cache.label, steps, solver, cache=cache))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps the references")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--speedup", type=float, action="append")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=16)
    parser.add_argument("--guidance", type=float)
    options = parser.parse_args()
    quiet_models()
    settings = Settings(
        model=options.model, device=options.device, speedups=tuple(options.speedup or (2.0, 3.0)),
        images=options.images, held_out=options.held_out, guidance=options.guidance,
    )  # fmt: skip
    experiment = Experiment(settings, options.work / "references")
    entries, known = [], final_table.Known(experiment)
    for speedup, target in zip(settings.speedups, settings.targets, strict=True):
        entries += entries_at(experiment, speedup, target, known)
    evaluator = experiment.held_out_evaluator
    print("| asked | | steps | cost in full steps | latent error | feature error |\n|---|---|---|---|---|---|")
    for entry, outcome in final_table.measure(evaluator, entries, told):
        work = final_table.work_of(evaluator, entry, outcome)
        cells = [f"{entry.speedup:g}x", entry.label, f"{work.full} F + {work.partial} p", f"{work.cost:.2f}"]
        for kind in ("latent", "features"):
            error = estimate(outcome.paired_errors(kind, "teacher"))
            cells.append(f"{error.mean:.2e} ({error.low:.1e} to {error.high:.1e})")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
