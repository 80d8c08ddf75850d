"""Do schedules that were searched on one model, guidance and solver serve others?

    python -m benchmarks.transfer [FILE ...] [--other FOLDER] [--held-out 48] [--guidance SCALE ...]

Each schedule file (the bundled model's own, if none is given) is run as it was searched; on `--other`, the same model
trained from another seed (`python -m tools.train_tiny --seed 1`); at other guidance scales; and with other solvers.
With `--guidance`, once for each scale, nothing but these scales is tried.
Everything is judged there anew: against the teacher of that model, guidance and solver, with the best hand-made fewer
steps and the best uniform DeepCache of the next whole number of full steps, chosen there on other images. Printed, as
Markdown: the schedule's error, and its ratios to both with 95 % paired-bootstrap intervals; below 1 it still pays.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ratios import ratio_text
from flexiffusion.codec import read
from flexiffusion.search.candidate import Candidate
from flexiffusion.search.seeds import near
from flexiffusion.solver import Weights
from flexsearch.runs import final_table
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.from_file import settings_of, solver_in, to_candidate
from flexsearch.runs.settings import Settings
from flexsearch.sampling.solvers import SOLVERS

OWN = sorted((Path(__file__).parents[1] / "schedules").glob("tiny-*.json"))
GUIDANCES = (1.0, 4.0, 7.5)


def changes(own: str | None, other: Path | None, scales: Sequence[float]) -> Iterator[tuple[str, dict[str, Any]]]:
    for guidance in scales:
        yield f"guidance {guidance:g}", {"guidance": guidance}
    if scales:
        return
    yield "as searched", {}
    if other is not None:
        yield "another training seed", {"model": str(other)}
    for guidance in GUIDANCES:
        yield f"guidance {guidance:g}", {"guidance": guidance}
    for solver in SOLVERS:
        if solver != own:
            yield solver, {"solver": solver}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", default=OWN)
    parser.add_argument("--other", type=Path, help="diffusers folder of the same shape")
    parser.add_argument("--held-out", type=int, default=48)
    parser.add_argument("--guidance", type=float, action="append", default=[])
    parser.add_argument("--references", type=Path, default=Path("runs/references"))
    options = parser.parse_args()
    print("| schedule | where | latent error to teacher | / fewer steps | / DeepCache |\n|---|---|---|---|---|")
    for path in options.files:
        schedule = read(path)
        settings = settings_of(schedule, Settings(held_out=options.held_out))
        experiment = Experiment(settings, options.references)
        candidate, _ = to_candidate(schedule, experiment.model, experiment.teacher)
        own = solver_in(schedule, candidate, experiment.model.levels, "")
        for label, change in changes(schedule.sampling.sampler, options.other, options.guidance):
            judgement = judged(candidate, own or None, replace(settings, **change), options.references)
            print(f"| {schedule.name} | {label} | {judgement} |", flush=True)


def judged(candidate: Candidate, own: str | Weights | None, settings: Settings, references: Path) -> str:
    """`own`: the solver that the file brings, in place of the settings'."""
    cost = math.ceil(candidate.cost(Experiment(settings, references).macs))
    experiment = Experiment(replace(settings, speedups=(settings.steps / cost,)), references)
    known, seeds = final_table.Known(experiment), experiment.seeds_at([float(cost)])
    evaluator = experiment.held_out_against({"teacher"})
    errors = {"found": evaluator.evaluate(candidate, solver=own).latent_errors("teacher")}
    for kind in ("plain", "deepcache"):
        able = [
            seed for seed in seeds if seed.kind == kind and near(seed.candidate.cost(experiment.costs), [float(cost)])
        ]
        best = known.best(able, settings.usual_solver).candidate
        errors[kind] = evaluator.evaluate(best).latent_errors("teacher")
    ratios = [ratio_text(errors["found"], errors[kind]) for kind in ("plain", "deepcache")]
    return f"{errors['found'].mean():.2e} | {' | '.join(ratios)}"


if __name__ == "__main__":
    main()
