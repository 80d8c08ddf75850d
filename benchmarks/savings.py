"""What shared prefixes, racing and the planner each save a search, alone and together.

    python -m benchmarks.savings --work FOLDER [--seeds 0 1 2] [--evaluations 150]

One search without any of them, and the same with each alone, and with all. Network calls are counted for one image
each, the planner's tables included; work is the same in full steps. Shared prefixes change nothing but the calls: the
trials are the same to the last bit, which is checked. Printed, as Markdown, means over the seeds: calls and work
against the bare search's; the least error on the search images; and calls and work until that is at most the bare
search's last one. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.searches import searched, spent
from flexiffusion.search.method import Evaluated
from flexsearch.runs.settings import Settings

BARE: dict[str, Any] = {"planner": False, "racing": False, "memory": 0}
WITH: dict[str, dict[str, Any]] = {
    "none": {},
    "shared prefixes": {"memory": 1024},
    "racing": {"racing": True},
    "planner": {"planner": True},
    "all three": {"memory": 1024, "racing": True, "planner": True},
}
Spent = tuple[int, float]  # calls and work


def course(name: str, seed: int, options: argparse.Namespace) -> tuple[list[tuple[Spent, float]], list[Evaluated]]:
    """The least error within the budget so far, and what was spent until then, after every trial."""
    settings = Settings(
        **{**BARE, **WITH[name]},
        solver="dpmpp_2m",
        seed=seed,
        steps=options.steps,
        guidance=options.guidance,
        speedups=(options.speedup,),
        evaluations=options.evaluations,
        images=options.images,
    )
    experiment, evaluated = searched(options.work / f"{name.replace(' ', '-')}-{seed}", settings)
    least, found = math.inf, []
    for item, so_far in zip(evaluated, spent(experiment, evaluated), strict=True):
        if item.cost <= settings.targets[0] + 1e-9:
            least = min(least, item.error)
        found.append((so_far, least))
    return found, evaluated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--speedup", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, help="as the model has it; 1 halves the work")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[list[float]]] = {name: [] for name in WITH}
    for seed in options.seeds:
        courses = {name: course(name, seed, options) for name in WITH}
        assert [item.error for item in courses["none"][1]] == [item.error for item in courses["shared prefixes"][1]]
        (calls, work), mark = courses["none"][0][-1]
        for name, (found, _) in courses.items():
            whole, least = found[-1]
            reached = next((so_far for so_far, error in found if error <= mark), (math.nan, math.nan))
            rows[name].append([whole[0] / calls, whole[1] / work, least / mark, reached[0] / calls, reached[1] / work])
    print(
        f"{options.evaluations} evaluations, {options.images} images, {options.speedup:g}x of {options.steps} steps, "
        f"{len(options.seeds)} seeds; all over the search with none of the three, in per cent.\n"
    )
    print("| with | calls | work | least error | calls to its error | work to its error |\n|---|---|---|---|---|---|")
    for name, seeds in rows.items():
        cells = [f"{100 * value:.0f}" for value in np.nanmean(seeds, axis=0)]
        missed = sum(math.isnan(seed[3]) for seed in seeds)
        print(f"| {name} | {' | '.join(cells)}{f' ({missed} never)' if missed else ''} |")


if __name__ == "__main__":
    main()
