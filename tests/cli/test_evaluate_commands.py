"""evaluate, compare and verify of files that nobody searched, on the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.commands import call, document
from often import often

from flexiffusion import codec
from flexiffusion.schedule import FULL, ModelInfo, Sampling, Schedule, Segment, SegmentsPlan, Step, StepsPlan
from flexiffusion.search.seeds import plain_seeds
from flexsearch.cli import exit_codes
from flexsearch.runs import experiment

pytestmark = pytest.mark.usefixtures("shared_cache")


def tiny_schedule(plan: SegmentsPlan | StepsPlan) -> Schedule:
    sampling = Sampling("dpmpp_2m", "uniform", 6, 2.0, (32, 32), "epsilon")
    return Schedule("mine", ModelInfo("tiny-fashion", 9), sampling, plan)


@pytest.mark.parametrize("command", often(["evaluate", "compare", "verify"], ["compare"]))
def test_a_schedule_that_is_not_faster_than_its_teacher(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No word on a --speedup that nobody gave."""
    # one rival: there are dozens at the cost of the teacher
    monkeypatch.setattr(experiment, "all_seeds", lambda levels, *_: list(plain_seeds(levels, (5,)))[:1])
    whole = tmp_path / "whole.json"
    codec.write(whole, tiny_schedule(SegmentsPlan((Segment(6, 6, 8),) * 1)))
    more = () if command == "evaluate" else ("--choose-on", "2")
    result = call(command, str(whole), "--images", "2", *more, "--json")
    assert result.exit_code == 0, result.stderr
    (found,) = [row for row in json.loads(result.stdout)["rows"] if row["kind"] == "found"]
    assert found["full"] == 1 and found["partial"] == 5 and found["cost_full_steps"] > 5


def test_levels_that_fall_on_one_of_the_models(tmp_path: Path) -> None:
    """A file of a zero terminal SNR model: its first level is far above the highest of this one."""
    levels = (4518.0, 53.0, 18.4, 2.0, 1.9999, 0.5)
    path = tmp_path / "zsnr.json"
    codec.write(path, tiny_schedule(StepsPlan(tuple(Step(level, FULL) for level in levels))))
    made = document(call("evaluate", str(path), "--images", "2", "--json"))
    assert made["rows"][1]["full"] == 4  # as hosts run it: their own first level, then what lies below


def test_a_schedule_of_another_family() -> None:
    other = next(Path("schedules").glob("sd15*.json"))
    result = call("evaluate", str(other), "--images", "2")
    assert result.exit_code == exit_codes.MODEL and "made for sd15 with 12 branches" in result.stderr


def test_a_broken_schedule() -> None:
    result = call("evaluate", "tests/attacks/empty.json")
    assert result.exit_code == exit_codes.SCHEDULE
