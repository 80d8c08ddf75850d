"""Flexiffusion Apply Schedule: MODEL -> MODEL, for any sampler node, guider or third-party sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import folders
from ..apply import apply
from .common import mapping_input, model_input, schedule_input, schema


class ApplySchedule(io.ComfyNode):
    """Bypassed, it hands the model through untouched; applied twice, the last one counts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["flexiffusion", "deepcache", "easycache", "teacache", "speed up model", "faster sampling"],
            node_id="FlexiffusionApplySchedule",
            display_name="Flexiffusion Apply Schedule",
            category="model_patches/unet",
            description="Makes every sampling with this model follow the schedule, in whatever sampler node. "
            "What was run is written to the log.",
            inputs=[model_input(), schedule_input(), mapping_input()],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the schedule on it.")],
        )

    @classmethod
    def execute(cls, model: Any, schedule: Any, mapping: Any) -> Any:
        return io.NodeOutput(apply(model, schedule, mapping, folders.presets()))
