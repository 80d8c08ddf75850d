"""What a search in place finds within a budget of calls, and on how many images a solver can be fitted.

    python -m benchmarks.in_place [--model tiny] [--steps 20] [--calls 1500] [--images 4] [--held-out 16] [--run RUN]

`flexiffusion.search.in_place.find` on a bundled model, for 2x and 3x. Printed, as Markdown: mean distances to the
teacher, as squared errors, on held-out images: of fewer steps (evenly on the list), of the rule, and of what was found;
with `--run`, also of what `flexsearch run --steps STEPS --speedup 2 --speedup 3` found, whose folder RUN is.
Then, for the rule's schedule, what a solver fitted on few of the search's images does on the held-out ones, over the
solver's own weights: as the search fits, and with no price for sums of weights other than one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from flexiffusion import codec
from flexiffusion.metadata import ModelInfo
from flexiffusion.noise import NoiseLevels, spaced_places
from flexiffusion.rule import rule
from flexiffusion.schedule import StepsPlan
from flexiffusion.search.candidate import Candidate, make_candidate, plain
from flexiffusion.search.fitting import FEW_IMAGES, TeacherPath, fit
from flexiffusion.search.in_place import find
from flexiffusion.search.paired import mean_root, squared_error
from flexiffusion.search.trajectory import sample
from flexiffusion.solver import Multistep, SolverMaker, dpmpp_2m
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings
from flexsearch.sampling.references import HELD_OUT, ImageSet

SPEEDUPS = (2.0, 3.0)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--held-out", type=int, default=16)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    experiment = Experiment(Settings(model=options.model), Path("runs/references"))
    levels = experiment.model.levels
    searched = ImageSet(0, 0, options.images, experiment.prompts[0])
    held_out = ImageSet(0, HELD_OUT, options.held_out, experiment.prompts[1])
    places = spaced_places(levels, options.steps, "uniform")
    guided = experiment.sampling.guidance > 1
    there, noise = experiment.denoiser(held_out), held_out.noise(experiment.model)
    teacher = sample(there, dpmpp_2m, noise, places).latents

    def error(candidate: Candidate, solver: SolverMaker = dpmpp_2m) -> float:
        made = sample(there, solver, noise, candidate.places, candidate.actions)
        return mean_root(squared_error(made.latents, teacher))

    found = find(
        experiment.denoiser(searched), searched.noise(experiment.model), levels.sigmas(places), SPEEDUPS,
        calls=options.calls,
    )  # fmt: skip
    print(found.report)
    print(
        "\n| speed-up | fewer steps | the rule | found | found / fewer | found / rule | flexsearch run | found / it |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for one in found.schedules:
        count = int(options.steps / one.speedup)
        few = plain([places[round(i * (options.steps - 1) / (count - 1))] for i in range(count)])
        solver: SolverMaker = partial(Multistep, weights=one.weights) if one.weights else dpmpp_2m
        fewer, ruled = error(few), error(by_rule(levels, places, one.speedup, guided))
        mine = error(one.candidate, solver)
        ratios = f"{mine / fewer:.2f} | {mine / ruled:.2f} | - | -"
        if options.run is not None:
            (path,) = (options.run / "schedules").glob(f"*-{one.speedup:g}x.json")
            plan = codec.read(path).plan
            assert isinstance(plan, StepsPlan) and plan.weights
            headless = error(
                make_candidate([levels.place(step.sigma) for step in plan.steps], plan.actions()),
                partial(Multistep, weights=plan.weights),
            )
            ratios = f"{mine / fewer:.2f} | {mine / ruled:.2f} | {headless:.2e} | {mine / headless:.2f}"
        print(f"| {one.speedup:g}x | {fewer:.2e} | {ruled:.2e} | {mine:.2e} | {ratios} |", flush=True)

    more = ImageSet(0, 0, 8, experiment.prompts[0])
    denoiser, start = experiment.denoiser(more), more.noise(experiment.model)
    taught = sample(denoiser, dpmpp_2m, start, places, keep_states=True)
    assert taught.states is not None and taught.denoised is not None
    path = TeacherPath(dpmpp_2m, levels.sigmas(places), taught.states, taught.denoised, taught.latents)
    print(
        "\n| the rule's schedule | sums | own weights | fitted on 1 | 2 | 4 | 8 images |\n|---|---|---|---|---|---|---|"
    )
    for speedup in SPEEDUPS:
        ruled_by = by_rule(levels, places, speedup, guided)
        own = error(ruled_by)
        for sums, fitting in (("about one", FEW_IMAGES), ("free", replace(FEW_IMAGES, consistency=0.0))):
            cells = []
            for count in (1, 2, 4, 8):
                _, weights = fit(denoiser, path, fitting, start[:count], ruled_by.places, ruled_by.actions)
                cells.append(f"{error(ruled_by, partial(Multistep, weights=weights)) / own:.2f}")
            print(f"| {speedup:g}x | {sums} | {own:.2e} | {' | '.join(cells)} |", flush=True)


def by_rule(levels: NoiseLevels, places: tuple[int, ...], speedup: float, guided: bool) -> Candidate:
    """The rule's schedule."""
    plan = rule(levels.sigmas(places), speedup, ModelInfo("any", 64), levels.kind, guided=guided).plan
    own = [levels.place(step.sigma) for step in plan.steps] if isinstance(plan, StepsPlan) else places
    return make_candidate(own, plan.actions())


if __name__ == "__main__":
    main()
