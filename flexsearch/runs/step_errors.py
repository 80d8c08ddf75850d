"""What the planner plans a model's schedules by, kept in a run's folder or in the cache: measured once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flexiffusion.search import macro_steps
from flexiffusion.search.macro_steps import StepErrors
from flexiffusion.whole_file import whole_file
from flexsearch.models.checkpoint import Checkpoint
from flexsearch.sampling.references import ImageSet
from flexsearch.sampling.solvers import SamplerSettings, solver_maker


def known_or_measured(
    model: Checkpoint,
    sampling: SamplerSettings,
    images: ImageSet,
    folder: Path,
    batch: int,
    progress: Callable[[], None] = lambda: None,
) -> StepErrors:
    """The errors of macro-steps over an image set, from `folder` if they are there, else measured and kept.

    `progress` is told after each level of each batch, or as often at once.
    """
    determines = {
        "model": model.sha256,
        "prediction": model.noise_config,
        "zero_negative": model.zero_negative,
        "size": model.image_size,
        "dtype": str(model.dtype),
        "sampling": asdict(sampling),
        "images": asdict(images),
        "grid": macro_steps.grid_of(model.levels),
        "kinds": [asdict(kind) for kind in macro_steps.MACRO_STEPS],
        "reach": macro_steps.REACH,
        "version": 4,
        **({} if model.frames is None else {"frames": model.frames}),
    }
    key = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"tables-{key}.safetensors"
    if path.exists():
        try:
            found = load(path)
        except (SafetensorError, KeyError):
            path.unlink()  # half written by a machine that went down: it is made again
        else:
            for _ in range(len(found.grid) * math.ceil(images.count / batch)):
                progress()
            return found
    denoiser = images.denoiser(model, sampling.guidance)
    maker = solver_maker(sampling.solver, model.levels)
    measured = macro_steps.measure(denoiser, maker, images.noise(model), batch, progress)
    save(path, measured)
    return measured


def save(path: Path, step_errors: StepErrors) -> None:
    """Whole or not at all."""
    arrays = {"grid": np.array(step_errors.grid), "errors": step_errors.errors, "gains": step_errors.gains}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        save_file({**arrays, "calls": np.array(step_errors.calls)}, draft)


def load(path: Path) -> StepErrors:
    """The inverse of `save`."""
    arrays = load_file(path)
    return StepErrors(
        tuple(arrays["grid"].tolist()), arrays["errors"], arrays["gains"], tuple(arrays["calls"].tolist())
    )
