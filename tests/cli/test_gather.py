"""`presets gather`: what strangers measured, put together; and files that are no measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flexiffusion import codec, presets
from flexsearch.cli import exit_codes
from flexsearch.cli.app import main
from flexsearch.errors import ConfigError
from flexsearch.sharing.measurement import EVIDENCE, Measurement, gathered, read, schedule_hash, with_evidence, write

PRESET = "tiny-fashion-dpmpp_2m-30-2x"
SCHEDULE = codec.read(presets.bundled_folder() / f"{PRESET}.json")


def measured(**changes: Any) -> Measurement:
    usual: dict[str, Any] = dict(
        name=SCHEDULE.name, schedule=schedule_hash(SCHEDULE), family="tiny-fashion", checkpoint="ab" * 32,
        sampler="dpmpp_2m", steps=30, guidance=2.0, size=(32, 32), images=64, seed=1, error=(2e-4, 1e-4, 3e-4),
        to_plain=(0.5, 0.4, 0.6), verdict="confirmed", speedup_macs=2.0, speedup_measured=1.9, teacher_seconds=0.5,
        device="a device", dtype="float32", flexiffusion="0.1.0", torch="2.13.0",
    )  # fmt: skip
    return Measurement(**usual | changes)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for number, item in enumerate((measured(), measured(checkpoint=None, to_plain=None, verdict=None, guidance=None))):
        write(tmp_path / f"{number}.json", item)
        assert read(tmp_path / f"{number}.json") == item


def test_a_checkpoint_counts_once_and_spreads_are_over_checkpoints() -> None:
    (evidence,) = gathered([
        measured(to_plain=(0.9, 0.8, 1.0), images=8),  # the same checkpoint again, on more images below
        measured(to_plain=(0.5, 0.4, 0.6)),
        measured(checkpoint="cd" * 32, to_plain=(0.7, 0.6, 0.8), verdict="weaker", device="another"),
        measured(checkpoint="ef" * 32, to_plain=(0.3, 0.2, 0.4), speedup_measured=None),
    ])  # fmt: skip
    assert evidence.checkpoints == 3 and evidence.images == 192
    assert evidence.to_plain == (0.3, 0.5, 0.7)
    assert evidence.verdicts == {"confirmed": 2, "weaker": 1}
    assert evidence.devices == ("a device", "another")


def test_a_schedule_with_evidence_is_still_the_schedule_that_was_measured() -> None:
    (evidence,) = gathered([measured()])
    again = codec.loads(codec.dumps(with_evidence(SCHEDULE, evidence)))
    assert again.extra[EVIDENCE]["checkpoints"] == 1
    assert schedule_hash(again) == schedule_hash(SCHEDULE)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "not a measurement"),
        ({"error": [1.0, 2.0]}, "error"),
        ({"error": [float("nan"), 1.0, 2.0]}, "error"),
        ({"images": 0}, "images"),
        ({"images": True}, "images"),
        ({"device": "a\x1b[31m"}, "device"),
        ({"schedule": "../" * 20}, "schedule"),
        ({"verdict": "best"}, "verdict"),
        ({"size": [32]}, "size"),
        ({"path": "/home/me"}, "path"),
        ({"speedup_macs": 1e300}, "speedup_macs"),
    ],
)
def test_what_is_no_measurement_is_refused_by_name(tmp_path: Path, change: dict[str, Any], place: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(measured().to_dict() | change))
    with pytest.raises(ConfigError, match=place):
        read(path)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 60_000, b"1" * 9_000, b" " * 70_000, b"{}", b"null"])
def test_files_that_are_not_even_that(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        read(path)


def test_the_command_shows_writes_and_tells_what_it_left(tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    write(given / "a.json", measured())
    write(given / "b.json", measured(checkpoint="cd" * 32))
    write(given / "c.json", measured(name="unknown", schedule="ef" * 32))
    (given / "d.json").write_text("{}")
    done = CliRunner().invoke(main, ["presets", "gather", str(given), "--out", str(out), "--json"])
    assert done.exit_code == exit_codes.SCHEDULE, done.stderr
    told = json.loads(done.stdout)
    assert [(row["name"], row["checkpoints"]) for row in told["evidence"]] == [(SCHEDULE.name, 2), ("unknown", 1)]
    assert told["unknown"] == ["unknown"] and len(told["refused"]) == 1 and "d.json" in told["refused"][0]
    (written,) = told["written"]
    assert codec.read(written).extra[EVIDENCE]["checkpoints"] == 2


def test_a_folder_without_measurements(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["presets", "gather", str(tmp_path)])
    assert done.exit_code == exit_codes.USAGE and "verify --share" in done.stderr
