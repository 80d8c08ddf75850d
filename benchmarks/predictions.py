"""What the planner predicts of its schedules, against what is measured.

    python -m benchmarks.predictions [--model tiny] [--steps 30] [--held-out 64] [--costs 5 6 7 8 10 12 15 20]

At every cost (in full steps) the best chains of all macro-steps, of plain steps only, and of each branch alone. Errors
are to the converged solution; predicted ones are bounds (norms are added up). Prints Kendall's tau over all schedules
and within each cost, and a Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from flexiffusion.search.objective import Objective
from flexiffusion.search.planner import planned_at
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings

LATENT = Objective("latent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--solver", default="dpmpp_2m")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--costs", type=float, nargs="+", default=[5.05, 6.05, 7.05, 8.05, 10.05, 12.05, 15.05, 20.05])
    options = parser.parse_args()
    speedups = tuple(options.steps / cost for cost in options.costs)
    settings = Settings(
        model=options.model, solver=options.solver, steps=options.steps, held_out=options.held_out, speedups=speedups
    )
    experiment = Experiment(settings, Path("runs/references"))
    step_errors, evaluator = experiment.step_errors(), experiment.held_out_evaluator
    print(
        f"{options.model}, {options.solver}, {options.held_out} held-out images; "
        f"tables of {sum(step_errors.calls)} calls, the work of {step_errors.work(experiment.macs):.0f} full ones.\n"
    )
    print("| cost | schedule | predicted distance | measured distance | measured / predicted |\n|---|---|---|---|---|")
    pairs: list[tuple[float, float, float]] = []
    for cost in options.costs:
        for planned in planned_at(step_errors, experiment.macs, [cost]):
            errors = evaluator.evaluate(planned.candidate).latent_errors("converged")
            measured = float(np.sqrt(LATENT.of(errors)))
            pairs.append((cost, planned.error, measured))
            cells = [f"{planned.error:.3g}", f"{measured:.3g}", f"{measured / planned.error:.2f}"]
            spent = planned.candidate.cost(experiment.macs)
            print(f"| {spent:.2f} | {planned.candidate.text()} | {' | '.join(cells)} |", flush=True)
    within = [
        kendalltau([b for a, b, _ in pairs if a == cost], [c for a, _, c in pairs if a == cost]).statistic
        for cost in options.costs
    ]
    overall = kendalltau([b for _, b, _ in pairs], [c for _, _, c in pairs]).statistic
    print(f"\nKendall's tau: {overall:.2f} over all, {np.nanmean(within):.2f} within one cost (mean).")


if __name__ == "__main__":
    main()
