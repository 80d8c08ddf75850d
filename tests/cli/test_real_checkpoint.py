"""A full-size random checkpoint, end to end, as a user runs it, in a process that has no network at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flexiffusion import codec
from tools.make_random_checkpoint import write

GUARD = """
import socket, sys
def refuse(*arguments, **more):
    raise SystemExit(f"the network was asked for: {arguments}")
socket.socket.connect = socket.getaddrinfo = refuse
from flexsearch.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_full_size_sd15_at_64_pixels(tmp_path: Path) -> None:
    """About ten minutes on one core and 7 GB of memory; the checkpoint takes 2.1 GB of disk."""
    checkpoint = write(tmp_path / "sd15.safetensors", "sd15", tiny=False)
    arguments = ["run", "--model", str(checkpoint), "--size", "64", "--steps", "6", "--speedup", "2", "--images", "2",
                 "--held-out", "2", "--evaluations", "4", "--no-planner", "--out", str(tmp_path / "run"),
                 "--json"]  # fmt: skip
    alone = ["unshare", "--net", "--map-root-user"] if can_unshare() else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    made = subprocess.run(
        [*alone, sys.executable, "-c", GUARD, *arguments],
        capture_output=True,
        text=True,
        env=environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert {row["kind"] for row in document["rows"]} >= {"teacher", "found", "plain"}
    assert document["peak_memory"] < 10 * 2**30
    schedule = codec.read(next((tmp_path / "run" / "schedules").glob("*.json")))
    assert schedule.model.family == "sd15" and schedule.model.branches == 12 and schedule.model.sha256 is not None


def can_unshare() -> bool:
    """Whether this system lets a process leave its network behind."""
    command = ["unshare", "--net", "--map-root-user", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0
