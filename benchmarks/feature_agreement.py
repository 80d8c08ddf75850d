"""Do a checkpoint's own features rank schedules as the classifier of its pictures does?

    python -m benchmarks.feature_agreement --work FOLDER [--model tiny] [--schedules 24] [--judges 256]

Random schedules of one cost, as `benchmarks.rank_agreement` draws them; relative FID of each over the same held-out
pictures by `--features bundled` (a classifier trained on what the bundled models draw) and by `--features model` (the
network's own middle). Kendall's tau between the two, beside that of each with itself over the two halves of the
pictures, which bounds what they can agree on; and of each with the latent error's mean root. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.rank_agreement import drawn, tau
from flexiffusion.search.paired import mean_root
from flexsearch.metrics.own_features import OwnFeatures
from flexsearch.metrics.relative_fid import frechet_distance
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--schedules", type=int, default=24)
    parser.add_argument("--judges", type=int, default=256)
    options = parser.parse_args()
    settings = Settings(model=options.model, solver="dpmpp_2m", images=8, held_out=options.judges, speedups=(3.0,),
                        features="bundled")  # fmt: skip
    experiment = Experiment(settings, options.work / "references")
    evaluator, own = experiment.held_out_evaluator, OwnFeatures(experiment.model)
    half = options.judges // 2
    teacher = {"classifier": evaluator.references["teacher"].features,
               "own": own(evaluator.references["teacher"].latents, experiment.batch)}  # fmt: skip
    found: dict[str, list[float]] = {"latent": []}
    for number, candidate in enumerate(drawn(experiment, options.schedules)):
        outcome = evaluator.evaluate(candidate)
        features = {"classifier": outcome.features, "own": own(outcome.trajectory.latents, experiment.batch)}
        found["latent"].append(mean_root(outcome.latent_errors("teacher")))
        for name, values in features.items():
            for part, rows in (("", slice(None)), (" 1", slice(0, half)), (" 2", slice(half, 2 * half))):
                found.setdefault(name + part, []).append(frechet_distance(values[rows], teacher[name][rows]))
        print(f"{number + 1} of {options.schedules}", flush=True)
    print(f"\n{options.model}, {options.schedules} schedules at 3x, {options.judges} pictures; Kendall's tau (95 %)\n")
    print("| | |\n|---|---|")
    for label, one, other in (
        ("own and classifier", "own", "classifier"),
        ("classifier, its two halves", "classifier 1", "classifier 2"),
        ("own, its two halves", "own 1", "own 2"),
        ("classifier and latent error", "classifier", "latent"),
        ("own and latent error", "own", "latent"),
    ):
        print(f"| {label} | {tau(found[one], found[other])} |")


if __name__ == "__main__":
    main()
