"""A schedule as other programs take one, and what of it they cannot express.

cache-dit: `DBCacheConfig(steps_computation_mask=[...], steps_computation_policy="static")`, 1 computes a step and 0
reuses the last one (github.com/vipshop/cache-dit). stable-diffusion.cpp has the same as `--scm-mask`. Both run
transformers only, and each in a way of its own: what they make of a mask is not what was measured of the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from flexiffusion.families import FAMILIES
from flexiffusion.schedule import Schedule, StepsPlan
from flexsearch.errors import ConfigError

Target = Literal["cache-dit", "sd.cpp", "sigmas", "steps"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class Exported:
    """text: what the target takes. lost: what of the schedule is not in it, in sentences."""

    text: str
    lost: tuple[str, ...]


def export(schedule: Schedule, target: Target) -> Exported:
    """The schedule as `target` takes it.

    Raises ConfigError for sigmas of a schedule that records none.
    """
    plan = schedule.plan
    actions = plan.actions()
    evaluated = [action for action in actions if action.kind != "null"]
    nulls = [place for place, action in enumerate(actions) if action.kind == "null"]
    lost: list[str] = []
    if target == "sigmas":
        levels = plan.levels if isinstance(plan, StepsPlan) else schedule.levels
        if levels is None:
            raise ConfigError(
                schedule.name, "it records no noise levels, so there are no sigmas", "Export another, or --to steps"
            )
        kept = [level for level, action in zip(levels, actions, strict=True) if action.kind != "null"]
        text = ", ".join(f"{level:.9g}" for level in (*kept, 0.0))
        if partial := sum(action.kind == "partial" for action in evaluated):
            lost.append(f"that {partial} of {len(kept)} steps are partial: all of them run in full")
    else:
        mask = [int(action.kind == "full") for action in evaluated]
        bits = [str(bit) for bit in mask]
        text = {
            "cache-dit": f"[{', '.join(bits)}]",
            "sd.cpp": f"--cache-mode cache-dit --scm-mask {','.join(bits)} --scm-policy static",
            "steps": ", ".join(str(place) for place, bit in enumerate(mask) if bit),
        }[target]
        if isinstance(plan, StepsPlan):
            lost.append("its noise levels: use --to sigmas beside it, or other steps than the ones it was made for run")
        elif nulls:
            lost.append(
                f"its {len(nulls)} null steps: take the noise levels of steps {', '.join(map(str, nulls))} out of the "
                f"list of {plan.total_steps} (counted from 0); the {len(mask)} steps here are what is left"
            )
        lost += _of_partial_steps(schedule)
        if target != "steps" and not _is_transformer(schedule):
            lost.append(f"{target} skips steps of transformers only, and this is for {schedule.model.family}")
    if isinstance(plan, StepsPlan) and plan.weights is not None:
        lost.append("its own solver (weights): its levels suit no other")
    if any(action.drop for action in evaluated):
        lost.append("the units that its steps drop: all run")
    return Exported(text, tuple(lost))


def _of_partial_steps(schedule: Schedule) -> list[str]:
    partial = [action for action in schedule.plan.actions() if action.kind == "partial"]
    branches = sorted({action.branch for action in partial if action.branch is not None})
    predictors = sorted({action.predictor for action in partial})
    lost = []
    if branches:
        lost.append(f"the branch of partial steps ({', '.join(map(str, branches))}): the target has its own")
    if predictors and predictors != ["reuse"]:
        lost.append(f"how features are predicted ({', '.join(predictors)}): the target has its own way")
    return lost


def _is_transformer(schedule: Schedule) -> bool:
    model = schedule.model
    return model.blocks is not None or (model.family in FAMILIES and bool(FAMILIES[model.family].lists))
