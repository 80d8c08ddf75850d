"""The schedule that a node's two widgets mean, and what the strip shows of it."""

from __future__ import annotations

from typing import Any

from ..flexiffusion.codec import loads
from ..flexiffusion.fit import made_for
from ..flexiffusion.metadata import ModelInfo
from ..flexiffusion.rule import rule
from ..flexiffusion.schedule import Schedule, SegmentsPlan
from ..flexiffusion.strip import KIND_COLOURS, KIND_HEIGHTS
from ..flexiffusion.summary import counts_text
from . import folders
from .auto import USUAL_STEPS, Auto

AUTO = "auto"  # in the place of a file's name


def chosen(preset: str, json: str = "", speedup: float = 2.0) -> Schedule | Auto:
    """The schedule in the text, or else the one in the file, or that to be chosen. Raises ScheduleError."""
    if json.strip():
        return loads(json.encode(), "json")
    return Auto(speedup, folders.presets) if preset == AUTO else folders.load(preset)


def strip(schedule: Schedule | Auto) -> dict[str, Any]:
    """What the front end draws: one entry a step, and a line of words.

    `steps`: [kind, branch or None]; null steps only where the schedule lists them
    `colours`: by kind
    `heights`: by kind, as parts of the strip's
    """
    if isinstance(schedule, Auto):
        # the rule over a list of the usual length: what else may be chosen depends on the model
        made = rule(range(USUAL_STEPS, 0, -1), schedule.speedup, ModelInfo("any", 1))
        return {
            **strip(made),
            "name": schedule.name,
            "model": "chosen when sampling starts",
            "made_for": "any model; shown: the rule",
        }
    actions = schedule.plan.actions()
    levels = "" if isinstance(schedule.plan, SegmentsPlan) else ", own noise levels"
    return {
        "name": schedule.name,
        "steps": [[action.kind, action.branch] for action in actions],
        "colours": KIND_COLOURS,
        "heights": KIND_HEIGHTS,
        "counts": counts_text(actions) + levels,
        "model": f"{schedule.model.family}, {schedule.provenance.kind}",
        "made_for": made_for(schedule),
        "description": schedule.description,
    }
