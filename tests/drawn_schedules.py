"""Small schedules for tests, written as what they do: F full, P partial, N null."""

from __future__ import annotations

from typing import Any

from flexiffusion.metadata import ModelInfo, Sampling
from flexiffusion.schedule import (
    FULL,
    Action,
    Predictor,
    Schedule,
    Segment,
    SegmentLayout,
    SegmentsPlan,
    Step,
    StepsPlan,
)


def segments(
    drawn: str, branch: int = 1, predictor: Predictor = "reuse", layout: SegmentLayout = "front"
) -> SegmentsPlan:
    """The segments that a text draws, each with its nulls last: "FPP FPNN". With another layout they lie elsewhere."""
    parts = drawn.split()
    return SegmentsPlan(tuple(Segment(len(part), len(part.rstrip("N")), branch, predictor) for part in parts), layout)


def steps(*rows: tuple[float, str], branch: int = 0, predictor: Predictor = "linear") -> StepsPlan:
    """Steps at noise levels of their own: (12.0, "F"), (6.0, "P")."""
    actions = {"F": FULL, "P": Action("partial", branch, predictor)}
    return StepsPlan(tuple(Step(level, actions[kind]) for level, kind in rows))


def own_solver(plan: StepsPlan) -> StepsPlan:
    """The steps with a solver of their own, which is Euler's."""
    return StepsPlan(tuple(Step(step.sigma, step.action, (1.0,)) for step in plan.steps))


def schedule(
    plan: SegmentsPlan | StepsPlan, name: str = "drawn", branches: int = 12, teacher: int = 20, **more: Any
) -> Schedule:
    """A schedule for any sampler; where the plan has levels of its own, `teacher` is what it is compared with."""
    total = plan.total_steps if isinstance(plan, SegmentsPlan) else teacher
    facts = {"model": ModelInfo("tiny", branches), "sampling": Sampling(None, None, total, None, None, None)}
    return Schedule(name, plan=plan, **(facts | more))
