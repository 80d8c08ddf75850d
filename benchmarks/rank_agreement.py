"""Does the paired error of a few images rank schedules as relative FID of many does?

    python -m benchmarks.rank_agreement --work FOLDER [--schedules 40] [--judges 1000]

Random schedules of one cost, as a search draws them: a seed or a plan, changed one to three times, brought to the cost.
Kendall's tau between what 8, 32 and 128 images say of them (their latent errors' mean root, which the search
minimises; their mean; feature errors; relative FID of so few) and relative FID over `--judges` *other* images and
prompts; below it the same between two halves of the judges, which bounds what any measure can reach. Intervals: 95 %,
bootstrap over the schedules. Prints a Markdown table. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from flexiffusion.search.candidate import Candidate
from flexiffusion.search.method import stream_of
from flexiffusion.search.methods.placement import PlacementMethod
from flexiffusion.search.paired import mean_root
from flexsearch.evaluators.local import Outcome
from flexsearch.metrics.relative_fid import frechet_distance
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings

FEW = (8, 32, 128)
BOOTSTRAPS = 1000


def drawn(experiment: Experiment, count: int) -> list[Candidate]:
    """Different random schedules that cost at most, and nearly, what was asked."""
    method, (target,) = experiment.method, experiment.settings.targets
    assert isinstance(method, PlacementMethod)
    found: dict[str, Candidate] = {}
    stream = stream_of(experiment.settings.seed, 0)
    while len(found) < count:
        seed = method.seeds[int(stream.integers(len(method.seeds)))].candidate
        child = method.variation.fit(method.variation.mutate(seed, stream, False), target, stream)
        if 0.8 * target <= child.cost(experiment.costs) <= target + 1e-9:
            found.setdefault(child.key, child)
    return list(found.values())


def said(outcome: Outcome, n: int) -> dict[str, float]:
    """What the first n images say of a schedule."""
    latent, features = outcome.latent_errors("teacher")[:n], outcome.feature_errors("teacher")[:n]
    return {
        "latent error, mean root": mean_root(latent),
        "latent error, mean": float(latent.mean()),
        "feature error, mean root": mean_root(features),
        "relative FID": frechet_distance(outcome.features[:n], outcome.evaluator.references["teacher"].features[:n]),
    }


def judged(experiment: Experiment, candidate: Candidate) -> dict[str, Any]:
    few, many = (
        evaluator.evaluate(candidate) for evaluator in (experiment.search_evaluator, experiment.held_out_evaluator)
    )
    features, teacher = many.features, many.evaluator.references["teacher"].features
    half = len(features) // 2
    return {
        "few": {str(n): said(few, n) for n in FEW},
        "many": many.relative_fid(),
        "halves": [frechet_distance(features[k : k + half], teacher[k : k + half]) for k in (0, half)],
    }


def tau(values: list[float], truth: list[float]) -> str:
    """Kendall's tau, with its interval."""
    stream, pairs = np.random.default_rng(0), np.array([values, truth])
    draws = stream.integers(len(values), size=(BOOTSTRAPS, len(values)))
    taus = [kendalltau(*pairs[:, draw]).statistic for draw in draws]
    low, high = np.nanpercentile(taus, [2.5, 97.5])
    return f"{kendalltau(values, truth).statistic:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--schedules", type=int, default=40)
    parser.add_argument("--judges", type=int, default=1000)
    parser.add_argument("--speedup", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, help="as the model has it; 1 halves the work")
    options = parser.parse_args()
    settings = Settings(
        solver="dpmpp_2m",
        steps=options.steps,
        guidance=options.guidance,
        speedups=(options.speedup,),
        images=max(FEW),
        held_out=options.judges,
    )
    experiment = Experiment(settings, options.work / "references")
    path = options.work / "judged.json"
    kept: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    candidates = drawn(experiment, options.schedules)
    for number, candidate in enumerate(candidates):
        if candidate.key not in kept:
            kept[candidate.key] = judged(experiment, candidate)
            path.write_text(json.dumps(kept), encoding="utf-8")
            print(f"{number + 1}/{len(candidates)}", file=sys.stderr, flush=True)
    rows = [kept[candidate.key] for candidate in candidates]
    many = [row["many"] for row in rows]
    print(
        f"{len(rows)} schedules at {options.speedup:g}x of {options.steps} steps; relative FID of {options.judges} "
        f"images from {min(many):.3g} to {max(many):.3g}.\n"
    )
    print(f"| what few images say | {' | '.join(f'{n} images' for n in FEW)} |\n{'|---' * (len(FEW) + 1)}|")
    for name in rows[0]["few"][str(FEW[0])]:
        cells = [tau([row["few"][str(n)][name] for row in rows], many) for n in FEW]
        print(f"| {name} | {' | '.join(cells)} |")
    first, second = ([row["halves"][k] for row in rows] for k in (0, 1))
    print(f"\nRelative FID of one half of the judges against that of the other: {tau(first, second)}.")


if __name__ == "__main__":
    main()
