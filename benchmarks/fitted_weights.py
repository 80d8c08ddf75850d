"""What each choice in fitting a solver's weights is worth: memory, last step, ridge, number of images.

    python -m benchmarks.fitted_weights [--model tiny] [--guidance 2] [--images 24] [--held-out 48]

Schedules (plain ones in hand-made spacings, full and partial steps by turns, the bundled model's own files) are sampled
by DPM-Solver++ 2M, and with weights fitted to the 30-step teacher on the first search images. Printed, as Markdown: the
mean squared latent error to the teacher on held-out images, and under each choice its ratio to that of the solver's own
weights. What no choice names is as `flexsearch run` has it, which the first column says, but on all search images. The
last line is the geometric mean over schedules.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from flexiffusion.codec import read
from flexiffusion.noise import spaced_places
from flexiffusion.search.candidate import Candidate, plain
from flexiffusion.search.fitting import Fitting, TeacherPath, fit
from flexiffusion.search.paired import Errors, squared_error
from flexiffusion.search.seeds import alternating
from flexiffusion.search.trajectory import Trajectory, sample
from flexiffusion.solver import Multistep, SolverMaker, Weights, dpmpp_2m
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.from_file import to_candidate
from flexsearch.runs.settings import Settings
from flexsearch.sampling.references import HELD_OUT, ImageSet

FILES = sorted((Path(__file__).parents[1] / "schedules").glob("tiny-fashion-dpmpp_2m-*.json"))
USUAL = Fitting()
ALL = None  # search images to fit on: as many as there are
CHOICES: dict[str, tuple[Fitting, int | None]] = {
    f"memory {USUAL.memory}, ridge {USUAL.ridge:g}": (USUAL, ALL),
    **{f"memory {memory}": (replace(USUAL, memory=memory, last=memory), ALL) for memory in (1, 2, 3, 6, 16)},
    **{f"last step reads {last}": (replace(USUAL, last=last), ALL) for last in (2, 16)},
    **{f"ridge {ridge:g}": (replace(USUAL, ridge=ridge), ALL) for ridge in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)},
    **{f"{images} images": (USUAL, images) for images in (4, 8, 16)},
}


class Bench:
    """One model with its teacher on images to fit on, and on others."""

    def __init__(self, settings: Settings) -> None:
        self.experiment = experiment = Experiment(settings, Path("runs/references"))
        self.levels = experiment.model.levels
        self.search, self.held_out = (
            ImageSet(settings.seed, first, count, prompts)
            for first, count, prompts in (
                (0, settings.images, experiment.prompts[0]),
                (HELD_OUT, settings.held_out, experiment.prompts[1]),
            )
        )
        sigmas = self.levels.sigmas(experiment.teacher)
        taught = self.sampled(self.search, dpmpp_2m, plain(experiment.teacher), keep=True)
        assert taught.states is not None and taught.denoised is not None
        self.path = TeacherPath(dpmpp_2m, sigmas, taught.states, taught.denoised, taught.latents)
        self.teacher = self.sampled(self.held_out, dpmpp_2m, plain(experiment.teacher)).latents

    def sampled(self, images: ImageSet, solver: SolverMaker, candidate: Candidate, keep: bool = False) -> Trajectory:
        denoiser, noise = self.experiment.denoiser(images), images.noise(self.experiment.model)
        return sample(denoiser, solver, noise, candidate.places, candidate.actions, keep_states=keep)

    def fitted(self, candidate: Candidate, fitting: Fitting, count: int | None) -> Weights:
        """The weights fitted on the first `count` search images; None: on all of them."""
        images = self.search if count is None else replace(self.search, count=count)
        denoiser, noise = self.experiment.denoiser(images), images.noise(self.experiment.model)
        return fit(denoiser, self.path, fitting, noise, candidate.places, candidate.actions)[1]

    def errors(self, candidate: Candidate, weights: Weights | None) -> Errors:
        """On the held-out images; None: the solver's own weights."""
        maker = dpmpp_2m if weights is None else lambda sigmas: Multistep(sigmas, weights)
        return squared_error(self.sampled(self.held_out, maker, candidate).latents, self.teacher)

    def schedules(self) -> Iterator[tuple[str, Candidate]]:
        """Those that the choices are compared on."""
        for spacing, count in (("uniform", 8), ("karras", 10), ("logsnr", 6)):
            yield f"{count} plain, {spacing}", plain(spaced_places(self.levels, count, spacing))  # type: ignore[arg-type]
        if self.experiment.settings.model == "tiny":
            for path in FILES:
                yield path.stem, to_candidate(read(path), self.experiment.model, self.experiment.teacher)[0]
        else:
            for count in (12, 20):
                places = spaced_places(self.levels, count, "logsnr")
                yield f"{count // 2} full, {count // 2} head only", alternating(places, -1, "linear")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--held-out", type=int, default=48)
    options = parser.parse_args()
    settings = Settings(
        model=options.model, guidance=options.guidance, images=options.images, held_out=options.held_out
    )
    bench = Bench(settings)
    print(f"{options.model}, guidance {bench.experiment.sampling.guidance:g}\n")
    print("| schedule | own weights |", " | ".join(CHOICES), "|")
    print("|---" * (2 + len(CHOICES)) + "|")
    logs = dict.fromkeys(CHOICES, 0.0)
    candidates = dict(bench.schedules())
    for name, candidate in candidates.items():
        own = bench.errors(candidate, None).mean()
        cells = []
        for label, (fitting, count) in CHOICES.items():
            ratio = bench.errors(candidate, bench.fitted(candidate, fitting, count)).mean() / own
            logs[label] += math.log(ratio) / len(candidates)
            cells.append(f"{ratio:.2f}")
        print(f"| {name} | {own:.2e} | {' | '.join(cells)} |", flush=True)
    print("| geometric mean | |", " | ".join(f"{math.exp(value):.3f}" for value in logs.values()), "|")


if __name__ == "__main__":
    main()
