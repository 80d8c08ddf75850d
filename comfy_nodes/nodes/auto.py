"""Flexiffusion Auto: MODEL -> MODEL, one slider."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import folders, reports
from ..apply import apply
from ..auto import Auto
from .common import model_input, schema, speedup_input


class AutoSchedule(io.ComfyNode):
    """The schedule is chosen anew at the start of every sampling: the list, guidance and files may have changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["flexiffusion", "speed up", "faster sampling", "auto", "deepcache", "teacache", "easycache"],
            node_id="FlexiffusionAuto",
            display_name="Flexiffusion Auto",
            category="model_patches/unet",
            description="Makes every sampling with this model faster, whatever the sampler node. It takes a schedule "
            "that was searched for this checkpoint; else one that was searched for its family with similar settings; "
            "else a rule that works on any model. What was run is shown under this node.",
            inputs=[model_input(), speedup_input()],
            hidden=[io.Hidden.unique_id],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model, made faster.")],
        )

    @classmethod
    def execute(cls, model: Any, speedup: float) -> Any:
        auto = Auto(speedup, folders.presets)
        return io.NodeOutput(apply(model, auto, listener=reports.listener(cls, auto)))
