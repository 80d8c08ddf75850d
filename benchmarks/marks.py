"""Found schedules against plain steps at the cost of 6, 8 and 10 full steps, judged by the converged solution.

    python -m benchmarks.marks --work FOLDER [--evaluations 300]

Two searches of equal length for every cost, on the same images: the whole space, and plain steps only (their placement
is searched: the strongest honest rival; it begins with the planner's placements as ours does). Then everything is
measured on held-out noise and prompts. Prints a Markdown table. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flexsearch.metrics.paired import Errors, ratio_interval
from flexsearch.sampling.levels import spaced_timesteps
from flexsearch.search import verdict
from flexsearch.search.candidate import Candidate, plain
from flexsearch.search.driver import search
from flexsearch.search.method import Evaluated
from flexsearch.search.run_folder import RunFolder
from flexsearch.search.sampler import MethodSampler
from flexsearch.search.session import Session
from flexsearch.search.settings import Settings

COSTS = (6, 8, 10)
SLACK = 1.005  # a step of the output head alone costs 0.002 of a full one: six and six of them count as the cost of six


def searched(path: Path, settings: Settings) -> tuple[Session, list[Evaluated]]:
    folder = RunFolder.open(path)[0] if (path / "settings.json").exists() else RunFolder.create(path, settings)
    session = Session(settings, path.parent / "references")  # they are the same for all searches
    sampler = MethodSampler(session.method, settings.seed)
    study = folder.study(settings, sampler)

    def told(number: int, error: float, cost: float) -> None:
        if number % 20 == 0:
            print(f"{path.name} {number}/{settings.evaluations}", file=sys.stderr, flush=True)

    search(study, sampler, session.search_engine, session.costs, settings.evaluations, settings.racing, told)
    return session, list(sampler.evaluated(study.get_trials(deepcopy=False)))


def best(evaluated: list[Evaluated], cost: float) -> Candidate:
    return min((item for item in evaluated if item.cost <= cost * SLACK + 1e-9), key=lambda item: item.error).candidate


def ratio(errors: Errors, rival: Errors) -> str:
    value, low, high = ratio_interval(errors, rival)
    return f"{value:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--held-out", type=int, default=96)
    arguments = parser.parse_args()
    common = {
        "reference": "converged",
        "evaluations": arguments.evaluations,
        "images": arguments.images,
        "held_out": arguments.held_out,
    }
    arguments.work.mkdir(parents=True, exist_ok=True)
    print(f"Error: paired latent MSE to the converged solution, {arguments.held_out} held-out images; ratios with 95 %")
    print(
        f"paired-bootstrap intervals; {arguments.evaluations} evaluations on {arguments.images} images each search.\n",
        flush=True,
    )
    print("| cost | found | error | plain log-SNR | plain, searched placement | found / log-SNR | found / searched |")
    print("|---|---|---|---|---|---|---|")
    for cost in COSTS:
        asked = {**common, "speedups": (30 / (cost * SLACK),)}
        session, whole = searched(arguments.work / f"whole-{cost}", Settings(**asked))
        _, placed = searched(arguments.work / f"plain-{cost}", Settings(**asked, plain_only=True))
        found, engine = best(whole, cost), session.held_out_engine
        rivals = (plain(spaced_timesteps(session.model.schedule, cost, "logsnr")), best(placed, cost))
        ours, logsnr, searched_plain = (
            engine.evaluate(candidate).latent_errors("converged") for candidate in (found, *rivals)
        )
        cells = [str(cost), f"{verdict.described(found)}, {found.cost(session.table):.2f}"]
        cells += [f"{errors.mean():.2e}" for errors in (ours, logsnr, searched_plain)]
        cells += [ratio(ours, logsnr), ratio(ours, searched_plain)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
