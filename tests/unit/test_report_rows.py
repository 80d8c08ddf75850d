"""Rows and verdicts of the final table."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flexiffusion.search.paired import Estimate
from flexsearch.report.rows import Row, comparisons, groups, verdict


def estimate(mean: float, spread: float = 0.1) -> Estimate:
    return Estimate(mean, mean * (1 - spread), mean * (1 + spread), mean * 3, 64)


def row(kind: str, speedup: float | None, error: float = 1e-4, cost: float = 10.0, label: str = "") -> Row:
    errors = {"latent/teacher": estimate(error), "latent/converged": estimate(error * 2)} if speedup else {}
    return Row(label or kind, kind, speedup, 10, 2, cost, cost * 1e9, 30 / cost, errors=errors)  # type: ignore[arg-type]


TEACHER = row("teacher", None, cost=30.0)


@pytest.mark.parametrize(
    ("found", "rival", "expected"),
    [
        (estimate(1e-4), estimate(2e-4), "better"),
        (estimate(2e-4), estimate(1e-4), "worse"),
        (estimate(1.0e-4), estimate(1.1e-4), "no clear difference"),
        (Estimate(1, 1, 2, 3, 8), Estimate(3, 2, 4, 5, 8), "no clear difference"),  # intervals that touch
    ],
)
def test_a_verdict_needs_intervals_that_do_not_touch(found: Estimate, rival: Estimate, expected: str) -> None:
    assert verdict(found, rival) == expected


def test_groups_have_the_teacher_first_and_the_found_one_before_its_rivals() -> None:
    at_3 = (row("deepcache", 3), row("found", 3), row("plain_searched", 3))
    rows = (*at_3, row("plain", 1.5), TEACHER, row("found", 1.5))
    order = [(speedup, [member.kind for member in members]) for speedup, members in groups(rows)]
    assert order == [
        (None, ["teacher"]),
        (1.5, ["found", "plain"]),
        (3, ["found", "plain_searched", "deepcache"]),
    ]


def test_comparisons_stay_within_an_asked_speed_up() -> None:
    rows = (TEACHER, row("found", 2, 1e-4), row("plain", 2, 4e-4, cost=10.5), row("plain", 3, 9e-4))
    made = comparisons(rows)
    assert [(c.speedup_asked, c.rival, c.error) for c in made] == [
        (2, "plain", "latent/teacher"),
        (2, "plain", "latent/converged"),
    ]
    assert made[0].verdict == "better"
    assert made[0].ratio == pytest.approx(0.25)
    assert made[0].cost_ratio == pytest.approx(10 / 10.5)


def test_a_rival_without_error_has_no_ratio() -> None:
    made = comparisons((row("found", 2), row("plain", 2, error=0.0)))
    assert made[0].ratio is None
    assert made[0].verdict == "worse"


def test_a_row_is_json_and_cannot_be_changed() -> None:
    made = replace(row("found", 2), relative_fid=0.5, relative_fid_n=64, schedule_file="a.json")
    document = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert document["errors"]["latent/teacher"]["n"] == 64
    assert document["errors"]["latent/teacher"]["interval"] == pytest.approx([0.9e-4, 1.1e-4])
    assert set(document) == set(Row.__dataclass_fields__)
    with pytest.raises(TypeError):
        made.errors["latent/teacher"] = estimate(0)  # type: ignore[index]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="kind 'best' is none of teacher"):
        row("best", 2)
    with pytest.raises(ValueError, match="without its n"):
        replace(TEACHER, relative_fid=1.0)
