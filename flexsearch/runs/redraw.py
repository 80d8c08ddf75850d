"""The pictures of a finished run again, for a folder that does not hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flexiffusion.schedule import Schedule
from flexsearch.models.checkpoint import stills
from flexsearch.runs import final_table
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.from_file import entry_of
from flexsearch.runs.progress import Silent
from flexsearch.sampling.references import HELD_OUT, ImageSet
from flexsearch.sampling.solvers import draw

IMAGES = 10


def pictures(experiment: Experiment, schedules: Mapping[str, Schedule], teacher: str) -> dict[str, NDArray[Any]]:
    """The first held-out images of the teacher, under its name, and of each schedule.

    Each (n, height, width, 3) in [0, 1].
    """
    settings, model = experiment.settings, experiment.model
    images = ImageSet(settings.seed, HELD_OUT, min(IMAGES, settings.held_out), experiment.prompts[1])
    entries = {name: entry_of(name, schedule, experiment, Silent()) for name, schedule in schedules.items()}
    denoiser, noise, drawn = experiment.denoiser(images), images.noise(model), {}
    for name, entry in {teacher: final_table.teacher(experiment), **entries}.items():
        candidate = entry.candidate
        with torch.inference_mode():
            made = draw(denoiser, entry.solver, noise, candidate.places, candidate.actions, batch=experiment.batch)
        drawn[name] = np.asarray(stills(model.decode(made.latents)).permute(0, 2, 3, 1).numpy())
    return drawn
