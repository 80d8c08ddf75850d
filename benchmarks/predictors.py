"""Do other predictors earn a place? The same schedules, with the predictor of every partial step replaced.

    python -m benchmarks.predictors [FILE ...] [--held-out 64] [--reference teacher]

Damped extrapolation goes only a part of the way from the newest feature to the forecast. Spectrum (arXiv 2603.01623)
fits Chebyshev polynomials to the features of all full steps so far by ridge regression and takes the mean of that and
of the linear forecast. Without files: full and partial steps by turns on log-SNR-spaced levels, and the bundled
schedules. Prints a Markdown table: held-out paired error over that of the schedule as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from flexiffusion import codec, presets
from flexiffusion.predictor import weights
from flexiffusion.schedule import Schedule
from flexsearch.metrics.paired import ratio_interval
from flexsearch.sampling.levels import spaced_timesteps
from flexsearch.search.candidate import Candidate
from flexsearch.search.from_file import to_candidate
from flexsearch.search.seeds import alternating
from flexsearch.search.session import Session
from flexsearch.search.settings import Settings

History = Sequence[tuple[float, Tensor]]
Weights = Callable[[Sequence[float], float], list[float]]


def polynomial(order: int, damping: float, nodes: Sequence[float], at: float) -> list[float]:
    """The polynomial through the last `order` + 1, `damping` of the way there from the newest."""
    used = min(order + 1, len(nodes))
    found = [0.0] * (len(nodes) - used) + [damping * w for w in weights(nodes[-used:], at)]
    found[-1] += 1 - damping
    return found


def chebyshev(degree: int, ridge: float, blend: float, nodes: Sequence[float], at: float) -> list[float]:
    """`blend` of a ridge regression over all nodes (scaled to [-1, 1] with the place), the rest linear."""
    low, high = min(*nodes, at), max(*nodes, at)
    places = torch.tensor([*nodes, at], dtype=torch.float64)
    places = 2 * (places - low) / (high - low) - 1
    rows = [torch.ones_like(places), places]
    for _ in range(degree - 1):
        rows.append(2 * places * rows[-1] - rows[-2])
    basis = torch.stack(rows, 1)
    known, asked = basis[:-1], basis[-1]
    inverse = torch.linalg.inv(known.T @ known + ridge * torch.eye(degree + 1, dtype=torch.float64))
    fitted = (asked @ inverse @ known.T).tolist()
    return [blend * f + (1 - blend) * w for f, w in zip(fitted, polynomial(1, 1.0, nodes, at), strict=True)]


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
    "Chebyshev 4, ridge 0.1": partial(chebyshev, 4, 0.1, 1.0),
    "Spectrum: half of that, half linear": partial(chebyshev, 4, 0.1, 0.5),
    "the same, ridge 0.01": partial(chebyshev, 4, 0.01, 0.5),
}


@contextmanager
def replaced(weights_at: Weights) -> Iterator[None]:
    """Every partial step of a run predicts by these weights, from all full steps before it."""

    def predict(_kind: str, history: History, at: float) -> Tensor:
        factors = weights_at([node for node, _ in history], at)
        return torch.stack([factor * feature for factor, (_, feature) in zip(factors, history, strict=True)]).sum(0)

    with mock.patch("flexiffusion.run.predict", predict), mock.patch("flexiffusion.run.order", lambda _kind: 1000):
        yield


def schedules(session: Session, files: Sequence[Path]) -> Iterator[tuple[str, Candidate]]:
    found: list[Schedule] = [codec.read(path) for path in files]
    if not files:
        for pairs, branch in ((6, -1), (6, 0), (10, 0)):
            levels = spaced_timesteps(session.model.schedule, 2 * pairs, "logsnr")
            yield f"{pairs} + {pairs} by turns, branch {branch}", alternating(levels, branch, "linear")
        found = [codec.read(path) for path in sorted(presets.bundled_folder().glob("tiny-fashion-dpmpp_2m-*.json"))]
    for schedule in found:
        yield schedule.name, to_candidate(schedule, session.model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--reference", choices=["teacher", "converged"], default="teacher")
    arguments = parser.parse_args()
    session = Session(Settings(held_out=arguments.held_out), Path("runs/references"))
    engine = session.held_out_engine
    named = dict(schedules(session, arguments.files))
    own = {name: engine.evaluate(candidate).latent_errors(arguments.reference) for name, candidate in named.items()}
    print(f"| predictor | {' | '.join(named)} |\n|---|{'---|' * len(named)}")
    print(f"| as it is: latent error | {' | '.join(f'{errors.mean():.2e}' for errors in own.values())} |", flush=True)
    for label, weights_at in PREDICTORS.items():
        cells = []
        for name, candidate in named.items():
            with replaced(weights_at):
                errors = engine.evaluate(candidate).latent_errors(arguments.reference)
            ratio, low, high = ratio_interval(errors, own[name])
            cells.append(f"{ratio:.2f} ({low:.2f}-{high:.2f})")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
