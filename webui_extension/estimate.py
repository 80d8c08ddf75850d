"""What a schedule would do with the settings on the screen, before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flexiffusion.auto import Chosen, Setting, choose
from flexiffusion.errors import FlexiffusionError
from flexiffusion.families import FAMILIES
from flexiffusion.metadata import ModelInfo
from flexiffusion.plan import LevelMapping, Plan, plan_for
from flexiffusion.presets import Preset
from flexiffusion.schedule import Action, NoiseKind, Schedule

# What a partial step costs, in full steps, by branch: multiply-adds at the side that the family was trained on.
# tests/hosts/test_webui_estimate.py counts them on the real networks' shapes.
SHARES: Mapping[str, tuple[float, ...]] = {
    "sd15": (0.079, 0.224, 0.380, 0.470, 0.564, 0.673, 0.760, 0.848, 0.941, 0.960, 0.973, 0.985),
    "sd21": (0.094, 0.273, 0.460, 0.539, 0.625, 0.724, 0.797, 0.872, 0.951, 0.967, 0.977, 0.987),
    "sdxl": (0.015, 0.038, 0.066, 0.129, 0.214, 0.306, 0.437, 0.659, 0.882),
}


@dataclass(frozen=True, slots=True)
class Pass:
    """One sampling as the host's controls describe it.

    steps:   that are run
    skipped: of the host's list, before the first that is run (img2img, hires)
    """

    steps: int
    skipped: int = 0


def text_to_image(steps: int) -> Pass:
    """Every step of the list."""
    return Pass(max(steps, 1))


def image_to_image(steps: int, denoise: float) -> Pass:
    """The tail of the list that a denoising strength, 0 to 1, leaves."""
    run = min(int(min(denoise, 0.999) * steps) + 1, steps)
    return Pass(max(run, 1), max(steps - run, 0))


def hires(steps: int, denoise: float) -> Pass:
    """As many steps as are set, being the tail of a longer list."""
    return Pass(max(steps, 1), max(int(steps / min(max(denoise, 0.01), 0.999)) - steps, 0))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would be run. `times`: the plain way's network work, divided by this one's."""

    plan: Plan
    times: float


def outlook(schedule: Schedule, run: Pass, mapping: LevelMapping) -> Outlook:
    """The plan over a list of as many levels as the host's; where exactly they lie depends on its scheduler.

    Raises FlexiffusionError where the schedule cannot be laid over it.
    """
    levels = usual_levels(run, schedule.plan.noise)
    plan = plan_for(schedule, levels, mapping, start=run.skipped, own_solver=True)
    return Outlook(plan, run.steps / sum(cost(schedule, action) for action in plan.actions))


def cost(schedule: Schedule, action: Action) -> float:
    """Of one step, in full ones; an estimate for families without counts: the share of the blocks that are run."""
    if action.branch is None:
        return 0.0 if action.kind == "null" else 1.0
    shares = SHARES.get(schedule.model.family, ())
    if 0 <= action.branch < len(shares):
        return shares[action.branch]
    return (action.branch + 1) / (schedule.model.branches + 1)


def sentence(schedule: Schedule, run: Pass, mapping: LevelMapping) -> tuple[str, Plan | None]:
    """For an artist: what happens and about how much faster; and the plan, None where there is none."""
    try:
        seen = outlook(schedule, run, mapping)
    except FlexiffusionError as error:
        return str(error), None
    plan = seen.plan
    partial = sum(action.kind == "partial" for action in plan.actions)
    full = len(plan.actions) - partial
    if seen.times < 1.005:
        why = plan.warning or f"{schedule.name}: over {run.steps} steps every step is full"
        return f"nothing to gain: {why}", replace(plan, warning=None)
    left_out = f", {plan.nulls} left out" if plan.nulls else ""
    # what dropped layers save is not counted here; decoding and the host's own work save nothing
    bound = "at least" if any(action.drop for action in plan.actions) else "at best"
    counted = f"of {run.steps} steps {full} in full, {partial} in part{left_out}"
    return f"{counted}: {bound} about {seen.times:.1f} times as fast", plan


def automatic(
    speedup: float,
    run: Pass,
    model: ModelInfo,
    presets: Iterable[Preset],
    recognises: Callable[[Sequence[float]], bool],
) -> Chosen:
    """What "auto" would take: the schedule, for the levels that are run alone."""
    family = FAMILIES.get(model.family)
    noise: NoiseKind = family.noise if family is not None else "vp"
    levels = usual_levels(run, noise)[run.skipped :]
    return choose(speedup, Setting(levels, noise), model, presets, recognises)


def usual_levels(run: Pass, noise: NoiseKind) -> list[float]:
    """A host's list, `skipped` and all: evenly spaced in time, of a flow model or of Stable Diffusion's schedule."""
    total = run.steps + run.skipped
    if noise == "flow":
        return [1 - i / total for i in range(total)]
    product, sigmas = 1.0, []
    for i in range(1000):
        product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2
        sigmas.append(((1 - product) / product) ** 0.5)
    return [sigmas[round(999 * (1 - i / max(total, 2)))] for i in range(total)]
