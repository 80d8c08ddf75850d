"""Found schedules against plain steps at the cost of 6, 8 and 10 full steps, judged by the converged solution.

    python -m benchmarks.equal_cost --work FOLDER [--evaluations 300]

Three searches of equal length for every cost, on the same images: the whole space; plain steps only, whose placement is
searched (the strongest honest rival: it begins with the planner's placements, as ours does); and the same without the
planner, a local search from the spacings that one could type (what docs/method.md 7 compared with). Everything is
measured on held-out noise and prompts: the latents' and the pictures' paired mean squared errors, and the mean distance
of the latents (the mean of the square roots, squared), which single pictures that change their shape outweigh less.
Prints two Markdown tables. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratios import ratio_text
from benchmarks.searches import searched
from flexiffusion.noise import spaced_places
from flexiffusion.search.candidate import Candidate, plain
from flexiffusion.search.method import Evaluated
from flexiffusion.search.paired import Errors, squared_error
from flexsearch.evaluators.local import Outcome
from flexsearch.runs import final_table
from flexsearch.runs.settings import Settings

COSTS = (6, 8, 10)
RIVALS = ("log-SNR steps", "locally searched steps", "planned and searched steps")


def best(evaluated: list[Evaluated], target: float) -> Candidate:
    return min((item for item in evaluated if item.cost <= target + 1e-9), key=lambda item: item.error).candidate


def pixel_errors(outcome: Outcome) -> Errors:
    reference = outcome.evaluator.references["converged"].images.float() / 255
    return squared_error(outcome.images, reference)


MEASURES: dict[str, Callable[[Outcome], Errors]] = {
    "latent MSE": lambda outcome: outcome.latent_errors("converged"),
    "pixel MSE": pixel_errors,
    "latent distance": lambda outcome: np.sqrt(outcome.latent_errors("converged")),
}


def ratio(name: str, ours: Outcome, rival: Outcome) -> str:
    power = 2 if name == "latent distance" else 1  # as a squared error, like the others
    return ratio_text(MEASURES[name](ours), MEASURES[name](rival), power)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--held-out", type=int, default=96)
    arguments = parser.parse_args()
    common: dict[str, Any] = {
        "reference": "converged",
        "evaluations": arguments.evaluations,
        "images": arguments.images,
        "held_out": arguments.held_out,
    }
    arguments.work.mkdir(parents=True, exist_ok=True)
    made = {cost: measured(cost, common, arguments.work) for cost in COSTS}
    print(
        f"Errors to the converged solution, {arguments.held_out} held-out images; ratios with 95 % paired-bootstrap\n"
        f"intervals; {arguments.evaluations} evaluations on {arguments.images} images each search.\n"
    )
    print(f"| cost | found | {' | '.join(f'{name}, latent MSE' for name in ('found', *RIVALS))} |\n{'|---' * 6}|")
    for cost, (label, outcomes) in made.items():
        errors = [f"{outcome.latent_errors('converged').mean():.2e}" for outcome in outcomes]
        print(f"| {cost} | {label} | {' | '.join(errors)} |")
    print(f"\n| cost | error | {' | '.join(f'found / {name}' for name in RIVALS)} |\n{'|---' * 5}|")
    for cost, (_, (ours, *rivals)) in made.items():
        for name in MEASURES:
            print(f"| {cost} | {name} | {' | '.join(ratio(name, ours, rival) for rival in rivals)} |")


def measured(cost: int, common: dict[str, Any], work: Path) -> tuple[str, list[Outcome]]:
    """What was found, in words; and it and its rivals on the held-out images."""
    asked = {**common, "solver": "dpmpp_2m", "speedups": (30 / cost,)}
    experiment, whole = searched(work / f"whole-{cost}", Settings(**asked))
    _, placed = searched(work / f"plain-{cost}", Settings(**asked, plain_only=True))
    _, locally = searched(work / f"local-{cost}", Settings(**asked, plain_only=True, planner=False))
    (target,) = experiment.settings.targets
    found = best(whole, target)
    typed = plain(spaced_places(experiment.model.levels, cost, "logsnr"))
    label = f"{final_table.described(found)}, {found.cost(experiment.macs):.2f}"
    candidates = (found, typed, best(locally, target), best(placed, target))
    return label, [experiment.held_out_evaluator.evaluate(candidate) for candidate in candidates]


if __name__ == "__main__":
    main()
