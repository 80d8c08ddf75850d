"""Do other predictors earn a place? The same schedules, with the predictor of every partial step replaced.

    python -m benchmarks.predictors [FILE ...] [--held-out 64] [--reference teacher]

Damped extrapolation goes only a part of the way from the newest feature to the forecast. Spectrum (arXiv 2603.01623)
is the predictor `spectrum`; its fit is tried in log-SNR too. Without files: full and partial steps by turns on
log-SNR-spaced levels, and the bundled schedules. Prints a Markdown table: held-out paired error over that of the
schedule as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks.ratios import ratio_text
from flexiffusion import codec, presets
from flexiffusion.noise import spaced_places
from flexiffusion.predictor import chebyshev, lagrange
from flexiffusion.schedule import Schedule
from flexiffusion.search.candidate import Candidate, make_candidate
from flexiffusion.search.seeds import alternating
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.from_file import to_candidate
from flexsearch.runs.settings import Settings

History = Sequence[tuple[float, Tensor]]
Weights = Callable[[Sequence[float], float], list[float]]


def polynomial(order: int, damping: float, nodes: Sequence[float], at: float) -> list[float]:
    """The polynomial through the last `order` + 1, `damping` of the way there from the newest."""
    used = min(order + 1, len(nodes))
    found = [0.0] * (len(nodes) - used) + [damping * w for w in lagrange(nodes[-used:], at)]
    found[-1] += 1 - damping
    return found


def fitted(share: float, nodes: Sequence[float], at: float) -> list[float]:
    """Spectrum's fit over all nodes, in log-SNR scaled to [0, 1], and the line through the last two."""
    low, high = min(*nodes, at), max(*nodes, at)
    fit = chebyshev([(node - low) / (high - low) for node in nodes], (at - low) / (high - low))
    return [share * f + (1 - share) * w for f, w in zip(fit, polynomial(1, 1.0, nodes, at), strict=True)]


PREDICTORS: dict[str, Weights] = {
    "reuse": partial(polynomial, 0, 1.0),
    "linear, damped 0.5": partial(polynomial, 1, 0.5),
    "linear, damped 0.75": partial(polynomial, 1, 0.75),
    "linear, damped 0.9": partial(polynomial, 1, 0.9),
    "linear": partial(polynomial, 1, 1.0),
    "linear, driven 1.15": partial(polynomial, 1, 1.15),
    "quadratic, damped 0.5": partial(polynomial, 2, 0.5),
    "quadratic, damped 0.75": partial(polynomial, 2, 0.75),
    "quadratic": partial(polynomial, 2, 1.0),
    "cubic": partial(polynomial, 3, 1.0),
    "Chebyshev fit in log-SNR": partial(fitted, 1.0),
    "half of that, half linear": partial(fitted, 0.5),
}


@contextmanager
def replaced(weights_at: Weights) -> Iterator[None]:
    """Every partial step of a run predicts by these weights, from all full steps before it."""

    def predict(_kind: str, history: History, at: float) -> Tensor:
        factors = weights_at([node for node, _ in history], at)
        return torch.stack([factor * feature for factor, (_, feature) in zip(factors, history, strict=True)]).sum(0)

    with mock.patch("flexiffusion.run.predict", predict), mock.patch("flexiffusion.run.span", lambda _kind: 1000):
        yield


def with_spectrum(candidate: Candidate) -> Candidate:
    actions = [replace(action, predictor="spectrum") if action.branch is not None else action
               for action in candidate.actions]  # fmt: skip
    return make_candidate(candidate.places, actions)


def schedules(experiment: Experiment, files: Sequence[Path]) -> Iterator[tuple[str, Candidate]]:
    found: list[Schedule] = [codec.read(path) for path in files]
    if not files:
        for pairs, branch in ((6, -1), (6, 0), (10, 0)):
            levels = spaced_places(experiment.model.levels, 2 * pairs, "logsnr")
            yield f"{pairs} + {pairs} by turns, branch {branch}", alternating(levels, branch, "linear")
        found = [codec.read(path) for path in sorted(presets.bundled_folder().glob("tiny-fashion-dpmpp_2m-*.json"))]
    for schedule in found:
        yield schedule.name, to_candidate(schedule, experiment.model, experiment.teacher)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--reference", choices=["teacher", "converged"], default="teacher")
    arguments = parser.parse_args()
    experiment = Experiment(Settings(held_out=arguments.held_out), Path("runs/references"))
    evaluator = experiment.held_out_evaluator
    named = dict(schedules(experiment, arguments.files))
    own = {name: evaluator.evaluate(candidate).latent_errors(arguments.reference) for name, candidate in named.items()}
    print(f"| predictor | {' | '.join(named)} |\n|---|{'---|' * len(named)}")
    print(f"| as it is: latent error | {' | '.join(f'{errors.mean():.2e}' for errors in own.values())} |", flush=True)

    def row(label: str, candidates: dict[str, Candidate]) -> None:
        cells = []
        for name, candidate in candidates.items():
            errors = evaluator.evaluate(candidate).latent_errors(arguments.reference)
            cells.append(ratio_text(errors, own[name]))
        print(f"| {label} | {' | '.join(cells)} |", flush=True)

    row("Spectrum", {name: with_spectrum(candidate) for name, candidate in named.items()})
    for label, weights_at in PREDICTORS.items():
        with replaced(weights_at):
            row(label, named)


if __name__ == "__main__":
    main()
