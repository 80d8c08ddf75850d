"""FID to the 10,000 real test pictures of Fashion-MNIST, and what the classifier sees, for the teacher and schedules.

    python -m benchmarks.real_fid --work FOLDER [FILE ...] [--samples 5000] [--json OUT]

Prompts are `a photo of a {class}` over the ten classes in equal numbers. Features are the bundled ones. The floor is
the FID between half of the real *training* pictures and the real test set: what a perfect model would have. FILEs are
schedules of the bundled model; all share the noise of the teacher's row. Needs Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexiffusion import codec
from flexiffusion.noise import spaced_places
from flexiffusion.search.candidate import Candidate, plain
from flexsearch.metrics.features import BundledFeatures, extract
from flexsearch.metrics.relative_fid import frechet_distance
from flexsearch.models.checkpoint import CheckpointDenoiser
from flexsearch.models.costs import count_macs
from flexsearch.models.load import load_model
from flexsearch.models.noise import initial_noise
from flexsearch.runs.from_file import to_candidate
from flexsearch.sampling.solvers import SamplerSettings, draw
from tools.fashion_mnist import CLASSES, read, to_rgb

FIRST = 1 << 28  # image indices apart from those of any search or held-out set
BATCH = 250


def real_features(module: BundledFeatures, split: str, limit: int | None = None) -> Tensor:
    pictures = read(split)[0][:limit]  # type: ignore[arg-type]
    return torch.cat([extract(module, to_rgb(chunk)) for chunk in pictures.split(1000)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument(
        "--work", type=Path, required=True, help="keeps the features of every schedule for a later call"
    )
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--solver", default="dpmpp_2m")
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    model, module = load_model("tiny"), BundledFeatures()
    recipe = SamplerSettings(arguments.solver, model.default_guidance)
    table = count_macs(model, recipe.guidance)
    test = real_features(module, "t10k")
    half = real_features(module, "train")[::2]
    labels = read("t10k")[1]
    report = {
        "floor": frechet_distance(half, test),
        "accuracy_real": float((logits(module, test) == labels).float().mean()),
        "samples": arguments.samples,
        "rows": [],
    }
    denoiser = model.denoiser([f"a photo of a {name}" for name in CLASSES], recipe.guidance)
    teacher = plain(spaced_places(model.levels, arguments.steps, "uniform"))
    candidates = [(f"teacher, {recipe.solver} {arguments.steps}", teacher)]
    for schedule in map(codec.read, arguments.files):
        candidates.append((schedule.name, to_candidate(schedule, model, teacher.places)[0]))
    print(f"floor (real training half, real test set): {report['floor']:.3f}; classifier on real: "
          f"{report['accuracy_real']:.2%}\n")  # fmt: skip
    print(f"| schedule | speed-up (MACs) | FID, n={arguments.samples} | FID loss | accuracy |\n|---|---|---|---|---|")
    for name, candidate in candidates:
        kept = (
            arguments.work / f"{recipe.solver}-{candidate.key[:16]}-{model.sha256[:16]}-{arguments.samples}.safetensors"
        )
        if not kept.exists():
            arguments.work.mkdir(parents=True, exist_ok=True)
            made = sampled_features(denoiser, module, recipe, candidate, arguments.samples)
            save_file({"features": made}, kept)
        features = load_file(kept)["features"]
        fid = frechet_distance(features, test)
        wanted = torch.arange(arguments.samples) % len(CLASSES)
        row = {
            "name": name,
            "speedup_macs": teacher.cost(table) / candidate.cost(table),
            "fid": fid,
            "accuracy": float((logits(module, features) == wanted).float().mean()),
        }
        report["rows"].append(row)
        loss = fid / report["rows"][0]["fid"] - 1
        print(f"| {name} | {row['speedup_macs']:.2f}x | {fid:.3f} | {loss:+.1%} | {row['accuracy']:.2%} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def sampled_features(
    denoiser: CheckpointDenoiser,
    module: BundledFeatures,
    recipe: SamplerSettings,
    candidate: Candidate,
    count: int,
) -> Tensor:
    """Features of `count` images, class i mod 10, made and forgotten in batches."""
    parts, model = [], denoiser.model
    for first in range(0, count, BATCH):
        indices = range(first, min(first + BATCH, count))
        noise = initial_noise(0, (FIRST + i for i in indices), model.latent_shape)
        made = draw(
            denoiser.taken([i % len(CLASSES) for i in indices]),
            recipe.solver,
            noise,
            candidate.places,
            candidate.actions,
            batch=BATCH,
        )
        parts.append(extract(module, model.decode(made.latents)))
        print(f"{indices[-1] + 1}/{count}", file=sys.stderr, flush=True)
    return torch.cat(parts)


def logits(module: BundledFeatures, features: Tensor) -> Tensor:
    """The classifier's answer from its own penultimate features."""
    return module.classifier.head(features).argmax(dim=1)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
