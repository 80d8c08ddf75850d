"""Plans for the tests of `Run`, and what a run holds."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action

F = FULL


def P(branch: int = 0, predictor: Any = "reuse") -> Action:
    return Action("partial", branch, predictor)


def plan(*actions: Action, nulls: int = 0) -> Plan:
    levels = tuple(14.0 * 0.7**i for i in range(len(actions)))
    return Plan(levels, actions, nulls)


def timestep(sigma: float) -> int:
    return round(60 * sigma)


def features(run: Run) -> list[Tensor]:
    """Every tensor that the run holds."""
    return list(run.features().tensors())
