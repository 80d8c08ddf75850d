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
from .common import mapping_input, model_input, range_inputs, sampling_inputs, schedule_input, schema, steps_of

AMPLIFIED = 4  # of the difference picture: what an eye hardly sees side by side is plain there


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
            "both pictures, their difference and their seconds: what a schedule gains, and what it costs in fidelity.",
            inputs=[
                model_input(),
                schedule_input(),
                *sampling_inputs("fixed"),  # another run is to show another schedule, not another picture
                mapping_input(),
                io.Vae.Input("vae", tooltip="Decodes both latents."),
                *range_inputs(),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="Left without the schedule, right with it."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Seconds of both, what was run, and how much the pictures differ.",
                ),
                io.Image.Output(
                    "without", display_name="without", tooltip="Without the schedule: for Compare Images (a slider)."
                ),
                io.Image.Output(
                    "with", display_name="with", tooltip="With the schedule: for Compare Images (a slider)."
                ),
                io.Image.Output(
                    "difference",
                    display_name="difference",
                    tooltip=f"How much each pixel differs, {AMPLIFIED} times as bright. Black: not at all.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        schedule: Any,
        mapping: Any,
        latent_image: Any,
        vae: Any,
        steps: int,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        **settings: Any,
    ) -> Any:
        steps = steps_of(schedule, steps)
        pictures, runs = [], []
        for used in (None, schedule):
            reports: list[SamplingReport] = []
            patched = apply(model, used, mapping, folders.presets(), reports.append, (start_percent, end_percent))
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
        difference = _difference(*pictures)
        shown = ui.PreviewImage(torch.cat([image, difference], dim=-2), cls=cls).as_dict()
        return io.NodeOutput(image, report, *pictures, difference, ui={**shown, "text": (report,)})


def _difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """How far two pictures in 0..1 are apart, amplified. # (B, H, W, C) each"""
    return ((first - second).abs() * AMPLIFIED).clamp(max=1)


def _times(before: float, after: float) -> str:
    return f" ({before / after:.2f}x)" if before and after else ""


def _psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of two pictures in 0..1, in dB."""
    error = float((first - second).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)
