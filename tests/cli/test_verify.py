"""`flexsearch verify` on the bundled model: true claims, exaggerated ones, and none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flexiffusion import codec
from flexiffusion.schedule import FULL, Action, Cost, Metric, ModelInfo, Provenance, Sampling, Schedule, Step, StepsPlan
from flexsearch.cli import exit_codes
from flexsearch.cli.app import main
from flexsearch.search import verdict

LEVELS = (14.6, 6.0, 3.0, 1.6, 0.9, 0.45, 0.2, 0.06)
SCHEDULE = Schedule(
    name="eight-alternating",
    model=ModelInfo("tiny-fashion", 9, "ab" * 32),
    sampling=Sampling("dpmpp_2m", "uniform", 8, 2.0, (32, 32), "epsilon"),
    plan=StepsPlan(tuple(Step(s, Action("partial", 0, "linear") if i % 2 else FULL) for i, s in enumerate(LEVELS))),
    provenance=Provenance("searched", "flexsearch 0.1.0", 0, 24),
)


@pytest.fixture(autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "verify-cache"))
    monkeypatch.setattr(verdict, "FEWEST_TURNS", 1)
    monkeypatch.setattr(verdict, "MOST_TURNS", 1)
    monkeypatch.setattr(verdict, "TIMED_IMAGES", 1)


def verified(folder: Path, *metrics: Metric, speedup: float | None = None) -> tuple[int, dict[str, Any]]:
    cost = Cost(None, speedup) if speedup else None
    codec.write(folder / "x.json", dataclasses.replace(SCHEDULE, metrics=metrics, cost=cost))
    arguments = ["verify", str(folder / "x.json"), "--images", "3", "--choose-on", "2", "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in (0, exit_codes.REFUTED), done.stderr
    assert "another checkpoint" in done.stderr
    return done.exit_code, json.loads(done.stdout)


def claim(value: float) -> Metric:
    return Metric("latent_mse", value, 3, None, "teacher, same noise, held out", (value * 0.9, value * 1.1))


def test_claims_are_measured_with_other_noise_than_the_search_had(tmp_path: Path) -> None:
    code, told = verified(tmp_path, claim(10.0), speedup=1.5)
    assert (code, told["verdict"]) == (0, "confirmed")
    assert told["seed"] == 1 and told["images"] == 3 and told["same_checkpoint"] is False
    quality, speedup = told["claims"]
    assert 0 < quality["interval"][0] <= quality["measured"] <= quality["interval"][1] < 10
    assert speedup["measured"] == pytest.approx(8 / (4 + 4 * 16433152 / 309927936), rel=1e-3)
    measured = next(row for row in told["rows"] if row["kind"] == "found")["errors"]["latent/teacher"]["mean"]
    assert quality["measured"] == measured
    # What was measured now would be confirmed; a billionth of it is not.
    _, again = verified(tmp_path, claim(measured), speedup=1.5)
    assert again["verdict"] == "confirmed"
    code, exaggerated = verified(tmp_path, claim(measured * 1e-9), speedup=4.0)
    (quality, speedup) = exaggerated["claims"]
    assert quality["word"] in ("weaker", "refuted") and speedup["word"] == "weaker"
    assert (code == exit_codes.REFUTED) == (quality["word"] == "refuted")
    assert "of fewer plain steps' error" in quality["why"]


def test_a_hand_made_rule_claims_nothing(tmp_path: Path) -> None:
    code, told = verified(tmp_path)
    assert (code, told["verdict"], told["claims"]) == (0, None, [])
    assert {row["kind"] for row in told["rows"]} >= {"teacher", "found", "plain"}


def test_another_family_is_refused() -> None:
    done = CliRunner().invoke(main, ["verify", "sd15-turns-10"])
    assert done.exit_code == exit_codes.MODEL and "sd15" in done.stderr
    assert CliRunner().invoke(main, ["verify", "no-such-preset"]).exit_code == exit_codes.SCHEDULE
