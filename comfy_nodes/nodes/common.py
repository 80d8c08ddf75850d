"""What the nodes share: the schedule's socket, inputs that several have, and the way from a schema to the host."""

from __future__ import annotations

import dataclasses
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ...flexiffusion.rule import FASTEST
from ..auto import USUAL_STEPS, Auto

SCHEDULE = io.Custom("FLEXIFFUSION_SCHEDULE")

MAPPINGS = ["position", "level"]  # flexiffusion.plan.LevelMapping


def schema(search_aliases: list[str], **facts: Any) -> io.Schema:
    """A schema; `search_aliases` only where this host's has them."""
    if any(field.name == "search_aliases" for field in dataclasses.fields(io.Schema)):
        facts["search_aliases"] = search_aliases
    return io.Schema(**facts)


def model_input() -> Any:
    return io.Model.Input(
        "model",
        tooltip="The model to make faster: SD 1.x, SD 2.x, SDXL, Flux, Chroma, SD3.5, Qwen-Image, Z-Image, Wan and "
        "related models.",
    )


def schedule_input() -> Any:
    return SCHEDULE.Input(
        "schedule", tooltip="Which steps run in full, in part or not at all. From Flexiffusion Load Schedule."
    )


def mapping_input() -> Any:
    return io.Combo.Input(
        "mapping",
        options=MAPPINGS,
        default="position",
        tooltip="How a schedule of segments is laid over the sampler's noise levels. position: its first step on the "
        "first level, and so on. level: by noise level, for KSampler (Advanced) in slices, refiners and img2img. "
        "Schedules with noise levels of their own always go by level.",
    )


def range_inputs() -> list[Any]:
    """Start and end of the acceleration, as other nodes of the host have theirs. Last everywhere: they came later."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="Where in the run the schedule starts to act; every step before runs in full. 0: from the "
            "beginning.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="Where in the run the schedule stops acting; every step after runs in full. 1: until the end.",
        ),
    ]


def speedup_input(**more: Any) -> Any:
    return io.Float.Input(
        "speedup",
        default=2.0,
        min=1.0,
        max=FASTEST,
        step=0.1,
        round=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip="How many times faster sampling should be. 2: the time of half as many steps; 1: no change. The "
        "higher, the further from the picture that the model draws without it.",
        **more,
    )


def steps_of(schedule: Any, steps: int) -> int:
    """Of the steps widget, whose 0 means as many as the schedule was made for."""
    return steps or (USUAL_STEPS if isinstance(schedule, Auto) else int(schedule.sampling.steps))


def sampling_inputs(
    after_generate: str = "randomize",
    sampler_tooltip: str = "The sampling algorithm. Use the one that the schedule was made with; the report says if "
    "yours is another.",
    scheduler_tooltip: str = "Where the noise levels lie. A schedule with noise levels of its own replaces them.",
) -> list[Any]:
    """Those of the core KSampler, with the steps from the schedule.

    after_generate: what becomes of the seed after a run in a new node; hosts before 0.4 know "randomize" only
    """
    choices = getattr(io, "ControlAfterGenerate", None)
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True if choices is None else getattr(choices, after_generate),
            tooltip="Seed of the starting noise, as in KSampler.",
        ),
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=1000,
            tooltip="Steps of the sampler, before the schedule takes any out. 0: as many as it was made for.",
        ),
        io.Float.Input(
            "cfg",
            default=7.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Classifier-free guidance scale, as in KSampler.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.KSampler.SAMPLERS,
            default="dpmpp_2m",
            tooltip=sampler_tooltip,
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="normal",
            tooltip=scheduler_tooltip,
        ),
        io.Conditioning.Input("positive", tooltip="What should be in the picture."),
        io.Conditioning.Input("negative", tooltip="What should not be in the picture."),
        io.Latent.Input("latent_image", tooltip="The latent to denoise: an empty one, or a picture's for img2img."),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="How much is redrawn, as in KSampler. Below 1, the first step that remains always runs in full.",
        ),
    ]
