"""Prompts that change in mid-run: partial steps that meet one which the last full step did not have run in full."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..flexiffusion.plan import Plan


def note(conds: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan, model_sampling: Any) -> str | None:
    """A sentence, before sampling, where a good part of the partial steps will run in full; None: it will not.

    conds: the host's, by side, with `uuid` and perhaps `start_percent` and `end_percent` (alternating prompts)
    """
    partial = sum(action.kind == "partial" for action in plan.actions)
    lost = lost_steps(conds, plan, model_sampling)
    if not lost or 4 * lost < partial:
        return None
    saves = ": they save nothing" if lost == partial else ""
    return (
        f"the prompt changes during the run: {lost} of {partial} partial steps meet a prompt that the full step before "
        f"them did not have, and run in full{saves}"
    )


def lost_steps(conds: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan, model_sampling: Any) -> int:
    """How many of the plan's partial steps meet a conditioning that no call since the last full step has seen."""
    rows = [(side, each, *_range(each, model_sampling)) for side, entries in conds.items() for each in entries]
    known: set[Any] = set()
    lost = 0
    for level, action in zip(plan.levels, plan.actions, strict=True):
        here = {(side, each.get("uuid")) for side, each, high, low in rows if low <= level <= high}
        if action.kind == "full":
            known = here
        elif here - known:
            lost, known = lost + 1, known | here
    return lost


def _range(conditioning: Mapping[str, Any], model_sampling: Any) -> tuple[float, float]:
    """The highest and the lowest noise level at which the host uses a conditioning."""
    start, end = conditioning.get("start_percent"), conditioning.get("end_percent")
    return (
        math.inf if start is None else float(model_sampling.percent_to_sigma(start)),
        0.0 if end is None else float(model_sampling.percent_to_sigma(end)),
    )
