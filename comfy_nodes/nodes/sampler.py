"""Flexiffusion Sampler: the core KSampler with a schedule."""

from __future__ import annotations

from typing import Any

import nodes as host
from comfy_api.latest import io

from ...flexiffusion.host import SamplingReport
from .. import folders
from ..apply import apply, report_text
from .common import mapping_input, model_input, range_inputs, sampling_inputs, schedule_input, schema, steps_of


class Sampler(io.ComfyNode):
    """Puts the schedule on the MODEL and lets the host's own KSampler code run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["flexiffusion", "ksampler", "fast sampler", "deepcache", "speed up"],
            node_id="FlexiffusionSampler",
            display_name="Flexiffusion Sampler",
            category="sampling",
            description="A KSampler that follows a schedule: some steps run in full, some only in part, some not at "
            "all.",
            inputs=[model_input(), schedule_input(), *sampling_inputs(), mapping_input(), *range_inputs()],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The denoised latent."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was really run: full, partial and null steps, misses, seconds, estimated speed-up, "
                    "and warnings.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        schedule: Any,
        mapping: Any,
        latent_image: Any,
        steps: int,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        **settings: Any,
    ) -> Any:
        reports: list[SamplingReport] = []
        patched = apply(model, schedule, mapping, folders.presets(), reports.append, (start_percent, end_percent))
        steps = steps_of(schedule, steps)
        (latent,) = host.common_ksampler(patched, steps=steps, latent=latent_image, **settings)
        report = report_text(schedule, reports)
        return io.NodeOutput(latent, report, ui={"text": (report,)})
