"""What a cluster gains, and what the loss of workers costs: one search locally, on one and on two Ray workers.

    OMP_NUM_THREADS=1 python -m benchmarks.ray_efficiency --work FOLDER [--evaluations 40] [--kill-every 20]

Every worker has one thread, as the local engine. Efficiency is the network calls that trials needed, per second and
worker, over the local engine's; calls that a lost worker or a wrong expectation took in vain count for nothing. The
clock runs from the moment that all workers have their model. In the last row every `--kill-every` seconds one of the
two workers is killed (SIGKILL), by turns. CPU seconds are those of the driver and of its workers that lived to the end.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from optuna.trial import TrialState

from flexiffusion.search.front import front
from flexsearch.evaluators.pool import PoolEvaluator
from flexsearch.evaluators.synchronous import SynchronousEvaluator
from flexsearch.runs.driver import search
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.open_evaluator import opened
from flexsearch.runs.optuna_sampler import MethodSampler
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings


@dataclass
class Measured:
    name: str
    workers: int
    start: float
    seconds: float
    cpu: float
    calls: int
    trials: int
    whole: bool
    kills: int
    front: list[tuple[float, float]]


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "ray::Worker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return sorted(found, key=lambda process: process.pid)


def cpu_seconds() -> float:
    return sum(sum(process.cpu_times()[:2]) for process in [psutil.Process(), *workers()])


@contextmanager
def killer(every: float | None) -> Iterator[list[int]]:
    """Kills a worker every so many seconds; the list has the process numbers of the killed."""
    killed: list[int] = []
    end = threading.Event()

    def work() -> None:
        while every is not None and not end.wait(every):
            alive = workers()
            if alive:
                victim = alive[len(killed) % len(alive)]
                victim.kill()
                killed.append(victim.pid)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield killed
    finally:
        end.set()
        thread.join()


def case(name: str, settings: Settings, work: Path, kill_every: float | None = None) -> Measured:
    folder = RunFolder.create(work / name.replace(" ", "-").replace(",", ""), settings)
    experiment = Experiment(settings, work / "references")
    _ = experiment.search_evaluator
    sampler = MethodSampler(experiment.method, settings.seed)
    study = folder.study(settings, sampler)
    began = time.perf_counter()
    with opened(experiment, lambda line: print(f"    {line}", flush=True)) as evaluator:
        pool: Any = evaluator.pool if isinstance(evaluator, SynchronousEvaluator) else evaluator
        if isinstance(pool, PoolEvaluator):
            while pool.ready < pool.workers:
                pool.step()
        started, cpu = time.perf_counter(), cpu_seconds()
        with killer(kill_every) as killed:
            search(study, sampler, evaluator, experiment.costs, settings.evaluations, settings.racing, lambda *_: None)
        ended, spent = time.perf_counter(), cpu_seconds() - cpu
    trials = study.get_trials(deepcopy=False)
    evaluated = sampler.evaluated(trials)
    points = [(item.error, item.cost) for item in evaluated]
    return Measured(
        name,
        settings.workers or 1,
        started - began,
        ended - started,
        spent,
        sum(item.calls for item in evaluated),
        len(trials),
        all(trial.state == TrialState.COMPLETE for trial in trials) and len(trials) == settings.evaluations,
        len(killed),
        [points[i] for i in front(points)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--kill-every", type=float, default=20.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    local = Settings(
        steps=options.steps, images=options.images, evaluations=options.evaluations, planner=False, held_out=2
    )
    one = replace(local, engine="ray", workers=1)
    two = replace(one, workers=2)
    print(
        f"{options.evaluations} evaluations, T = {options.steps}, {options.images} images, torch {torch.__version__}\n"
    )
    cases = [
        case("local", local, options.work),
        case("1 worker", one, options.work),
        case("2 workers", two, options.work),
        case("2 workers, synchronous", replace(two, synchronous=True), options.work),
        case(f"2 workers, a kill every {options.kill_every:g} s", two, options.work, options.kill_every),
    ]
    base = cases[0].calls / cases[0].seconds
    print("\n| engine | start, s | search, s | CPU, s | network calls | efficiency | kills | trials | front |")
    print("|---|---|---|---|---|---|---|---|---|")
    for item in cases:
        same = "equal to the local one" if item.front == cases[0].front else f"{len(item.front)} points"
        print(
            f"| {item.name} | {item.start:.1f} | {item.seconds:.1f} | {item.cpu:.1f} | {item.calls} | "
            f"{item.calls / item.seconds / item.workers / base:.2f} | {item.kills} | "
            f"{item.trials}{'' if item.whole else ', NOT COMPLETE'} | {same} |"
        )


if __name__ == "__main__":
    main()
