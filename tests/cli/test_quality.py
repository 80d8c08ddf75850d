"""`flexsearch quality`: pictures of a schedule and its rivals beside the teacher's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from flexiffusion import codec
from flexiffusion.schedule import FULL, Action, ModelInfo, Provenance, Sampling, Schedule, Step, StepsPlan
from flexsearch.cli import exit_codes
from flexsearch.cli.app import main
from flexsearch.errors import ConfigError
from flexsearch.metrics import likeness
from flexsearch.runs import final_table
from flexsearch.runs.quality import read_captions

LEVELS = (14.61, 6.0, 3.0, 1.6, 0.9, 0.45)
SCHEDULE = Schedule(
    name="six-alternating",
    model=ModelInfo("tiny-fashion", 9, None),
    sampling=Sampling("dpmpp_2m", "uniform", 6, 1.0, (32, 32), "epsilon"),
    plan=StepsPlan(tuple(Step(s, Action("partial", 0, "linear") if i % 2 else FULL) for i, s in enumerate(LEVELS))),
    provenance=Provenance("heuristic"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "quality-cache"))


def measured(path: Path, count: int, *more: str) -> dict[str, Any]:
    arguments = ["quality", str(path), "--count", str(count), "--choose-on", "2", "--batch", "2", "--json", *more]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_schedule_beside_its_rivals(tmp_path: Path) -> None:
    codec.write(tmp_path / "x.json", SCHEDULE)
    told = measured(tmp_path / "x.json", 2)
    assert told["count"] == 2
    assert {row["kind"] for row in told["rows"]} >= {"teacher", "found", "plain", "deepcache"}
    teacher, found = told["rows"][:2]
    assert (teacher["kind"], found["kind"]) == ("teacher", "found")
    assert "psnr" not in teacher and teacher["fid"] is None
    assert 5 < found["psnr"]["mean"] < likeness.SAME and 0 < found["ssim"]["mean"] < 1 and found["psnr"]["n"] == 2
    assert found["fid"] > 0 and 1 < found["speedup_macs"] < 2


def test_going_on_from_fewer_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(final_table, "rivals", lambda *asked: [])  # to choose them takes the most calls
    path, out = tmp_path / "x.json", tmp_path / "out"
    codec.write(path, SCHEDULE)
    fewer = measured(path, 2, "--out", str(out))
    whole = measured(path, 3, "--out", str(out))
    assert fewer["rows"] != whole["rows"]
    assert whole == measured(path, 3), "pictures that were measured before count as if they were drawn now"
    command = ["quality", str(path), "--count", "3", "--batch", "2", "--seed", "5", "--out", str(out)]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == exit_codes.USAGE and "other schedules, prompts or settings" in refused.stderr


def test_equal_pictures_and_noise() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert likeness.psnr(images, images) == [likeness.SAME] * 2
    assert likeness.ssim(images, images) == pytest.approx([1.0, 1.0])
    shifted = (images * 0.5 + 0.25, images)
    expected = [10 * float(torch.log10(1 / (a - b).square().mean())) for a, b in zip(*shifted, strict=True)]
    assert likeness.psnr(*shifted) == pytest.approx(expected, rel=1e-5)


def test_the_first_caption_of_each_image(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    items = [(7, 30, "second of seven"), (9, 2, " nine "), (7, 4, "first of seven")]
    path.write_text(json.dumps({"annotations": [dict(image_id=i, id=n, caption=c) for i, n, c in items]}))
    assert read_captions(path) == ("first of seven", "nine")
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no COCO captions file"):
        read_captions(path)


def test_a_clip_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before rivals are chosen, which takes minutes on a large model."""
    monkeypatch.setattr(final_table, "rivals", None)
    codec.write(tmp_path / "x.json", SCHEDULE)
    done = CliRunner().invoke(main, ["quality", str(tmp_path / "x.json"), "--clip", str(tmp_path)])
    assert done.exit_code == exit_codes.USAGE and "no CLIP model" in done.stderr
