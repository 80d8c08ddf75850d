"""A trial's candidate as JSON, among its attributes: readable without its genes and the method that proposed it."""

from __future__ import annotations

from typing import Any

from flexiffusion.schedule import Action
from flexiffusion.search.candidate import Candidate

KEY = "plan"  # of the trial's user attributes


def to_json(candidate: Candidate) -> list[dict[str, Any]]:
    """A step each, in the order of sampling: its place on the model's levels, and what is done there."""
    return [
        {"place": place, "kind": action.kind}
        | ({"branch": action.branch, "predictor": action.predictor} if action.kind == "partial" else {})
        | ({"drop": list(action.drop)} if action.drop else {})
        for place, action in zip(candidate.places, candidate.actions, strict=True)
    ]


def from_json(steps: list[dict[str, Any]]) -> Candidate:
    """The inverse of `to_json`."""
    actions = (
        Action(step["kind"], step.get("branch"), step.get("predictor", "reuse"), drop=tuple(step.get("drop", ())))
        for step in steps
    )
    return Candidate(tuple(step["place"] for step in steps), tuple(actions))
