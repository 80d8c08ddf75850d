"""`flexsearch verify` on the bundled model: true claims and exaggerated ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from flexiffusion import codec
from flexiffusion.schedule import FULL, Action, Cost, Metric, ModelInfo, Provenance, Sampling, Schedule, Step, StepsPlan
from flexsearch.cli import exit_codes
from flexsearch.cli.app import main
from flexsearch.sharing import measurement

LEVELS = (14.61, 6.0, 3.0, 1.6, 0.9, 0.45, 0.2, 0.06)
SCHEDULE = Schedule(
    name="eight-alternating",
    model=ModelInfo("tiny-fashion", 9, "ab" * 32),
    sampling=Sampling("dpmpp_2m", "uniform", 8, 2.0, (32, 32), "epsilon"),
    plan=StepsPlan(tuple(Step(s, Action("partial", 0, "linear") if i % 2 else FULL) for i, s in enumerate(LEVELS))),
    provenance=Provenance("searched", "flexsearch 0.1.0", 0, 24),
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "verify-cache"))


def claim(value: float, reference: str) -> Metric:
    return Metric("latent_mse", value, 2, None, f"{reference}, same noise, held out", (value * 0.9, value * 1.1))


def test_true_and_exaggerated_claims_with_other_noise_than_the_search_had(tmp_path: Path) -> None:
    """One verification for all of it: it samples the teacher, the converged solution and every rival of this cost."""
    metrics = (claim(1e-12, "teacher"), claim(10.0, "converged"))
    codec.write(tmp_path / "x.json", dataclasses.replace(SCHEDULE, metrics=metrics, cost=Cost(None, 4.0)))
    shared = tmp_path / "shared" / "mine.json"
    shared.parent.mkdir()
    arguments = [
        "verify",
        str(tmp_path / "x.json"),
        "--images",
        "2",
        "--choose-on",
        "2",
        "--json",
        "--share",
        str(shared),
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in (0, exit_codes.REFUTED), done.stderr
    assert "another checkpoint" in done.stderr
    told = json.loads(done.stdout)
    assert told["seed"] == 1 and told["images"] == 2 and told["same_checkpoint"] is False
    exaggerated, true, speedup = told["claims"]
    measured = next(row for row in told["rows"] if row["kind"] == "found")["errors"]["latent/teacher"]["mean"]
    assert exaggerated["measured"] == measured > 0
    assert (
        exaggerated["word"] in ("weaker", "refuted")
        and "2 images are too few to compare it with plain steps" in exaggerated["why"]
    )
    assert true["word"] == "confirmed" and true["interval"][0] <= true["measured"] <= true["interval"][1] < 10
    assert speedup["word"] == "weaker"
    assert speedup["measured"] == pytest.approx(8 / (4 + 4 * 16433152 / 309927936), rel=1e-3)
    assert told["verdict"] == exaggerated["word"]
    assert (done.exit_code == exit_codes.REFUTED) == (told["verdict"] == "refuted")
    assert {row["kind"] for row in told["rows"]} >= {"teacher", "found", "plain"}
    given = measurement.read(shared)
    assert given.error[0] == measured and given.images == 2 and given.seed == 1 and given.verdict == told["verdict"]
    assert given.schedule == measurement.schedule_hash(codec.read(tmp_path / "x.json")) and given.checkpoint is not None
    assert str(tmp_path) not in shared.read_text(), "nothing private is in it"


def test_another_family_is_refused() -> None:
    done = CliRunner().invoke(main, ["verify", "sd15-turns-10"])
    assert done.exit_code == exit_codes.MODEL and "sd15" in done.stderr
    assert CliRunner().invoke(main, ["verify", "no-such-preset"]).exit_code == exit_codes.SCHEDULE
