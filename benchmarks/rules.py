"""Which rule makes a schedule out of nothing but the host's list of levels and a speed-up? Rules against fewer steps.

    python -m benchmarks.rules --work FOLDER [--models tiny pixel emoji] [--solvers euler dpmpp_2m third]
        [--guidance 1 2 4 7.5] [--steps 20 30 50] [--speedups 1.5 2 3] [--images 4] [--table-only]

A cell is a model, a solver, a guidance scale, a spacing and a number of steps T. Its teacher is what the user has now:
T steps of that solver on that list. A rule sees the list, the kind of noise and the speed-up; what it makes is sampled
from the same noise, and its mean distance to the teacher's latents is divided by that of plain fewer steps, as many as
T / speed-up pays for, spaced as the user's scheduler would space them. `third` is UniPC, or DPM-Solver++ 3M for flow
models, where UniPC is not offered. Models without prompts have no guidance: one cell for all scales.

Every cell is one JSON file in FOLDER; interrupted, it goes on where it stopped. `table` is fitted on the other models
only, from fits that are kept in FOLDER too. Printed, as Markdown: for each rule the geometric mean of the ratios, how
many of the cells and speed-ups are not worse (ratio at most 1.02: four images tell no finer), the worst ones, and
the cost; then the mean by model and by speed-up; and what one rule for all, chosen on two models, does on the third.
`flexiffusion.rule` is what the product does in each cell.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexiffusion.cost import CostTable
from flexiffusion.noise import NoiseLevels, Spacing, distinct, spaced_places
from flexiffusion.schedule import FULL, Action
from flexiffusion.search.candidate import Candidate, make_candidate, plain
from flexiffusion.search.fitting import Fitting, TeacherPath, fit
from flexiffusion.search.paired import DIVERGED, mean_root, squared_error
from flexiffusion.search.prefixes import Prefixes
from flexiffusion.search.seeds import deepcache
from flexiffusion.search.trajectory import sample
from flexiffusion.solver import Multistep, SolverMaker, Weights, dpmpp_2m_weights
from flexiffusion.whole_file import whole_file
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings
from flexsearch.sampling.references import ImageSet
from flexsearch.sampling.solvers import solver_maker

NOT_WORSE = 1.02
# Published levels of Align Your Steps (arXiv 2404.14507) for ten steps of SD1.5, scaled to a model's own range.
AYS = (14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904,
       0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a rule may look at, and the model's places to put its levels on.

    host:   the user's list, as places, falling; the end, zero noise, is not among them
    budget: full steps that the speed-up leaves, a whole number
    """

    levels: NoiseLevels
    host: tuple[int, ...]
    spacing: Spacing
    budget: int
    table: CostTable

    @property
    def steps(self) -> int:
        return len(self.host)

    def places(self, positions: Sequence[float]) -> tuple[int, ...]:
        """Places of fractional positions on the host's list, 0 being its first level: even in log sigma between two."""
        logs = [math.log(self.levels.sigma(place)) for place in self.host]
        sigmas = np.exp(np.interp(positions, range(self.steps), logs))
        return distinct([self.levels.place(float(sigma)) for sigma in sigmas], self.host[0])

    def share(self, branch: int) -> float:
        return self.table.partial[branch] / self.table.full


Rule = Callable[[Asked], tuple[Candidate, Weights | None]]


def fewer(asked: Asked) -> tuple[Candidate, Weights | None]:
    """Fewer steps, as the user's scheduler spaces them: what every rule is compared with."""
    return plain(spaced_places(asked.levels, asked.budget, asked.spacing)), None


def placed(power: float, closed: bool) -> Rule:
    """Fewer steps at the positions T (i / K)^power of the host's list, or (T - 1) (i / (K - 1))^power with its end."""

    def rule(asked: Asked) -> tuple[Candidate, Weights | None]:
        count, last = asked.budget, asked.steps
        if closed:
            count, last = count - 1, last - 1
        positions = [min(last * (i / count) ** power, asked.steps - 1) for i in range(asked.budget)]
        return plain(asked.places(positions)), None

    return rule


def ays(asked: Asked) -> tuple[Candidate, Weights | None]:
    """Fewer steps on the published levels, even in log sigma between two, stretched to this model's range."""
    low, high = (math.log(asked.levels.sigma(place)) for place in (asked.host[-1], asked.host[0]))
    logs = [math.log(level) for level in AYS]
    parts = [(value - logs[-1]) / (logs[0] - logs[-1]) for value in logs]
    at = np.interp(np.linspace(0, len(AYS) - 1, asked.budget), range(len(AYS)), parts)
    return plain(
        distinct([asked.levels.place(math.exp(low + (high - low) * part)) for part in at], asked.host[0])
    ), None


def filled(branch: int, order: str = "growing", most: int = 99, begin: float = 0.0, end: float = 1.0) -> Rule:
    """Full steps on the host's list, and partial ones on its levels between them, at most `most` after each.

    order: of the gaps between full steps, which are as equal as whole numbers can be. "growing": the shorter first;
           "mixed": evenly spread; "falling": the longer first; "second": the first is one level, the others grow;
           "end": the last level runs in full
    begin, end: partial steps lie between these parts of the list; elsewhere it is fewer steps
    """

    def rule(asked: Asked) -> tuple[Candidate, Weights | None]:
        action = Action("partial", branch, "linear")
        for count in range(asked.budget, 1, -1):
            fulls = full_steps(asked.steps, count, order)
            partials = []
            for here, following in itertools.pairwise((*fulls, asked.steps)):
                between = min(most, following - here - 1)
                chosen = [here + round(r * (following - here) / (between + 1)) for r in range(1, between + 1)]
                partials += [i for i in chosen if begin <= i / asked.steps < end]
            # a step of the output head costs next to nothing: it is not counted here, but the table shows the cost
            if branch < 0 or count + len(partials) * asked.share(branch) <= asked.budget:
                break
        actions = [FULL] * len(fulls) + [action] * len(partials)
        return make_candidate([asked.host[i] for i in (*fulls, *partials)], actions), None

    return rule


def full_steps(steps: int, count: int, order: str) -> list[int]:
    """Indices of the list that run in full."""
    if order == "mixed":
        return [round(i * steps / count) for i in range(count)]
    if order in ("end", "falling to the end"):
        return [0, *itertools.accumulate(growing(steps - 1, count - 1)[:: -1 if "falling" in order else 1])]
    gaps = [1, *growing(steps - 1, count - 1)] if order == "second" else growing(steps, count)
    return [0, *itertools.accumulate(gaps[:: -1 if order == "falling" else 1])][:count]


def growing(whole: int, count: int) -> list[int]:
    """`count` whole numbers as equal as can be that add up to `whole`, the smaller ones first."""
    each, rest = divmod(whole, count)
    return [each] * (count - rest) + [each + 1] * rest


def nulls(asked: Asked) -> tuple[Candidate, Weights | None]:
    """Levels of the host's list taken out evenly."""
    count = asked.budget
    return plain([asked.host[round(i * asked.steps / count)] for i in range(count)]), None


def deep_cache(asked: Asked) -> tuple[Candidate, Weights | None]:
    """DeepCache at branch 1, the shortest interval that is paid for."""
    for interval in range(2, asked.steps):
        candidate = deepcache(asked.host, interval, 1)
        if candidate.cost(asked.table) <= asked.budget:
            return candidate, None
    return plain(asked.host[:1]), None


def emulated(begin: float, weights_of: Callable[[Sequence[float]], Weights]) -> Rule:
    """Fewer steps, with the weights that the host's solver has over its whole list where the predictions at the levels
    left out are taken to lie on the line (in log sigma) through the last two that were evaluated.

    A table of weights in closed form: it depends on the list and the solver alone.
    begin: part of the list in which the last prediction is kept instead
    """

    def rule(asked: Asked) -> tuple[Candidate, Weights | None]:
        count = asked.budget
        fulls = full_steps(asked.steps, count, "growing")
        sigmas = [asked.levels.sigma(place) for place in asked.host]
        rows = emulation(sigmas, fulls, weights_of(sigmas), begin * asked.steps)
        return plain([asked.host[i] for i in fulls]), rows

    return rule


def emulation(sigmas: Sequence[float], fulls: Sequence[int], usual: Weights, begin: float) -> Weights:
    """Weights over `fulls` that give what `usual` does over all sigmas with predicted predictions."""
    ends = (*sigmas, 0.0)
    logs = [math.log(sigma) for sigma in sigmas]
    known: list[np.ndarray[Any, Any]] = []  # the predictions of all levels so far, in those of the full ones
    rows: list[tuple[float, ...]] = []
    for number, (here, following) in enumerate(itertools.pairwise((*fulls, len(sigmas)))):
        own = np.zeros(len(fulls))
        own[number] = 1
        state = np.zeros(len(fulls))
        for i in range(here, following):
            value = own.copy()
            if i > here and number and i >= begin:
                slope = (logs[i] - logs[here]) / (logs[here] - logs[fulls[number - 1]])
                value[number] += slope
                value[number - 1] -= slope
            known.append(value)
            ratio = ends[i + 1] / ends[i]
            step = sum(weight * known[-1 - j] for j, weight in enumerate(usual[i]))
            state = ratio * state + (1 - ratio) * step
        whole = ends[following] / ends[here]
        row = (state / (1 - whole))[: number + 1][::-1]
        rows.append(tuple(float(weight) for weight in row[:6]))
    return tuple(rows)


RULES: dict[str, Rule] = {
    "fewer steps": fewer,
    "fewer, even on the list": placed(1.0, closed=False),
    "fewer, even with its end": placed(1.0, closed=True),
    "fewer, dense early": placed(1.25, closed=False),
    "fewer, dense late": placed(0.8, closed=False),
    "nulls": nulls,
    "AYS levels": ays,
    "turns, branch -1": filled(-1, "mixed", most=1),
    "turns, branch 0": filled(0, "mixed", most=1),
    "two after each, branch -1": filled(-1, "mixed", most=2),
    "filled, branch -1": filled(-1, "mixed"),
    "filled, branch 0": filled(0, "mixed"),
    "filled from 1/3, branch -1": filled(-1, "mixed", begin=1 / 3),
    "filled, growing gaps, branch -1": filled(-1),
    "filled, growing gaps, branch 0": filled(0),
    "filled, growing gaps, first one level, branch -1": filled(-1, "second"),
    "filled, growing gaps to the end, branch -1": filled(-1, "end"),
    "filled to 1/2, growing gaps to the end, branch -1": filled(-1, "end", end=1 / 2),
    "filled to 2/3, growing gaps to the end, branch -1": filled(-1, "end", end=2 / 3),
    "filled, falling gaps to the end, branch -1": filled(-1, "falling to the end"),
    "filled to 1/2, falling gaps to the end, branch -1": filled(-1, "falling to the end", end=1 / 2),
    "filled, growing gaps to the end, branch 0": filled(0, "end"),
    "filled, growing gaps, turns, branch -1": filled(-1, most=1),
    "filled, falling gaps, branch -1": filled(-1, "falling"),
    "DeepCache": deep_cache,
}
TABLE = "weights fitted on other models"
EMULATED = ("emulated", "emulated from 1/3")


@dataclass(frozen=True)
class Cell:
    """One setting of a user."""

    model: str
    solver: str
    guidance: float
    spacing: Spacing
    steps: int

    @property
    def file(self) -> str:
        return f"{self.model}-{self.solver}-{self.guidance:g}-{self.spacing}-{self.steps}.json"


class Bench:
    """One model, at one guidance scale."""

    def __init__(self, model: str, guidance: float, images: int) -> None:
        self.experiment = Experiment(Settings(model=model, guidance=guidance, images=images), Path("runs/references"))
        self.images = ImageSet(0, 0, images, self.experiment.prompts[0])

    @cached_property
    def denoiser(self) -> Any:
        return self.experiment.denoiser(self.images)

    @cached_property
    def noise(self) -> torch.Tensor:
        return self.images.noise(self.experiment.model)

    def measured(
        self, cell: Cell, speedups: Sequence[float], tables: dict[str, Weights], wanted: Sequence[str], kept: Any
    ) -> dict[str, Any]:
        """Cost and errors, an image each, of the wanted rules at every speed-up; those that are kept already stay."""
        levels = self.experiment.model.levels
        name = {"third": "uni_pc" if levels.kind == "vp" else "dpmpp_3m"}.get(cell.solver, cell.solver)
        maker = solver_maker(name, levels)
        host = spaced_places(levels, cell.steps, cell.spacing)
        teacher = sample(self.denoiser, maker, self.noise, host).latents
        # UniPC and 3M look at the whole list: no two lists share what begins alike
        prefixes = Prefixes(256 << 20) if name in ("euler", "dpmpp_2m") else None
        result: dict[str, Any] = kept
        for speedup in speedups:
            budget = int(cell.steps / speedup + 1e-9)
            asked = Asked(levels, host, cell.spacing, budget, self.experiment.macs)
            rules = dict(RULES)
            if name in ("euler", "dpmpp_2m"):
                weights_of = dpmpp_2m_weights if name == "dpmpp_2m" else lambda sigmas: ((1.0,),) * len(sigmas)
                rules |= {label: emulated(begin, weights_of) for label, begin in zip(EMULATED, (0, 1 / 3), strict=True)}
            key = f"{name}-{cell.steps}-{speedup:g}"
            if key in tables:
                rules[TABLE] = lambda asked, key=key: (fewer(asked)[0], tables[key])  # type: ignore[misc]
            rows = result.setdefault(f"{speedup:g}", {})
            known: dict[str, Any] = {}
            for label, rule in rules.items():
                if label in rows or label not in wanted:
                    continue
                candidate, weights = rule(asked)
                own: SolverMaker = maker if weights is None else lambda sigmas, w=weights: Multistep(sigmas, w)  # type: ignore[misc]
                key = candidate.key + repr(weights)
                if key not in known:
                    made = sample(
                        self.denoiser, own, self.noise, candidate.places, candidate.actions,
                        prefixes=prefixes if weights is None else None,
                    )  # fmt: skip
                    known[key] = squared_error(made.latents, teacher).tolist()
                rows[label] = {"cost": candidate.cost(self.experiment.macs), "errors": known[key]}
        return result

    def fits(self, steps: Sequence[int], speedups: Sequence[float]) -> dict[str, Weights]:
        """Weights of fewer steps, fitted to each teacher, for tables that other models are sampled with."""
        levels = self.experiment.model.levels
        result: dict[str, Weights] = {}
        for name, count in itertools.product(("euler", "dpmpp_2m"), steps):
            maker, host = solver_maker(name, levels), spaced_places(levels, count, "uniform")
            taught = sample(self.denoiser, maker, self.noise, host, keep_states=True)
            assert taught.states is not None and taught.denoised is not None
            path = TeacherPath(maker, levels.sigmas(host), taught.states, taught.denoised, taught.latents)
            for speedup in speedups:
                few = plain(spaced_places(levels, int(count / speedup + 1e-9), "uniform"))
                _, rows = fit(self.denoiser, path, Fitting(3, 3, 1e-4), self.noise, few.places, few.actions)
                result[f"{name}-{count}-{speedup:g}"] = rows
        return result


def table_of(fits: Sequence[dict[str, Weights]]) -> dict[str, Weights]:
    """The mean of other models' weights."""
    return {
        key: tuple(tuple(np.mean(rows, axis=0).tolist()) for rows in zip(*(fit[key] for fit in fits), strict=True))
        for key in fits[0]
        if all(key in fit for fit in fits)
    }


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """All of them, those that take the least time first."""
    for steps in sorted(options.steps):
        for spacing in ("uniform", "karras"):
            for model in options.models:
                if spacing == "karras" and (steps != 30 or model == "emoji"):
                    continue  # no host offers Karras' levels for flow models
                for guidance in options.guidance:
                    if model == "pixel" and guidance != min(options.guidance):
                        continue
                    for solver in options.solvers:
                        yield Cell(model, solver, guidance, spacing, steps)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["tiny", "pixel", "emoji"])
    parser.add_argument("--solvers", nargs="+", default=["euler", "dpmpp_2m", "third"])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1, 2, 4, 7.5])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 30, 50])
    parser.add_argument("--speedups", type=float, nargs="+", default=[1.5, 2, 3])
    parser.add_argument("--rules", nargs="+", default=[*RULES, *EMULATED, TABLE])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--table-only", action="store_true", help="of the cells that are there")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.table_only:
        measure(options)
    print_tables({path.stem: json.loads(path.read_text()) for path in sorted(options.work.glob("*-*-*-*-*.json"))})


def measure(options: argparse.Namespace) -> None:
    benches: dict[tuple[str, float], Bench] = {}

    def bench(model: str, guidance: float) -> Bench:
        return benches.setdefault((model, guidance), Bench(model, guidance, options.images))

    fits: dict[str, dict[str, Weights]] = {}
    for cell in cells(options):
        path = options.work / cell.file
        there = json.loads(path.read_text()) if path.exists() else {}
        possible = set(options.rules) - ({*EMULATED, TABLE} if cell.solver == "third" else set())
        if all(possible <= set(there.get(f"{speedup:g}", ())) for speedup in options.speedups):
            continue
        for model in options.models if TABLE in possible else ():
            kept = options.work / f"fits-{model}.json"
            if model not in fits:
                if not kept.exists():
                    made = bench(model, 1.0 if model == "pixel" else 2.0).fits(options.steps, options.speedups)
                    write(kept, made)
                fits[model] = json.loads(kept.read_text())
        others = [fitted for model, fitted in fits.items() if model != cell.model and TABLE in possible]
        tables = table_of(others) if others else {}
        write(path, bench(cell.model, cell.guidance).measured(cell, options.speedups, tables, options.rules, there))
        print(path.name, file=sys.stderr, flush=True)


def write(path: Path, document: Any) -> None:
    with whole_file(path) as draft:
        draft.write_text(json.dumps(document))


RULE = "flexiffusion.rule"
PREDICTED, PLACED = "filled, growing gaps to the end, branch -1", "fewer, even on the list"
Ratios = dict[tuple[str, str], tuple[float, float]]  # of each cell and speed-up, those of errors and of costs


def print_tables(found: dict[str, Any]) -> None:
    ratios: dict[str, Ratios] = {}
    for cell, speedups in found.items():
        model, _, guidance, *_ = cell.split("-")
        for speedup, rows in speedups.items():
            base = rows["fewer steps"]
            chosen = PLACED if model == "emoji" and float(guidance) > 1 else PREDICTED  # as flexiffusion.rule has it
            rows = rows | ({RULE: rows[chosen]} if chosen in rows else {})
            for label, row in rows.items():
                errors = np.nan_to_num(np.array(row["errors"]), nan=DIVERGED, posinf=DIVERGED)
                ratio = mean_root(errors) / mean_root(np.array(base["errors"]))
                ratios.setdefault(label, {})[cell, speedup] = ratio, row["cost"] / base["cost"]
    models = sorted({cell.split("-")[0] for cell in found})
    by = sorted({speedup for speedups in found.values() for speedup in speedups}, key=float)
    headings = (
        "rule",
        "cells",
        "mean ratio",
        "not worse",
        "95 %",
        "worst",
        "cost",
        *models,
        *(f"{one}x" for one in by),
    )
    print(f"{len(found)} settings.\n\n| {' | '.join(headings)} |\n{'|---' * len(headings)}|")
    for label, known in sorted(ratios.items(), key=lambda item: geometric(item[1])):
        values = np.array([ratio for ratio, _ in known.values()])
        parts = [geometric(known, lambda k, model=model: k[0].startswith(model)) for model in models]  # type: ignore[misc]
        parts += [geometric(known, lambda k, one=one: k[1] == one) for one in by]  # type: ignore[misc]
        cost = np.mean([cost for _, cost in known.values()])
        print(
            f"| {label} | {len(values)} | {geometric(known):.2f} | {100 * np.mean(values <= NOT_WORSE):.0f} % "
            f"| {np.percentile(values, 95):.2f} | {values.max():.2f} | {cost:.3f} | "
            + " | ".join("" if math.isnan(value) else f"{value:.2f}" for value in parts),
            "|",
        )
    print("\nOne rule for all, chosen on the other models (the most cells not worse, then the least mean):\n")
    print("| model left out | rule | there: mean ratio | not worse | worst |\n|---|---|---|---|---|")
    for model in models:
        everywhere = set.intersection(
            *(set(known) for label, known in ratios.items() if label in RULES and len(known) > 20)
        )
        others = [key for key in everywhere if not key[0].startswith(model)]
        there = [key for key in everywhere if key[0].startswith(model)]
        if not others or not there:
            continue
        able = {label: known for label, known in ratios.items() if label in RULES and everywhere <= set(known)}
        able.pop("fewer steps", None)
        best = max(
            able, key=lambda label: (share(able[label], others), -geometric({k: able[label][k] for k in others}))
        )
        held = {key: able[best][key] for key in there}
        worst = max(ratio for ratio, _ in held.values())
        print(f"| {model} | {best} | {geometric(held):.2f} | {100 * share(held, there):.0f} % | {worst:.2f} |")


def share(known: Ratios, keys: Sequence[tuple[str, str]]) -> float:
    """Of these cells, those that are not worse."""
    return float(np.mean([known[key][0] <= NOT_WORSE for key in keys]))


def geometric(known: Ratios, of: Callable[[tuple[str, str]], bool] = lambda key: True) -> float:
    """The geometric mean of ratios; NaN of none."""
    logs = [math.log(max(ratio, 1e-6)) for key, (ratio, _) in known.items() if of(key)]
    return math.exp(np.mean(logs)) if logs else math.nan


if __name__ == "__main__":
    main()
