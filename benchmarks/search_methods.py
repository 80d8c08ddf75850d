"""Our search against the paper's, random search, and Optuna's NSGA-II and TPE on the same space.

    python -m benchmarks.search_methods --work FOLDER [--seeds 5] [--evaluations 500] [--speedup 3]

Every method gets as many evaluations on the same images; random search, NSGA-II and TPE draw the genes of our space
and have their candidates brought to the asked cost as ours are, but know neither seeds nor plans, do not race and
share no prefixes. Network calls are counted for one image each, the planner's tables included. Printed, as Markdown:
the least error on the search images after all calls, and after a twentieth of those that the paper's search made;
the error of the best schedule on held-out images; the hypervolume of the front (log10 error below 1, cost below the
teacher's; larger is better). Means over seeds with 95 % intervals (Student's t). Interrupted, it goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy.stats import t as student

from benchmarks.searches import progress, searched
from flexiffusion.schedule import FULL, Action
from flexsearch.metrics.objective import Objective
from flexsearch.search.candidate import Candidate, make_candidate
from flexsearch.search.method import stream_of
from flexsearch.search.placement import PlacementMethod
from flexsearch.search.session import Session
from flexsearch.search.settings import Settings

LATENT = Objective("latent")
OURS = ("ours", "paper, relative FID", "paper, latent error")
OPTUNA = ("random", "NSGA-II", "TPE")
SHARE = 20  # of the paper's calls one in so many


@dataclass(frozen=True)
class Trial:
    calls: int  # network calls so far
    error: float  # on the search images; of relative FID where that is minimised
    cost: float  # in full steps
    candidate: Candidate


@dataclass(frozen=True)
class Figures:
    calls: int
    error: float
    early: float  # after a twentieth of the paper's calls
    held_out: float
    hypervolume: float


def settings_of(name: str, seed: int, options: argparse.Namespace) -> Settings:
    common = {"seed": seed, "evaluations": options.evaluations, "images": options.images, "steps": options.steps,
              "held_out": options.held_out, "speedups": (options.speedup,)}  # fmt: skip
    if name.startswith("paper"):
        return Settings(**common, method="flexiffusion", error="latent" if "latent" in name else None)
    return Settings(**common)


def own_search(name: str, seed: int, options: argparse.Namespace, work: Path) -> tuple[Session, list[Trial]]:
    """One of our methods, through the driver that `flexsearch run` uses."""
    settings, path = settings_of(name, seed, options), work / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    session, evaluated = searched(path, settings)
    calls, trials = session.tables().calls if name == "ours" else 0, []
    for item in evaluated:
        calls += item.calls
        trials.append(Trial(calls, item.error, item.cost, item.candidate))
    return session, trials


def optuna_search(name: str, seed: int, options: argparse.Namespace, work: Path) -> tuple[Session, list[Trial]]:
    """A sampler of Optuna's on the genes of our space. Kept as JSON when it is done."""
    session = Session(settings_of(name, seed, options), work / "references")
    path = work / f"{name}-{seed}.json"
    if path.exists():
        return session, [from_json(document) for document in json.loads(path.read_text(encoding="utf-8"))]
    method, (target,) = session.method, session.settings.targets
    assert isinstance(method, PlacementMethod)
    engine = session.search_engine
    engine.prefixes = None
    samplers = {
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "NSGA-II": lambda: optuna.samplers.NSGAIISampler(seed=seed),
        "TPE": lambda: optuna.samplers.TPESampler(seed=seed),
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=samplers[name]())
    calls, trials = 0, []
    for number in range(options.evaluations):
        asked = study.ask(dict(method.distributions))
        drawn = repaired(method, asked.params)
        candidate = method.variation.fit(drawn, target, stream_of(seed, number))
        judged = engine.judge(candidate, LATENT)
        study.tell(asked, [judged.error, candidate.cost(session.costs)])
        calls += judged.calls
        trials.append(Trial(calls, judged.error, candidate.cost(session.costs), candidate))
        progress(path.stem, number, options.evaluations)
    path.write_text(json.dumps([asdict(item) for item in trials]), encoding="utf-8")
    return session, trials


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


def figures(session: Session, trials: Sequence[Trial], early_calls: float) -> Figures:
    (target,) = session.settings.targets
    affordable = [item for item in trials if item.cost <= target + 1e-9]
    best = min(affordable, key=lambda item: item.error)
    soon = min((item.error for item in affordable if item.calls <= early_calls), default=math.inf)
    held_out = session.held_out_engine.evaluate(best.candidate).latent_errors("teacher")
    return Figures(
        trials[-1].calls, best.error, soon, LATENT.of(held_out), hypervolume(trials, float(session.settings.steps))
    )


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3g}"
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return f"{mean:.3g} ± {half:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--speedup", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=64)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Figures]] = {name: [] for name in (*OURS, *OPTUNA)}
    for seed in range(options.seeds):
        made = {name: own_search(name, seed, options, options.work) for name in OURS}
        made |= {name: optuna_search(name, seed, options, options.work) for name in OPTUNA}
        early = made["paper, relative FID"][1][-1].calls / SHARE
        for name, (session, trials) in made.items():
            found[name].append(figures(session, trials, early))
    print(
        f"{options.evaluations} evaluations, {options.steps} steps of DPM-Solver++ 2M at {options.speedup:g}x, "
        f"{options.images} images, {options.held_out} held out, {options.seeds} seeds.\n"
    )
    print("| search | network calls | least error | after 1/20 of the paper's calls | held out | hypervolume |")
    print("|---|---|---|---|---|---|")
    for name, seeds in found.items():
        rows = [asdict(figure) for figure in seeds]
        by_fid = name == "paper, relative FID"  # its errors on the search images are another kind
        cells = [
            "" if by_fid and key in ("error", "early", "hypervolume") else interval([row[key] for row in rows])
            for key in ("calls", "error", "early", "held_out", "hypervolume")
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
