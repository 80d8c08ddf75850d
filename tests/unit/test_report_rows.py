"""Rows and verdicts of the final table."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from flexiffusion.search.paired import Errors, estimate
from flexsearch.report.rows import FEWEST_IMAGES, Row, comparisons, groups, verdict

SPREAD = np.random.default_rng(0).lognormal(size=64)  # of single images: some are harder than others


def errors(mean: float, spread: Errors = SPREAD) -> tuple[float, ...]:
    return tuple((mean * spread / spread.mean()).tolist())


def row(kind: str, speedup: float | None, error: float = 1e-4, cost: float = 10.0, label: str = "") -> Row:
    images = {"latent/teacher": errors(error), "latent/converged": errors(error * 2)} if speedup else {}
    estimates = {key: estimate(np.array(values)) for key, values in images.items()}
    return Row(label or kind, kind, speedup, 10, 2, cost, cost * 1e9, 30 / cost, errors=estimates, image_errors=images)  # type: ignore[arg-type]


TEACHER = row("teacher", None, cost=30.0)


NOISE = np.random.default_rng(1).lognormal(sigma=0.1, size=64)


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.5, "better"), (2.0, "worse"), (1.0, "no clear difference"), (0.9, "better")]
)
def test_a_verdict_is_by_the_paired_ratio(ratio: float, expected: str) -> None:
    """At 0.9 the two intervals of the means overlap by far: what both have in common is no doubt about the ratio."""
    ours, theirs = errors(1e-4 * ratio), errors(1e-4, SPREAD * NOISE)
    word, (mean, low, high) = verdict(ours, theirs)
    assert word == expected and low <= mean <= high
    if ratio == 0.9:
        assert estimate(np.array(ours)).high > estimate(np.array(theirs)).low


def test_two_images_are_too_few_for_a_verdict() -> None:
    assert verdict((1e-5, 2e-5), (1e-2, 2e-2))[0] == "too few images"
    assert verdict((1e-5,) * FEWEST_IMAGES, (1e-2,) * FEWEST_IMAGES)[0] == "better"


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


def test_how_many_images_are_nearer_whatever_one_image_does_to_the_mean() -> None:
    """One of ten ends as another picture: nothing is clear of the means, and eight are nearer."""
    rows = [
        replace(row(kind, 2), image_errors={"latent/teacher": each})
        for kind, each in (("found", (1e-4,) * 9 + (1.0,)), ("plain", (3e-4,) * 8 + (1e-4, 1e-3)))
    ]
    made = comparisons(tuple(rows))
    assert made[0].verdict == "no clear difference"
    assert (made[0].nearer, made[0].images) == (8, 9), "the one that is equal does not count"


def test_a_rival_without_error_has_no_ratio() -> None:
    made = comparisons((row("found", 2), row("plain", 2, error=0.0)))
    assert made[0].ratio is None
    assert made[0].verdict == "worse"


def test_a_row_is_json_and_cannot_be_changed() -> None:
    made = replace(row("found", 2), relative_fid=0.5, relative_fid_n=64, schedule_file="a.json")
    document = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert document["errors"]["latent/teacher"]["n"] == 64
    assert document["errors"]["latent/teacher"]["mean"] == pytest.approx(1e-4)
    assert set(document) == set(Row.__dataclass_fields__)
    with pytest.raises(TypeError):
        made.errors["latent/teacher"] = estimate(np.zeros(8))  # type: ignore[index]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="kind 'best' is none of teacher"):
        row("best", 2)
    with pytest.raises(ValueError, match="without its n"):
        replace(TEACHER, relative_fid=1.0)
