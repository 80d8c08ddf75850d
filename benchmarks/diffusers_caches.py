"""diffusers' own caches beside what else can be typed at the same cost, on a transformer.

    python -m benchmarks.diffusers_caches --work FOLDER [--model emoji] [--speedup 2 --speedup 3]

No search: the rows are the teacher and every rival that `flexsearch run` has in its final table. Settings, thresholds
among them, are chosen on the search images; everything is measured on the held-out ones. A cache's cost is what was
really run, counted in multiply-adds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flexsearch.models.quiet import quiet_models
from flexsearch.report.table import markdown
from flexsearch.runs import final_table
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps the references")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--speedup", type=float, action="append")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--guidance", type=float)
    options = parser.parse_args()
    quiet_models()
    settings = Settings(
        model=options.model, device=options.device, speedups=tuple(options.speedup or (2.0, 3.0)),
        images=options.images, held_out=options.held_out, guidance=options.guidance,
    )  # fmt: skip
    experiment = Experiment(settings, options.work / "references")
    entries, known = [final_table.teacher(experiment)], final_table.Known(experiment)
    for speedup, target in zip(settings.speedups, settings.targets, strict=True):
        entries += final_table.rivals(experiment, speedup, target, known)
    evaluator = experiment.held_out_evaluator

    def told(note: str) -> None:
        print(note, file=sys.stderr, flush=True)

    measured = final_table.measure(evaluator, entries, told)
    seconds = final_table.timed(evaluator, measured, told)
    print(markdown(final_table.rows(evaluator, measured, seconds, {})))


if __name__ == "__main__":
    main()
