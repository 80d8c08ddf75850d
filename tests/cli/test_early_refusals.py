"""What cannot be is refused before anything is imported, measured or made for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli.commands import call

from flexsearch.cli import exit_codes
from flexsearch.models import load

SCHEDULE = str(Path(__file__).parents[2] / "schedules" / "sd15-deepcache-3.json")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded is too late."""

    def loads(*_: object) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(load, "_load", loads)


REFUSED = [
    (["--steps", "4"], exit_codes.USAGE, "--steps: 4 is out of range"),
    (["--speedup", "0.5"], exit_codes.USAGE, "--speedup: 0.5 is out of range"),
    (["--guidance", "nan"], exit_codes.USAGE, "--guidance: nan is out of range"),
    (["--timesteps", "4"], exit_codes.USAGE, "--timesteps: --method placement"),
    (["--profile", "nowhere.json", "--cost", "latency"], exit_codes.USAGE, "it cannot be read"),
    (["--prompts", "nowhere.txt"], exit_codes.USAGE, "it cannot be read"),
    (["--out", "used"], exit_codes.RUN_FOLDER, "flexsearch resume used"),
    (["--out", "file/run"], exit_codes.RUN_FOLDER, "it cannot be made"),
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one process, which imported nothing but the command line, says to each of `REFUSED` in turn."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "used").mkdir()
    (folder / "used" / "settings.json").write_text("{}")
    (folder / "file").write_text("")
    program = """
import contextlib, io, json, os, sys
from flexsearch.cli import main
told = []
for arguments in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["run", *arguments])
        except SystemExit as end:
            code = end.code
    heavy = sorted({"torch", "diffusers", "optuna", "scipy", "matplotlib"} & sys.modules.keys())
    told.append(dict(code=code, out=out.getvalue(), err=err.getvalue(), heavy=heavy, files=sorted(os.listdir())))
json.dump(told, sys.stdout)
"""
    given = json.dumps([arguments for arguments, _, _ in REFUSED])
    done = subprocess.run(
        [sys.executable, "-c", program, given], capture_output=True, text=True, cwd=folder, check=True
    )
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("case", range(len(REFUSED)), ids=[arguments[0] for arguments, _, _ in REFUSED])
def test_run_refuses_before_torch_is_imported(case: int, refusals: list[dict[str, Any]]) -> None:
    (_, code, words), told = REFUSED[case], refusals[case]
    assert told["code"] == code and words in told["err"] and told["out"] == ""
    assert told["heavy"] == []
    assert told["files"] == ["file", "used"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--model", "typo.safetensors"], exit_codes.MODEL),
        (["--device", "quantum"], exit_codes.USAGE),
        (["--prediction", "velocity"], exit_codes.USAGE),
        (["--size", "31"], exit_codes.USAGE),
        (["--features", "resnet"], exit_codes.USAGE),
        (["--reference", "/no/such"], exit_codes.USAGE),
        (["--storage", "nosuchdb://x"], exit_codes.RUN_FOLDER),
        (["--method", "autodiffusion", "--timesteps", "30", "--cost", "units", "--speedup", "20"], exit_codes.USAGE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("out", [["--out", "run"], []], ids=["--out", "no --out"])
def test_a_start_that_fails_leaves_no_folder(
    arguments: list[str], code: int, out: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flexsearch.runs.search_run._conduct", None)  # a start that succeeds ends here
    done = call("run", *arguments, *out)
    assert done.exit_code == code, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["profile", "--guidance", "0"], "--guidance: 0 is out of range"),
        (["profile", "--guidance", "-1"], "--guidance: -1 is out of range"),
        (["profile", "--guidance", "nan"], "--guidance: nan is out of range"),
        (["profile", "--guidance", "1e9"], "--guidance: 1e+09 is out of range"),
        (["profile", "--batch", "0"], "--batch: 0 is out of range"),
        (["profile", "--out", "/nope/x.json"], "--out /nope/x.json: it cannot be written"),
        (["profile", "--out", "/"], "it is a folder"),
        (["evaluate", SCHEDULE, "--png", "/nope/x.png"], "--png /nope/x.png: it cannot be written"),
        (["compare", SCHEDULE, "--png", "/nope/x.png"], "--png /nope/x.png: it cannot be written"),
        (["plan", "--out", f"{SCHEDULE}/x"], "it cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_impossible_value_or_place_is_refused_before_measuring(
    arguments: list[str], words: str, unloaded: None
) -> None:
    done = call(*arguments)
    assert done.exit_code == exit_codes.USAGE and words in done.stderr, done.exception


def test_a_speedup_that_no_plan_has_is_refused_before_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object) -> Any:
        raise AssertionError("the tables were measured")

    monkeypatch.setattr("flexsearch.runs.experiment.known_or_measured", measured)
    done = call("plan", "--speedup", "2", "--speedup", "29")
    assert done.exit_code == exit_codes.USAGE
    assert "no plan is 29x as fast. Ask for at most 7.5" in done.stderr
