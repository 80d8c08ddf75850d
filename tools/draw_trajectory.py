"""The picture of `docs/how-it-works.md`: one sampling of a bundled model, step by step, and with a schedule.

    python -m tools.draw_trajectory docs/images/trajectory.png [--schedule FILE] [--image 0]

From above: what the model predicts as the finished picture at some of its thirty steps; by how much its deep features
and its prediction change from one step to the next; the schedule's steps at the same noise levels; and its predictions
there. Everything is measured while it is drawn.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from flexiffusion.codec import read
from flexiffusion.cut import capturing
from flexiffusion.layouts import Layout, find_layout
from flexiffusion.strip import BLUE, KIND_COLOURS, KIND_HEIGHTS, ORANGE
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.from_file import settings_of, solver_in, to_candidate
from flexsearch.runs.settings import Settings
from flexsearch.sampling.references import ImageSet
from flexsearch.sampling.solvers import draw

T = TypeVar("T")
SHOWN = 10  # predictions of each row
SCHEDULES = Path(__file__).parents[1] / "schedules"


@dataclass
class Deep:
    """Looks on while the network runs in full, and keeps the deep feature before its output head at every step."""

    layout: Layout
    features: list[Tensor] = field(default_factory=list)

    def __call__(self, forward: Callable[[], T], sample: Tensor, chunks: Sequence[Hashable] = (0,)) -> T:
        with capturing(self.layout, [-1], rows=len(sample)) as capture:
            result = forward()
        self.features.append(torch.cat([stream.flatten() for stream in capture.features[-1].streams]))
        return result


def changes(values: Sequence[Tensor]) -> NDArray[Any]:
    """How far each differs from the one before, in parts of its own size."""
    pairs = itertools.pairwise(values)
    return np.array([float((after - before).norm() / after.norm()) for before, after in pairs])


def shown(count: int) -> list[int]:
    """Which of so many steps are shown, the first and the last among them."""
    return sorted({round(i * (count - 1) / (SHOWN - 1)) for i in range(SHOWN)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--schedule", type=Path, default=SCHEDULES / "tiny-fashion-dpmpp_2m-30-3x.json")
    parser.add_argument("--image", type=int, default=0, help="which of the search images")
    options = parser.parse_args()
    schedule = read(options.schedule)
    experiment = Experiment(settings_of(schedule, Settings()), options.out.parent)
    model, teacher = experiment.model, experiment.teacher
    images = ImageSet(0, options.image, 1, experiment.prompts[0][options.image :])
    denoiser, noise = images.denoiser(model, experiment.sampling.guidance), images.noise(model)
    candidate, _ = to_candidate(schedule, model, teacher)
    own = solver_in(schedule, candidate, model.levels, experiment.sampling.solver)

    full = draw(denoiser, experiment.sampling.solver, noise, teacher, keep_states=True)
    ours = draw(denoiser, own, noise, candidate.places, candidate.actions, keep_states=True)
    assert full.states is not None and full.denoised is not None and ours.denoised is not None
    deep = Deep(find_layout(model.network))
    for place, state in zip(teacher, full.states, strict=True):
        denoiser(state, place, slice(0, 1), deep)

    at = np.interp(  # the schedule's steps between the teacher's, by noise level
        [-np.log(sigma) for sigma in model.levels.sigmas(candidate.places)],
        [-np.log(sigma) for sigma in model.levels.sigmas((*teacher, 0))],
        range(1, len(teacher) + 2),
    )
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(3, 1, height_ratios=(1.25, 2.8, 1.25))
    above, middle, below = parts
    thumbnails(above, f"{len(teacher)} steps: the finished picture as each step predicts it", full.denoised, model)
    axes, strip = middle.subplots(2, sharex=True, height_ratios=(3, 1))
    steps = np.arange(2, len(teacher) + 1)
    axes.plot(steps, 100 * changes(deep.features), color=BLUE, marker="o", ms=3, label="deep features")
    axes.plot(steps, 100 * changes(list(full.denoised)), color=ORANGE, marker="s", ms=3, label="prediction")
    axes.set_ylabel("change from\nthe step before, %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    for x, action in zip(at, candidate.actions, strict=True):
        strip.bar(x, KIND_HEIGHTS[action.kind], width=0.35, color=KIND_COLOURS[action.kind])
    counts = [sum(action.kind == kind for action in candidate.actions) for kind in ("full", "partial")]
    strip.set(xlim=(0.5, len(teacher) + 1), ylim=(0, 1.1), yticks=[])
    strip.set_xlabel(f"step of the {len(teacher)}, from noise to picture")
    words = f"the schedule at the same noise levels: {counts[0]} full steps (high) and {counts[1]} partial ones (low)"
    strip.set_title(words, fontsize=9, loc="left")
    for side in ("left", "right", "top"):
        strip.spines[side].set_visible(False)
    thumbnails(below, "the finished picture as the schedule's steps predict it", ours.denoised, model)
    figure.savefig(options.out, dpi=110)
    print(f"{options.out}: {counts[0]} full and {counts[1]} partial steps of {len(teacher)}")


def thumbnails(part: Any, title: str, denoised: Tensor, model: Any) -> None:
    """A row of the pictures (steps, 1, ...) that the network predicts."""
    part.suptitle(title, fontsize=9, x=0.01, ha="left")
    chosen = shown(len(denoised))
    pictures = model.decode(torch.cat([denoised[step] for step in chosen]))
    for axes, step, picture in zip(part.subplots(1, len(chosen)), chosen, pictures, strict=True):
        axes.imshow(picture.permute(1, 2, 0).numpy())
        axes.set_title(str(step + 1), fontsize=7, pad=2)
        axes.axis("off")


if __name__ == "__main__":
    main()
