"""Which mean of the paired errors of a few images ranks candidates best?

    python -m benchmarks.fitness RUN [--candidates 15] [--held-out 96]

Candidates of a finished run, drawn from the better half near each asked cost, are sampled on held-out images. Then,
many times, a few of these images play the search images and the others the judge: Kendall's tau between each kind of
mean on the few and the arithmetic mean on the others, and how much worse than the best candidate the chosen one is.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from benchmarks.searches import finished
from flexiffusion.search.paired import Errors

MEANS: dict[str, Callable[[Errors], Errors]] = {
    "arithmetic": lambda errors: errors.mean(axis=1),
    "of square roots": lambda errors: np.sqrt(errors).mean(axis=1),
    "geometric": lambda errors: np.log(errors).mean(axis=1),
}
SPLITS = 300


def judged(errors: Errors, few: int, stream: np.random.Generator) -> list[str]:
    """`errors` (candidates, images) -> a cell for each mean: tau, and the chosen one's excess."""
    agreement: dict[str, list[tuple[float, float]]] = {name: [] for name in MEANS}
    for _ in range(SPLITS):
        order = stream.permutation(errors.shape[1])
        truth = errors[:, order[few:]].mean(axis=1)
        for name, mean in MEANS.items():
            ranking = mean(errors[:, order[:few]])
            excess = truth[ranking.argmin()] / truth.min() - 1
            agreement[name].append((kendalltau(ranking, truth).statistic, excess))
    return [
        f"{tau:.2f}, +{100 * excess:.0f} %" for tau, excess in (np.mean(pairs, axis=0) for pairs in agreement.values())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--candidates", type=int, default=15)
    parser.add_argument("--held-out", type=int, default=96)
    arguments = parser.parse_args()
    experiment, evaluated = finished(arguments.run, held_out=arguments.held_out)
    settings = experiment.settings
    stream = np.random.default_rng(0)
    print(f"| asked cost | images | {' | '.join(MEANS)} |")
    print(f"|---|---|{'---|' * len(MEANS)}")
    for target in settings.targets:
        near = sorted(
            (item for item in evaluated if 0.85 * target <= item.cost <= target + 1e-9), key=lambda item: item.error
        )
        better = near[: max(arguments.candidates, len(near) // 2)]
        drawn = stream.choice(len(better), size=min(arguments.candidates, len(better)), replace=False)
        errors = np.stack(
            [
                experiment.held_out_evaluator.evaluate(better[i].candidate).latent_errors(settings.judged_by)
                for i in sorted(drawn)
            ]
        )
        for few in (8, 16, 32):
            print(f"| {target:.1f} | {few} | {' | '.join(judged(errors, few, stream))} |", flush=True)


if __name__ == "__main__":
    main()
