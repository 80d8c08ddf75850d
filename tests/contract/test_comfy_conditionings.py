"""Prompts that change in mid-run, as the host's conditionings tell of them before sampling."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pack import part

conditionings = part("comfy_nodes.conditionings")
P = part("flexiffusion.plan")
S = part("flexiffusion.schedule")

SAMPLING = SimpleNamespace(percent_to_sigma=lambda percent: 10.0 * (1 - percent))
LEVELS = tuple(10.0 - i for i in range(8))


def plan(kinds: str) -> object:
    actions = {"F": S.FULL, "P": S.Action("partial", 1)}
    return P.Plan(LEVELS, tuple(actions[kind] for kind in kinds), 0)


def sides(*ranges: tuple[float, float]) -> dict[str, list[dict[str, object]]]:
    positive = [{"uuid": i, "start_percent": start, "end_percent": end} for i, (start, end) in enumerate(ranges)]
    return {"positive": positive, "negative": [{"uuid": "n"}]}


ALTERNATING = sides(*((i / 10 - 0.04, i / 10 + 0.04) for i in range(8)))


@pytest.mark.parametrize(
    ("kinds", "conds", "lost"),
    [
        ("FPFPFPFP", {"positive": [{"uuid": 1}], "negative": [{"uuid": 2}]}, 0),
        ("FPFPFPFP", ALTERNATING, 4),
        ("FPPPFPPP", ALTERNATING, 6),
        ("FPPPFPPP", sides((0.0, 0.25), (0.25, 1.0)), 1),
        ("FPPPFPPP", sides((0.0, 0.35), (0.35, 1.0)), 0),
        ("FPFPFPFP", {}, 0),
    ],
)
def test_partial_steps_that_meet_another_prompt(kinds: str, conds: object, lost: int) -> None:
    assert conditionings.lost_steps(conds, plan(kinds), SAMPLING) == lost


def test_a_word_where_it_matters() -> None:
    assert "4 of 4 partial steps" in conditionings.note(ALTERNATING, plan("FPFPFPFP"), SAMPLING)
    assert conditionings.note(ALTERNATING, plan("FPFPFPFP"), SAMPLING).endswith(": they save nothing")
    assert conditionings.note(sides((0.0, 0.25), (0.25, 1.0)), plan("FPPPFPPP"), SAMPLING) is None
