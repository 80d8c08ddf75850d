"""The schedule that a node's two widgets mean, and what the strip shows of it."""

from __future__ import annotations

from typing import Any

from ..flexiffusion.codec import loads
from ..flexiffusion.fit import made_for
from ..flexiffusion.schedule import Schedule, SegmentsPlan
from ..flexiffusion.strip import KIND_COLOURS
from ..flexiffusion.summary import counts_text
from . import folders


def chosen(preset: str, json: str = "") -> Schedule:
    """The schedule in the text, or else the one in the file. Raises ScheduleError."""
    return loads(json.encode(), "json") if json.strip() else folders.load(preset)


def strip(schedule: Schedule) -> dict[str, Any]:
    """What the front end draws: one entry a step, and a line of words.

    `steps`: [kind, branch or None]; null steps only where the schedule lists them
    `colours`: by kind
    """
    actions = schedule.plan.actions()
    levels = "" if isinstance(schedule.plan, SegmentsPlan) else ", own noise levels"
    return {
        "name": schedule.name,
        "steps": [[action.kind, action.branch] for action in actions],
        "colours": KIND_COLOURS,
        "counts": counts_text(actions) + levels,
        "model": f"{schedule.model.family}, {schedule.provenance.kind}",
        "made_for": made_for(schedule),
        "description": schedule.description,
    }
