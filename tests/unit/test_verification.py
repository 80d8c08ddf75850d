"""Claims against measurements: confirmed, weaker, refuted."""

from __future__ import annotations

import numpy as np
import pytest

from flexiffusion.schedule import FULL, Cost, Metric, ModelInfo, Sampling, Schedule, Step, StepsPlan
from flexiffusion.search.paired import Estimate
from flexsearch.report.rows import Row
from flexsearch.runs.claims import Word, findings, overall, plain_ratios

MEASURED = Estimate(1e-3, 0.8e-3, 1.2e-3, 2e-3, 64)
ROW = Row("x", "found", 2.0, 5, 5, 10.0, 1e9, 2.0, errors={"latent/teacher": MEASURED, "latent/converged": MEASURED},
          relative_fid=0.1, relative_fid_n=64)  # fmt: skip
BETTER_THAN_PLAIN, NO_BETTER = (0.5, 0.4, 0.7), (0.9, 0.7, 1.1)


def claiming(*metrics: Metric, speedup: float | None = None) -> Schedule:
    sampling = Sampling("ddim", "uniform", 20, 1.0, (32, 32), "epsilon")
    cost = Cost(1e9, speedup) if speedup else None
    return Schedule("x", ModelInfo("tiny", 9), sampling, StepsPlan((Step(9.0, FULL),)), metrics=metrics, cost=cost)


@pytest.mark.parametrize(
    ("value", "interval", "ratio", "word"),
    [
        (1e-3, (0.9e-3, 1.1e-3), NO_BETTER, "confirmed"),
        (2e-3, (1.5e-3, 2.5e-3), NO_BETTER, "confirmed"),  # better than claimed
        (0.9e-3, None, NO_BETTER, "confirmed"),  # inside what was measured
        (0.5e-3, (0.3e-3, 0.8e-3), NO_BETTER, "confirmed"),  # they touch
        (0.5e-3, (0.3e-3, 0.7e-3), BETTER_THAN_PLAIN, "weaker"),
        (0.5e-3, (0.3e-3, 0.7e-3), NO_BETTER, "refuted"),
        (0.5e-3, None, None, "refuted"),
        (0.0, None, BETTER_THAN_PLAIN, "weaker"),
    ],
)
def test_errors(
    value: float, interval: tuple[float, float] | None, ratio: tuple[float, float, float] | None, word: Word
) -> None:
    metric = Metric("latent_mse", value, 64, None, "teacher, same noise, held out", interval)
    (found,) = findings(claiming(metric), ROW, {} if ratio is None else {"teacher": ratio})
    assert found.word == word and found.why
    assert (found.measured, found.interval) == (1e-3, (0.8e-3, 1.2e-3))


@pytest.mark.parametrize(("claimed", "word"), [(2.0, "confirmed"), (1.5, "confirmed"), (2.5, "weaker")])
def test_speedups(claimed: float, word: Word) -> None:
    (found,) = findings(claiming(speedup=claimed), ROW, {})
    assert found.word == word


def test_what_cannot_be_judged_is_told() -> None:
    metrics = [
        Metric("relative_fid", 0.1, 64, "bundled", "teacher, same noise, held out"),
        Metric("relative_fid", 0.1, 5000, "bundled", "teacher, same noise, held out"),
        Metric("clip_score", 0.3, 64),
        Metric("latent_mse", 1e-3, 64),
    ]
    found = findings(claiming(*metrics), ROW, {})
    assert [item.word for item in found] == [None] * 4
    assert "5000" in found[1].why
    assert overall(found) is None and overall(()) is None


def test_the_worst_claim_is_the_verdict() -> None:
    teacher = Metric("latent_mse", 1e-3, 64, None, "teacher, same noise")
    converged = Metric("latent_mse", 1e-9, 64, None, "converged, same noise")
    found = findings(claiming(teacher, converged, speedup=2.0), ROW, {"converged": BETTER_THAN_PLAIN})
    assert [item.word for item in found] == ["confirmed", "weaker", "confirmed"]
    assert overall(found) == "weaker"


def test_ratios_are_paired() -> None:
    errors = np.random.default_rng(0).random(64) + 0.1
    ratios = plain_ratios({"teacher": errors, "converged": errors}, {"teacher": errors * 2, "converged": errors * 0})
    assert set(ratios) == {"teacher"}
    assert ratios["teacher"] == pytest.approx((0.5, 0.5, 0.5))
