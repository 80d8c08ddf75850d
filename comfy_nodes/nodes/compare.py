"""Flexiffusion Compare: the same seed without and with the schedule, side by side, with seconds."""

from __future__ import annotations

import math
from typing import Any

import nodes as host
import torch
from comfy_api.latest import io, ui

from ...flexiffusion.host import SamplingReport
from .. import folders
from ..apply import apply, report_text
from .common import mapping_input, model_input, sampling_inputs, schedule_input, schema, steps_of


class Compare(io.ComfyNode):
    """Both pictures go through the same code, one with every step in full: seconds are taken the same way."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["flexiffusion", "compare", "ab test", "side by side", "benchmark"],
            node_id="FlexiffusionCompare",
            display_name="Flexiffusion Compare",
            category="sampling",
            description="Samples twice from the same seed, without the schedule (left) and with it (right), and shows "
            "both pictures with their seconds: what a schedule gains, and what it costs in fidelity.",
            inputs=[
                model_input(),
                schedule_input(),
                *sampling_inputs(),
                mapping_input(),
                io.Vae.Input("vae", tooltip="Decodes both latents."),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="Left without the schedule, right with it."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Seconds of both, what was run, and how far the pictures are apart.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model: Any, schedule: Any, mapping: Any, latent_image: Any, vae: Any, steps: int, **settings: Any
    ) -> Any:
        steps = steps_of(schedule, steps)
        pictures, runs = [], []
        for used in (None, schedule):
            reports: list[SamplingReport] = []
            patched = apply(model, used, mapping, folders.presets(), reports.append)
            (latent,) = host.common_ksampler(patched, steps=steps, latent=latent_image, **settings)
            pictures.append(vae.decode(latent["samples"]))
            runs.append(reports)
        seconds = [sum(each.report.seconds for each in reports) for reports in runs]
        report = "\n".join(
            (
                f"without: {seconds[0]:.2f} s; with: {seconds[1]:.2f} s" + _times(*seconds),
                f"PSNR of the second picture to the first: {_psnr(*pictures):.1f} dB",
                report_text(schedule, runs[1]),
            )
        )
        image = torch.cat(pictures, dim=-2)  # (B, H, 2 W, C)
        shown = ui.PreviewImage(image, cls=cls).as_dict()
        return io.NodeOutput(image, report, ui={**shown, "text": (report,)})


def _times(before: float, after: float) -> str:
    return f" ({before / after:.2f}x)" if before and after else ""


def _psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of two pictures in 0..1, in dB."""
    error = float((first - second).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)
