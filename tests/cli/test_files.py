"""`show` and `validate` on good and bad schedule files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from flexiffusion import codec
from flexiffusion.metadata import Cost, Metric, ModelInfo, Provenance, Sampling
from flexiffusion.schedule import FULL, Action, Schedule, Segment, SegmentsPlan, Step, StepsPlan
from flexsearch.cli.app import main

SAMPLING = Sampling("dpmpp_2m", "karras", 10, 7.0, (512, 512), "epsilon")
FRONT = SegmentsPlan((Segment(5, 3, 1), Segment(5, 3, -1, "linear")))


def schedule(**changes: object) -> Schedule:
    facts: dict[str, object] = {
        "name": "sd15-test-2x",
        "model": ModelInfo("sd15", 12, "ab" * 32),
        "sampling": SAMPLING,
        "plan": FRONT,
        "author": "me [red]",
        "metrics": (Metric("relative_fid", 3.14159, 256, "inception-2048", "teacher, same noise", (2.9, 3.4)),),
        "cost": Cost(5.2e12, 2.6, {"NVIDIA H100, fp16": 512.0}),
        "provenance": Provenance("searched", "flexsearch 0.1.0", 7, 420),
    }
    return Schedule(**(facts | changes))  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    codec.write(tmp_path / "good.json", schedule())
    return tmp_path / "good.json"


def run(*arguments: object, **options: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)  # type: ignore[arg-type]


def test_show_tells_everything(file: Path) -> None:
    done = run("show", file)
    assert done.exit_code == 0, done.stderr
    words = " ".join(done.stdout.split())
    for part in (
        "sd15-test-2x",
        "me [red]",
        "sd15, 12 branches, checkpoint abababababab…",
        "dpmpp_2m, karras, 10 steps, cfg 7, 512 x 512 pixels, epsilon",
        "2 full, 4 partial, 4 null",
        "2.60x by multiply-adds, 5.2 T multiply-adds per image, 512 ms on NVIDIA H100, fp16",
        "3.14 (95 %: 2.9 to 3.4), n = 256, against teacher, same noise, features inception-2048",
        "found by a search, by flexsearch 0.1.0, 420 evaluations, seed 7",
        "1 Fpp··Fll·· 11 --",
        "F full p partial, reuse l partial, linear · null, left out",
    ):
        assert part in words


def test_show_a_heuristic_of_explicit_steps(tmp_path: Path) -> None:
    steps = [Step(14.0 - i / 10, FULL if i % 3 == 0 else Action("partial", 10)) for i in range(120)]
    changes = {"plan": StepsPlan(tuple(steps)), "provenance": Provenance("heuristic"), "metrics": (), "cost": None}
    codec.write(tmp_path / "steps.json", schedule(**changes))
    words = run("show", tmp_path / "steps.json").stdout
    assert "a hand-made rule, not searched" in words
    assert "sigma 14 down to 2.1" in words
    assert "not in the file" in words
    assert "null" not in words
    strip = [line.split() for line in words.splitlines()]
    assert ["101", "ppF" * 6 + "pp"] in strip  # the third line of fifty, with its first step's number
    assert "aa aa" in words  # branch 10 stands as a, below its step


def test_show_tells_of_a_solver_that_the_file_brings_and_of_flow_models() -> None:
    done = run("show", Path(__file__).parents[1] / "golden" / "weights.json")
    assert done.exit_code == 0, done.stderr
    words = " ".join(done.stdout.split())
    for part in (
        "flux, 57 branches, 57 blocks",
        "s 1 down to 0.5",
        "its own: weights of up to 3 predictions a step, in place of the sampler's",
    ):
        assert part in words


def test_show_json_holds_the_file(file: Path) -> None:
    shown = json.loads(run("show", file, "--json").stdout)
    assert shown["schedule"] == json.loads(file.read_text(encoding="utf-8"))
    assert shown["strip"] == "Fpp··Fll··"
    assert shown["counts"] == {"full": 2, "partial": 4, "null": 4}


def test_show_from_standard_input_with_a_picture(file: Path, tmp_path: Path) -> None:
    done = run("show", "-", "--png", tmp_path / "strip.png", input=file.read_bytes())
    assert done.exit_code == 0, done.stderr
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.format == "PNG"


def test_show_refuses(file: Path, tmp_path: Path) -> None:
    missing = run("show", tmp_path / "none.json")
    assert missing.exit_code == 3
    assert "none.json" in missing.stderr
    assert missing.stdout == ""
    unwritable = run("show", file, "--png", tmp_path / "none" / "x.png")
    assert unwritable.exit_code == 2
    assert "cannot be written" in unwritable.stderr


def test_validate_checks_every_file(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(file.read_bytes().replace(b'"active": 3', b'"active": 9', 1))
    done = run("validate", bad, file, tmp_path / "none.json")
    assert done.exit_code == 3
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"error  {bad}: $.plan.segments[0].active: ")
    assert lines[1] == f"ok     {file}: sd15-test-2x"
    assert lines[2].startswith("error  ")
    assert "none.json" in lines[2]
    assert run("validate", file).exit_code == 0


def test_validate_json(file: Path, tmp_path: Path) -> None:
    done = run("validate", file, tmp_path, "--json")
    assert done.exit_code == 3
    shown = json.loads(done.stdout)
    assert shown["refused"] == 1
    assert [result["ok"] for result in shown["files"]] == [True, False]
    assert all(shown["files"][1][key] for key in ("place", "problem", "remedy"))


def test_validate_standard_input_is_bounded(file: Path) -> None:
    assert run("validate", "-", input=file.read_bytes()).stdout == "ok     -: sd15-test-2x\n"
    endless = run("validate", "-", input=b" " * (codec.MAX_BYTES + 5))
    assert endless.exit_code == 3
    assert "<stdin>" in endless.stdout


def test_every_attack_is_refused_without_a_traceback() -> None:
    files = sorted((Path(__file__).parent.parent / "attacks").glob("*.json"))
    assert files
    done = run("validate", *files, "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["refused"] == len(files)
    assert done.stderr == ""
    lines = run("validate", *files).stdout.splitlines()
    assert len(lines) == len(files)
    assert all(line.isprintable() for line in lines)


def test_bundled_schedules_are_valid() -> None:
    files = sorted((Path(__file__).parents[2] / "schedules").glob("*.json"))
    assert run("validate", *files).exit_code == 0
