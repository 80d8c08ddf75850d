"""Every scheduler that `apply` knows, run: what of a schedule acts on it. docs/python.md has what is seen."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from drawn_schedules import own_solver, segments, steps

import flexiffusion
from flexiffusion.errors import ModelMismatch
from flexiffusion.plan import plan_for
from flexiffusion.schedule import Schedule, SegmentsPlan, StepsPlan
from flexiffusion.scheduler import KNOWN, Listed, kind_of, listed
from flexsearch.models.quiet import quiet_models
from tests.pipeline_folders import PIPELINES, tokenizer
from tests.unet_pipelines import build, sample, schedule_for, scheduler

ROOT = Path(__file__).parents[2]
LEVELS = 10
PARTIAL = "FP FPP FP FP F"
NULLS = "FP FPN FP FN F"

# Each line of the table: its words, and how the scheduler is made.
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "PNDM": ("PNDMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler, Karras levels": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "KDPM2 ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "DPM-Solver++ multistep": ("DPMSolverMultistepScheduler", {}),
    "DPM-Solver++ multistep, third order, Karras": (
        "DPMSolverMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True},
    ),
    "DPM-Solver++ multistep, SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM-Solver++ single step": ("DPMSolverSinglestepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "Flow matching, Euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "Flow matching, Euler, random": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True}),
    "Flow matching, Heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    "Flow levels, UniPC": (
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    ),
    "Flow levels, DPM-Solver++ multistep": (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    ),
}  # fmt: skip
FLOW = tuple(name for name in LINES if name.startswith("Flow"))


class Calls:
    """Counts calls of a pipeline's network, and of the deepest block in it, which no partial step runs."""

    def __init__(self, pipe: Any) -> None:
        network = getattr(pipe, "unet", None) or pipe.transformer
        inside = pipe.unet.mid_block.resnets[0].conv1 if hasattr(pipe, "unet") else network.transformer_blocks[-2].attn
        self.all = self.full = 0
        network.register_forward_pre_hook(lambda *_: setattr(self, "all", self.all + 1))
        inside.register_forward_pre_hook(lambda *_: setattr(self, "full", self.full + 1))

    def taken(self) -> tuple[int, int]:
        """All and full calls since the last time."""
        taken, self.all, self.full = (self.all, self.full), 0, 0
        return taken


@functools.cache
def pipe_of(flow: bool) -> tuple[Any, Calls]:
    quiet_models()
    if flow:
        maker, parts = PIPELINES["sd3"]
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
            torch.manual_seed(0)
            components = parts(tokenizer(Path(folder)))
        for part in components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
        pipe = getattr(diffusers, maker)(**components)
        pipe.set_progress_bar_config(disable=True)
    else:
        pipe = build("sd")
    return pipe, Calls(pipe)


def made(pipe: Any, plan: SegmentsPlan | StepsPlan) -> Schedule:
    """A schedule for the pipeline, with noise of its kind."""
    return schedule_for(pipe, replace(plan, noise="flow" if hasattr(pipe, "transformer") else "vp"))


def own_levels(given: Listed) -> StepsPlan:
    """Levels between those of the scheduler's own list, but for the first."""
    first, *rest = given.levels
    return steps((first, "F"), *((0.9 * level, "PF"[place % 2]) for place, level in enumerate(rest[:6])))


def run(pipe: Any, schedule: Schedule | None = None) -> tuple[torch.Tensor, Any]:
    """The latents, and the handle of a run with a schedule."""
    call = functools.partial(sample, pipe, num_inference_steps=LEVELS)
    torch.manual_seed(0)  # random flow matching draws from torch's own state
    if schedule is None:
        return call(), None
    with flexiffusion.apply(pipe, schedule) as handle:
        return call(), handle


@functools.cache
def seen(line: str) -> tuple[str, ...]:
    """Runs the scheduler with every kind of schedule; the line of the table that follows from what was seen."""
    pipe, calls = pipe_of(line in FLOW)
    calls.taken()
    name, more = LINES[line]
    pipe.scheduler = scheduler(name, **more)
    plain, _ = run(pipe)
    given, (evaluations, _) = listed(pipe.scheduler), calls.taken()
    assert len(given.timesteps) == evaluations and len(given.levels) == LEVELS

    full, _ = run(pipe, made(pipe, segments("F " * LEVELS)))
    assert torch.equal(full, plain) and calls.taken() == (evaluations, evaluations)

    partial = made(pipe, segments(PARTIAL))
    _, handle = run(pipe, partial)
    plan = plan_for(partial, given.levels)
    fulls = sum(plan.actions[plan.index_at(sigma)].kind == "full" for sigma in given.sigmas)
    assert calls.taken() == (evaluations, fulls) == (total(handle), handle.report.report.full)
    assert handle.report.report.misses == 0 < handle.report.report.partial

    words = []
    for schedule in (made(pipe, segments(NULLS)), made(pipe, own_levels(given))):
        try:
            latents, handle = run(pipe, schedule)
        except ModelMismatch as error:
            assert name in str(error) and calls.taken() == (0, 0)
            words.append("refused")
            continue
        plan = plan_for(schedule, given.levels)
        rows = listed(pipe.scheduler)
        assert rows.levels == pytest.approx(plan.levels, rel=1e-6) and torch.isfinite(latents).all()
        assert calls.taken()[0] == total(handle) == len(rows.timesteps)
        assert handle.report.report.misses == 0 and handle.report.report.null == LEVELS - len(plan.levels)
        words.append("yes")

    own = own_levels(given)
    brought = made(pipe, own_solver(own))
    latents, handle = run(pipe, brought)
    assert calls.taken()[0] == total(handle) == len(own.steps) and torch.isfinite(latents).all()
    assert handle.report.report.misses == 0

    # a run without a schedule is what it was before
    assert torch.equal(run(pipe)[0], plain)
    calls.taken()
    return (line, f"`{name}`", kind_of(pipe.scheduler).sampler or "", evaluated(evaluations), "yes", *words, "yes")


def total(handle: Any) -> int:
    return int(handle.report.report.full + handle.report.report.partial)


def evaluated(evaluations: int) -> str:
    return {LEVELS: "1", LEVELS + 1: "1, and one more"}.get(evaluations, "2, and 1 at the last")


@pytest.mark.parametrize("line", LINES)
def test_counts_are_those_of_the_plan_and_what_cannot_be_is_refused(line: str) -> None:
    seen(line)


def test_every_known_scheduler_is_in_the_table() -> None:
    assert {name for name, _ in LINES.values()} == set(KNOWN)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"])
def test_levels_taken_out_are_what_the_scheduler_makes_of_the_others_itself(name: str) -> None:
    """These take a list of timesteps; what we put in is the same, to the bit."""
    pipe, calls = pipe_of(False)
    pipe.scheduler = scheduler(name)
    schedule = made(pipe, segments("F FN FN FN FN F"))
    pipe.scheduler.set_timesteps(LEVELS)
    given = listed(pipe.scheduler)
    timestep = dict(zip(given.sigmas, given.timesteps, strict=True))
    latents, _ = run(pipe, schedule)
    kept = [timestep[level] for level in plan_for(schedule, given.levels).levels]
    assert torch.equal(latents, sample(pipe, timesteps=[round(t) for t in kept], num_inference_steps=None))
    calls.taken()


def test_the_table_of_the_documentation_is_what_was_seen() -> None:
    heads = ("", "scheduler", "in files", "calls a level", "partial steps", "null steps", "own levels", "own solver")
    rows = [heads, ("---",) * len(heads), *(seen(line) for line in LINES)]
    table = "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)
    assert table in (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), f"docs/python.md lacks\n{table}"
