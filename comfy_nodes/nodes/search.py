"""Flexiffusion Search: finds schedules for the loaded model, with the settings of a KSampler, in minutes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths
import nodes as host
import torch
from comfy_api.latest import io

from ...flexiffusion.errors import FlexiffusionError
from ...flexiffusion.search.in_host import FOLDER, save
from ...flexiffusion.search.in_place import Progress
from .. import folders
from ..prompts import others
from ..search import Request, Searched, searching
from .common import SCHEDULE, model_input, sampling_inputs, schema

STEPS = 1000  # of the progress bar
TOOLTIPS = {
    "sampler_tooltip": "The sampling algorithm to search for. Of one that adds noise its deterministic form is taken; "
    "the report says so.",
    "scheduler_tooltip": "Where the noise levels of the plain pictures lie, as in KSampler.",
}


class Search(io.ComfyNode):
    """One sampling of the host that takes minutes; interrupted, it hands out the best so far."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["flexiffusion", "search", "optimize", "tune", "find schedule"],
            node_id="FlexiffusionSearch",
            display_name="Flexiffusion Search",
            category="sampling",
            description="Searches schedules for this model as it is loaded, LoRAs included, with these settings, and "
            "saves them in models/flexiffusion/searched, where Flexiffusion Auto finds them. Stop it at any time: the "
            "best so far is kept.",
            inputs=[
                model_input(),
                *(_steps() if one.id == "steps" else one for one in sampling_inputs(**TOOLTIPS)),
                io.String.Input(
                    "speedups",
                    default="2, 3",
                    tooltip="Speed-ups to search for, with commas between them. The outputs are those of the first.",
                ),
                io.Float.Input(
                    "minutes",
                    default=3.0,
                    min=0.1,
                    max=600.0,
                    step=0.5,
                    tooltip="How long to search. More minutes are never worse on the images of the search.",
                ),
                io.Int.Input(
                    "images",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Pictures, each from a seed of its own, that schedules are compared on.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The model's CLIP, if you like. With it, the pictures after the first show other prompts "
                    "(sixteen are built in), so that the schedule is not made for your prompt alone.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The pictures with the found schedule."),
                io.Latent.Output("plain", display_name="plain", tooltip="The same pictures without a schedule."),
                SCHEDULE.Output(
                    "schedule", display_name="schedule", tooltip="The schedule that was found for the first speed-up."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was found, how close it is to the plain pictures, and where it was saved.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        latent_image: Any,
        speedups: str,
        minutes: float,
        images: int,
        scheduler: str,
        clip: Any = None,
        **settings: Any,
    ) -> Any:
        import comfy.model_management
        import comfy.utils
        import latent_preview

        bar = comfy.utils.ProgressBar(STEPS)
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

        def progress(told: Progress) -> None:
            shown = None
            if previewer is not None and told.latents is not None:
                shown = previewer.decode_latent_to_preview_image("JPEG", told.latents[:1].to(model.load_device))
            bar.update_absolute(round(STEPS * told.part), STEPS, shown)

        stopped = (comfy.model_management.InterruptProcessingException,)
        result = Searched()
        seed = int(settings["seed"]) % 2**31
        further = () if clip is None else others(clip, settings["positive"], images - 1)
        request = Request(asked(speedups), 60 * minutes, scheduler, seed, stopped, progress, others=further)
        (latent,) = host.common_ksampler(
            searching(model, request, result), latent=repeated(latent_image, images), scheduler=scheduler, **settings
        )
        assert result.found is not None and result.plain is not None
        paths = save(result.schedules, Path(folder_paths.models_dir) / folders.FOLDER / FOLDER)
        lines = [result.found.report, *result.notes, *(f"saved: {os.fspath(path)}" for path in paths)]
        report = "\n".join(lines)
        plain = {**latent, "samples": result.plain}
        return io.NodeOutput(latent, plain, result.schedules[0], report, ui={"text": (report,)})


def _steps() -> Any:
    return io.Int.Input(
        "steps", default=30, min=9, max=1000, tooltip="Steps of the sampler without a schedule, as in KSampler."
    )


def asked(text: str) -> tuple[float, ...]:
    """The speed-ups in a text such as "2, 3". Raises FlexiffusionError."""
    try:
        speedups = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        speedups = ()
    if not speedups or not all(1 < speedup <= 4 for speedup in speedups):
        raise FlexiffusionError(f"speedups: {text!r} is no list of numbers above 1, at most 4. Write such as 2, 3")
    return tuple(dict.fromkeys(speedups))


def repeated(latent: dict[str, Any], images: int) -> dict[str, Any]:
    """The first latent of a batch, as often as there shall be images; each gets noise of its own."""
    samples = latent["samples"][:1]
    more = torch.cat([samples] * images)
    return {**{key: value for key, value in latent.items() if key != "batch_index"}, "samples": more}
