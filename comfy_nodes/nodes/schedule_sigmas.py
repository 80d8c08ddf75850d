"""Flexiffusion Schedule Sigmas: the noise levels that a schedule leaves of a list."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..apply import thin
from .common import schedule_input, schema


class ScheduleSigmas(io.ComfyNode):
    """For SamplerCustom workflows. Null steps act through this node alone; partial ones need Apply Schedule as well."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["flexiffusion", "sigmas", "skip steps", "null steps"],
            node_id="FlexiffusionScheduleSigmas",
            display_name="Flexiffusion Schedule Sigmas",
            category="sampling/custom_sampling/sigmas",
            description="Takes the null steps of a schedule out of a list of sigmas; a schedule with noise levels of "
            "its own replaces those below the first. Apply Schedule does this too; use it as well for partial steps.",
            inputs=[
                io.Sigmas.Input("sigmas", tooltip="The scheduler's noise levels, such as BasicScheduler's."),
                schedule_input(),
            ],
            outputs=[
                io.Sigmas.Output("sigmas_out", display_name="sigmas", tooltip="The noise levels that are evaluated.")
            ],
        )

    @classmethod
    def execute(cls, sigmas: Any, schedule: Any) -> Any:
        if len(sigmas) < 2:
            return io.NodeOutput(sigmas)
        levels, _ = thin(schedule, [float(sigma) for sigma in sigmas])
        return io.NodeOutput(torch.tensor(levels, dtype=sigmas.dtype, device=sigmas.device))
