"""Flexiffusion Apply Schedule: MODEL -> MODEL, for any sampler node, guider or third-party sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import folders, reports
from ..apply import apply
from .common import mapping_input, model_input, range_inputs, schedule_input, schema


class ApplySchedule(io.ComfyNode):
    """Bypassed, it hands the model through untouched; applied twice, the last one counts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["flexiffusion", "deepcache", "easycache", "teacache", "speed up model", "faster sampling"],
            node_id="FlexiffusionApplySchedule",
            display_name="Flexiffusion Apply Schedule",
            category="model_patches/unet",
            description="Makes every sampling with this model follow the schedule, whatever the sampler node. "
            "What was run is shown under this node and written to the log.",
            inputs=[model_input(), schedule_input(), mapping_input(), *range_inputs()],
            hidden=[io.Hidden.unique_id],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the schedule on it.")],
        )

    @classmethod
    def execute(
        cls, model: Any, schedule: Any, mapping: Any, start_percent: float = 0.0, end_percent: float = 1.0
    ) -> Any:
        part = (start_percent, end_percent)
        return io.NodeOutput(apply(model, schedule, mapping, folders.presets(), reports.listener(cls, schedule), part))
