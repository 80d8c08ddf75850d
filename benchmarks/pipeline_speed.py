"""Seconds per image of a whole pipeline, prompt to picture: full steps, and schedules of five times the speed.

    python -m benchmarks.pipeline_speed --model FILE [--size 512] [--batches 1 2 8] [--steps 30] [--device cuda]

DPM-Solver++ 2M, classifier-free guidance. The schedules cost at most a fifth of the teacher's multiply-adds: plain
steps, full steps with branch-0 partial ones between, and full steps with output-head-only ones (branch -1). Each turn
draws with every schedule once; medians. Text encoding and decoding are within the time; loading is not.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from benchmarks.layouts import add_device_options, described, device_of, stopwatch
from flexiffusion.noise import spaced_places
from flexiffusion.schedule import FULL, Action
from flexsearch.devices import in_words, peak_memory
from flexsearch.models.costs import count_macs
from flexsearch.models.load import load_model
from flexsearch.models.noise import initial_noise
from flexsearch.sampling.prompts import BUNDLED, read_prompts
from flexsearch.sampling.solvers import SamplerSettings, draw

SPEEDUP = 5


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    add_device_options(parser)
    options = parser.parse_args()
    _, dtype = device_of(options)
    now = stopwatch(options)
    name = str(dtype).removeprefix("torch.")
    model = load_model(options.model, options.device, name, size=(options.size, options.size))
    recipe = SamplerSettings("dpmpp_2m", model.default_guidance)
    table = count_macs(model, recipe.guidance)
    prompts = read_prompts(BUNDLED, str(BUNDLED))[1]
    most = options.steps / SPEEDUP
    schedules = {f"{options.steps} full": [FULL] * options.steps, f"{int(most)} full": [FULL] * int(most)}
    for branch in (0, -1):
        partial = Action("partial", branch, "linear")
        pairs = int(most / table.in_full_steps([FULL, partial]))
        if pairs > 1:
            schedules[f"{pairs} full + {pairs} branch {branch}"] = [FULL, partial] * pairs
    print(f"{Path(options.model).name}, {options.size} px; {described(options)}; {options.repeats} turns.\n")
    print("| batch | schedule | multiply-adds | s per image | speed-up |\n|---|---|---|---|---|")
    for batch in options.batches:
        noise = initial_noise(0, range(batch), model.latent_shape)
        taken: dict[str, list[float]] = {label: [] for label in schedules}
        for turn in range(options.repeats + 1):
            for label, actions in schedules.items():
                timesteps = spaced_places(model.levels, len(actions), "logsnr")
                began = now()
                made = draw(
                    model.denoiser([prompts[i % len(prompts)] for i in range(batch)], recipe.guidance),
                    recipe.solver,
                    noise,
                    timesteps,
                    actions,
                    batch=batch,
                )
                model.decode(made.latents)
                if turn:  # the first warms up
                    taken[label].append((now() - began) / batch)
        teacher = next(iter(taken.values()))
        for label, actions in schedules.items():
            speedup = statistics.median(a / b for a, b in zip(teacher, taken[label], strict=True))
            macs, seconds = table.speedup(actions, options.steps), statistics.median(taken[label])
            print(f"| {batch} | {label} | {macs:.2f}x | {seconds:.3f} | {speedup:.2f}x |", flush=True)
    print(f"\nPeak memory {in_words(peak_memory(model.device))}.")


if __name__ == "__main__":
    main()
