"""profile and plan on the bundled model, as a user calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cli.commands import call, document

from flexiffusion import codec
from flexiffusion.cost import CostTable
from flexiffusion.schedule import StepsPlan
from flexiffusion.search import macro_steps
from flexiffusion.search.racing import SLACK
from flexsearch.cli import exit_codes

pytestmark = pytest.mark.usefixtures("shared_cache")


def test_profile_prints_and_saves_both_tables(tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    made = document(call("profile", "--batch", "1", "--repeats", "1", "--out", str(out), "--json"))
    assert json.loads(out.read_text()) == made
    assert set(made["macs"]["partial"]) == set(made["ms"]["partial"]) == {str(branch) for branch in range(-1, 9)}
    assert call("profile", "--batch", "1", "--repeats", "1").stdout.count("branch") >= 10


def test_profile_into_a_missing_folder() -> None:
    result = call("profile", "--batch", "1", "--repeats", "1", "--out", "/no/such/costs.json")
    assert result.exit_code == exit_codes.USAGE and "cannot be written" in result.stderr


class TestPlan:
    @pytest.fixture(autouse=True)
    def small_tables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(macro_steps, "LEVELS", 6)

    def test_plans_and_writes_files_that_can_be_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        arguments = ("plan", "--steps", "12", "--speedup", "3", "--speedup", "6", "--out", str(tmp_path), "--json")
        plans = document(call(*arguments))["plans"]
        assert [plan["asked"] for plan in plans] == [3.0, 6.0]
        for plan in plans:
            assert plan["speedup"]["macs"] >= plan["asked"] / (1 + SLACK)
            schedule = codec.read(Path(plan["file"]))
            assert isinstance(schedule.plan, StepsPlan) and not schedule.metrics
            assert len(schedule.plan.steps) == plan["full"] + plan["partial"]
        assert plans[0]["predicted_latent_error"] < plans[1]["predicted_latent_error"]
        # the tables are kept: the same again measures nothing
        (tables,) = (Path(os.environ["XDG_CACHE_HOME"]) / "flexiffusion" / "references").glob("tables-*")
        before = tables.stat().st_mtime_ns
        assert document(call(*arguments))["plans"] == plans
        assert tables.stat().st_mtime_ns == before

    def test_for_another_device(self, tmp_path: Path) -> None:
        """Where partial steps cost as much as full ones, they are not worth planning."""
        profile = tmp_path / "profile.json"
        slow = CostTable("ms", 10.0, {branch: 10.0 for branch in range(-1, 9)})
        profile.write_text(json.dumps({"ms": slow.to_dict()}))
        (plan,) = document(call("plan", "--steps", "12", "--speedup", "6", "--profile", str(profile), "--json"))[
            "plans"
        ]
        assert plan["full"] + plan["partial"] <= 2 and plan["speedup"]["ms"] >= 6 / (1 + SLACK)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--speedup", "11.9"), "no plan is 11.9x as fast"),
            (("--profile", "nowhere.json"), "it cannot be read"),
            (("--profile", "OTHER"), "it has branches -1 to 2, but tiny has -1 to 8"),
        ],
    )
    def test_says_what_is_wrong(
        self, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.json"
        other.write_text(json.dumps({"ms": CostTable("ms", 10.0, dict.fromkeys(range(-1, 3), 5.0)).to_dict()}))
        arguments = tuple(str(other) if argument == "OTHER" else argument for argument in arguments)
        monkeypatch.setattr("flexiffusion.search.planner.REACH", 2)
        monkeypatch.setattr(macro_steps, "REACH", 2)
        result = call("plan", "--steps", "12", *arguments)
        assert result.exit_code == exit_codes.USAGE and words in result.stderr
