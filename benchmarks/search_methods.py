"""Our search against the paper's, random search, and Optuna's NSGA-II and TPE on the same space.

    python -m benchmarks.search_methods --work FOLDER [--seeds 0 1 2 3 4] [--evaluations 500] [--speedup 3]
        [--searches ours "paper, relative FID"] [--own-evaluations 100]

Every method gets as many evaluations (ours `--own-evaluations`, if given) on the same images; random search, NSGA-II
and TPE draw the genes of our space and have their candidates brought to the asked cost as ours are, but know neither
seeds nor plans, do not race and share no prefixes. Network calls are counted for one image each, the planner's tables
included; work is the same in full steps, a partial call being the share of one that its multiply-adds are.

Printed, as Markdown: calls, work, and seconds of CPU time (of searches that were not interrupted; the planner's tables
are in them, the references are not); the least latent error on the search images after all calls; the error of that
schedule on held-out images; the hypervolume of the front (log10 error below 1, cost below the teacher's; larger is
better); and the share of the paper's calls and work after which our best schedule so far has, on held-out images, no
more error than the better of the paper's searches has at its end. Means over seeds with 95 % intervals (Student's t).
Interrupted, it goes on where it stopped; seeds may be searched by several processes and printed by a last one over all.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import IntDistribution
from scipy.stats import t as student

from benchmarks.searches import progress, searched, spent, work_of
from flexiffusion.schedule import FULL, Action
from flexiffusion.search.candidate import Candidate, make_candidate
from flexiffusion.search.method import stream_of
from flexiffusion.search.methods.placement import PlacementMethod
from flexiffusion.search.objective import Objective
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings

LATENT = Objective("latent")
OURS = ("ours", "ours without planner")
PAPER = ("paper, relative FID", "paper, latent error")
OPTUNA = ("random", "NSGA-II", "TPE")
SEARCHES = (*OURS, *PAPER, *OPTUNA)


@dataclass(frozen=True)
class Trial:
    calls: int  # network calls so far
    work: float  # the same in full steps
    error: float  # on the search images; of relative FID where that is minimised
    cost: float  # in full steps
    candidate: Candidate


@dataclass(frozen=True)
class Figures:
    calls: int
    work: float
    seconds: float  # nan where it was interrupted
    error: float
    held_out: float
    hypervolume: float
    share: tuple[float, float] | None = None  # of the paper's calls and work, after which we are as good as it


def settings_of(name: str, seed: int, options: argparse.Namespace) -> Settings:
    own = name in OURS and options.own_evaluations is not None
    evaluations = options.own_evaluations if own else options.evaluations
    common = {"seed": seed, "evaluations": evaluations, "images": options.images, "steps": options.steps,
              "guidance": options.guidance, "held_out": options.held_out, "speedups": (options.speedup,),
              "solver": "dpmpp_2m"}  # fmt: skip
    if name.startswith("paper"):
        return Settings(**common, method="flexiffusion", error="latent" if "latent" in name else None)
    return Settings(**common, planner=name == "ours")


def own_search(path: Path, settings: Settings) -> tuple[Experiment, list[Trial]]:
    """One of our methods, through the driver that `flexsearch run` uses."""
    experiment, evaluated = searched(path, settings)
    return experiment, [
        Trial(calls, work, item.error, item.cost, item.candidate)
        for item, (calls, work) in zip(evaluated, spent(experiment, evaluated), strict=True)
    ]


def optuna_search(path: Path, settings: Settings, name: str) -> tuple[Experiment, list[Trial]]:
    """A sampler of Optuna's on the genes of our space. Kept as JSON when it is done."""
    experiment = Experiment(settings, path.parent / "references")
    trials: list[Trial] = []
    if path.exists():
        return experiment, [from_json(document) for document in json.loads(path.read_text(encoding="utf-8"))]
    method, (target,) = experiment.method, experiment.settings.targets
    assert isinstance(method, PlacementMethod)
    evaluator = experiment.search_evaluator
    evaluator.prefixes = None
    samplers = {
        "random": lambda: optuna.samplers.RandomSampler(seed=settings.seed),
        "NSGA-II": lambda: optuna.samplers.NSGAIISampler(seed=settings.seed),
        "TPE": lambda: optuna.samplers.TPESampler(seed=settings.seed),
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=samplers[name]())
    calls, made = 0, 0.0
    for number in range(settings.evaluations):
        asked = study.ask({name: IntDistribution(gene[0], gene[-1]) for name, gene in method.genes.items()})
        drawn = repaired(method, asked.params)
        candidate = method.variation.fit(drawn, target, stream_of(settings.seed, number))
        judged = evaluator.judge(candidate, LATENT)
        cost = candidate.cost(experiment.costs)
        study.tell(asked, [judged.error, cost])
        calls += judged.calls
        made += work_of(judged.calls, cost, candidate)
        trials.append(Trial(calls, made, judged.error, cost, candidate))
        progress(path.stem, number, settings.evaluations)
    path.write_text(json.dumps([asdict(item) for item in trials]), encoding="utf-8")
    return experiment, trials


def timed(name: str, seed: int, options: argparse.Namespace) -> tuple[Experiment, list[Trial], float]:
    """A search, and its seconds of CPU time, which are kept beside it; nan where it was interrupted."""
    path = options.work / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}{'.json' if name in OPTUNA else ''}"
    kept = options.work / f"{path.stem}.seconds"
    begins, began = not path.exists(), time.process_time()
    settings = settings_of(name, seed, options)
    experiment, trials = optuna_search(path, settings, name) if name in OPTUNA else own_search(path, settings)
    if begins:
        kept.write_text(f"{time.process_time() - began}\n", encoding="ascii")
    return experiment, trials, float(kept.read_text(encoding="ascii")) if kept.exists() else math.nan


def repaired(method: PlacementMethod, genes: dict[str, int]) -> Candidate:
    """Genes drawn one by one as a candidate: unused slots left out, each level once, the first step full at the top."""
    space = method.variation.space
    steps = {space.first: FULL}
    for gene in genes.values():
        level, number = divmod(gene, len(space.actions))
        if level < space.first and space.actions[number].kind != "null":
            steps.setdefault(level, space.actions[number])
    return make_candidate(steps, steps.values())


def from_json(document: dict[str, Any]) -> Trial:
    candidate = document.pop("candidate")
    actions = (Action(**{**action, "drop": ()}) for action in candidate["actions"])
    return Trial(**document, candidate=make_candidate(candidate["timesteps"], actions))


def hypervolume(trials: Sequence[Trial], highest: float) -> float:
    """The area that the front dominates, below error 1 and the teacher's cost, in decades times teacher's costs."""
    area, least = 0.0, 0.0  # of log10 error
    ordered = sorted(trials, key=lambda item: item.cost)
    for i, item in enumerate(ordered):
        least = min(least, math.log10(max(item.error, 1e-12)))
        end = ordered[i + 1].cost if i + 1 < len(ordered) else highest
        area -= least * (min(end, highest) - min(item.cost, highest)) / highest
    return area


def affordable(experiment: Experiment, trials: Sequence[Trial]) -> list[Trial]:
    (target,) = experiment.settings.targets
    return [item for item in trials if item.cost <= target + 1e-9]


def held_out(experiment: Experiment, candidate: Candidate) -> float:
    return LATENT.of(experiment.held_out_evaluator.evaluate(candidate).latent_errors("teacher"))


def figures(experiment: Experiment, trials: Sequence[Trial], seconds: float) -> Figures:
    best = min(affordable(experiment, trials), key=lambda item: item.error)
    volume = hypervolume(trials, float(experiment.settings.steps))
    last = trials[-1]
    return Figures(last.calls, last.work, seconds, best.error, held_out(experiment, best.candidate), volume)


def first_within(experiment: Experiment, trials: Sequence[Trial], error: float) -> Trial | None:
    """The first trial that is the best so far by the search images and has at most this error on held-out ones."""
    best = math.inf
    for item in affordable(experiment, trials):
        if item.error < best:
            best = item.error
            if held_out(experiment, item.candidate) <= error:
                return item
    return None


def figures_of_seed(made: dict[str, tuple[Experiment, list[Trial], float]]) -> dict[str, Figures]:
    found = {name: figures(*search) for name, search in made.items()}
    papers = [found[name] for name in PAPER if name in found]
    if not papers:
        return found
    mark = min(paper.held_out for paper in papers)
    for name in set(OURS) & set(found):
        if reached := first_within(*made[name][:2], mark):
            share = (reached.calls / papers[0].calls, reached.work / papers[0].work)
            found[name] = replace(found[name], share=share)
    return found


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval, of what is known."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return "–"
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3g}"
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return f"{mean:.3g} ± {half:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=SEARCHES)
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--own-evaluations", type=int, help="of our searches, if not as many as of the others")
    parser.add_argument("--speedup", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, help="as the model has it; 1 halves the work")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=64)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Figures]] = {name: [] for name in options.searches}
    for seed in options.seeds:
        references = Experiment(settings_of(OPTUNA[0], seed, options), options.work / "references")
        assert references.search_evaluator is not None  # they are no search's own work
        made = {name: timed(name, seed, options) for name in options.searches}
        for name, figure in figures_of_seed(made).items():
            found[name].append(figure)
    print(
        f"{options.evaluations} evaluations, {options.steps} steps of DPM-Solver++ 2M at {options.speedup:g}x, "
        f"{options.images} images, {options.held_out} held out, {len(options.seeds)} seeds.\n"
    )
    head = "| search | network calls | work | CPU, s | least error | held out | hypervolume |"
    print(f"{head}\n{'|---' * 7}|")
    for name, rows in found.items():
        by_fid = name == PAPER[0]  # its errors on the search images are another kind
        cells = [
            "" if by_fid and key in ("error", "hypervolume") else interval([getattr(row, key) for row in rows])
            for key in ("calls", "work", "seconds", "error", "held_out", "hypervolume")
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    if not set(PAPER) & set(found):
        return
    for name in (name for name in OURS if name in found):
        shares = [row.share for row in found[name] if row.share is not None]
        calls, work = (interval([100 * share[k] for share in shares]) for k in (0, 1))
        print(
            f"\n{name}: as good on held-out images as the better of the paper's searches, in {len(shares)} of "
            f"{len(options.seeds)} seeds; after {calls} % of its calls, {work} % of its work."
        )


if __name__ == "__main__":
    main()
