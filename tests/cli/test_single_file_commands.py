"""run, evaluate, resume and profile on a single-file checkpoint, as a user calls them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from cli.commands import call, document

from flexiffusion import codec
from flexsearch.cli import exit_codes
from tools.make_random_checkpoint import write

pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model") / "sd15.safetensors", "sd15")


@pytest.fixture(scope="module")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "single"
    made = document(
        call("run", "--model", str(checkpoint), "--size", "64", "--steps", "6", "--speedup", "2", "--images", "2",
             "--held-out", "2", "--evaluations", "3", "--no-planner", "--out", str(folder), "--json")
    )  # fmt: skip
    assert made["peak_memory"] > 2**26
    return folder


def test_the_schedule_has_family_hash_size_and_prediction(run: Path, checkpoint: Path) -> None:
    schedule = codec.read(next((run / "schedules").glob("*.json")))
    assert schedule.model.family == "sd15" and schedule.model.branches == 12
    assert schedule.model.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert schedule.sampling.size == (64, 64) and schedule.sampling.prediction == "epsilon"


def test_evaluate_takes_the_size_from_the_schedule(run: Path, checkpoint: Path) -> None:
    schedule = next((run / "schedules").glob("*.json"))
    result = call("evaluate", str(schedule), "--model", str(checkpoint), "--images", "2")
    assert result.exit_code == 0 and "64x64" in result.stderr and "note:" not in result.stderr
    assert "peak memory" in result.stdout


def test_another_checkpoint_of_the_family(run: Path, tmp_path: Path) -> None:
    """`evaluate` says so; `resume` refuses."""
    other = write(tmp_path / "other.safetensors", "sd15", seed=1)
    result = call("evaluate", str(next((run / "schedules").glob("*.json"))), "--model", str(other), "--images", "2")
    assert result.exit_code == 0 and "was searched on another checkpoint" in result.stderr
    settings = json.loads((run / "settings.json").read_text())
    shutil.copytree(run, tmp_path / "moved")
    (tmp_path / "moved" / "settings.json").write_text(json.dumps(settings | {"model": str(other)}))
    resumed = call("resume", str(tmp_path / "moved"))
    assert resumed.exit_code == exit_codes.RUN_FOLDER and "its model has changed" in resumed.stderr


def test_profile_says_size_batch_dtype_and_device(checkpoint: Path) -> None:
    made = document(call("profile", "--model", str(checkpoint), "--size", "64x128", "--repeats", "1", "--json"))
    assert made["size"] == [64, 128] and made["batch"] == 1 and made["dtype"] == "float32"
    assert made["device"].startswith("cpu") and len(made["sha256"]) == 64 and made["peak_memory"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "big"], "'big' is no picture size"),
        (["--size", "63"], "63x63 does not fit"),
        (["--batch", "0"], "--batch: 0 is out of range"),
        (["--device", "quantum"], "'quantum' cannot be used"),
        (["--prediction", "velocity"], "'velocity' is not known"),
    ],
)
def test_bad_settings(arguments: list[str], message: str, checkpoint: Path) -> None:
    result = call("profile", "--model", str(checkpoint), *arguments)
    assert result.exit_code == exit_codes.USAGE and message in result.stderr


def test_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    result = call("profile", "--model", str(tmp_path / "model.ckpt"))
    assert result.exit_code == exit_codes.MODEL and "pickles" in result.stderr
