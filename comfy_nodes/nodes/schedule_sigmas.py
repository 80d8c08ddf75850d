"""Flexiffusion Schedule Sigmas: the noise levels that a schedule leaves of a list."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy_api.latest import io

from ...flexiffusion.errors import ScheduleError
from ...flexiffusion.solver import own_sampler
from ..apply import thin
from ..auto import Auto
from .common import schedule_input, schema

_log = logging.getLogger("flexiffusion")


class ScheduleSigmas(io.ComfyNode):
    """For SamplerCustom workflows. Null steps act through this node alone; partial ones need Apply Schedule as well."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["flexiffusion", "sigmas", "skip steps", "null steps"],
            node_id="FlexiffusionScheduleSigmas",
            display_name="Flexiffusion Schedule Sigmas",
            category="sampling/custom_sampling/sigmas",
            description="Takes the null steps of a schedule out of a list of sigmas. A schedule with noise levels of "
            "its own replaces those below the first. For partial steps put Apply Schedule on the model as well. The "
            "sampler output is the schedule's own solver, where it brings one.",
            inputs=[
                io.Sigmas.Input("sigmas", tooltip="The scheduler's noise levels, such as BasicScheduler's."),
                schedule_input(),
            ],
            outputs=[
                io.Sigmas.Output(
                    "sigmas_out", display_name="sigmas", tooltip="The noise levels at which the network runs."
                ),
                io.Sampler.Output(
                    "sampler_out",
                    display_name="sampler",
                    tooltip="The schedule's own solver, for SamplerCustom; Euler where it brings none.",
                ),
            ],
        )

    @classmethod
    def execute(cls, sigmas: Any, schedule: Any) -> Any:
        from comfy.samplers import KSAMPLER, ksampler

        if len(sigmas) < 2:
            return io.NodeOutput(sigmas, ksampler("euler"))
        if isinstance(schedule, Auto):
            raise ScheduleError(
                schedule.name,
                "it is chosen when sampling starts, where the model and all settings are known",
                "Put Flexiffusion Auto or Apply Schedule on the model, and leave this node out",
            )
        levels, plan = thin(schedule, [float(sigma) for sigma in sigmas])
        if plan.warning:
            _log.warning("%s", plan.warning)
        thinned = torch.tensor(levels, dtype=sigmas.dtype, device=sigmas.device)
        if plan.weights is None:
            return io.NodeOutput(thinned, ksampler("euler"))
        return io.NodeOutput(thinned, KSAMPLER(own_sampler(plan.levels, plan.weights)))
