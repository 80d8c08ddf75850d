"""`--engine ray` on a small cluster of this machine: the local front, in spite of killed workers and drivers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from flexsearch.cli import exit_codes

LIMIT = 900  # seconds of each command, on a machine that others use
# whole commands one after the other
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(4 * LIMIT)]
pytest.importorskip("ray")

SMALL = ["--steps", "8", "--speedup", "2", "--images", "12", "--held-out", "3", "--no-planner", "--evaluations", "24",
         "--solver", "fitted"]  # fmt: skip
RAY = ["--engine", "ray", "--workers", "2"]


def flexsearch(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flexsearch", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=LIMIT)
    return process.returncode, said


def front(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())["front"]


def plans(folder: Path) -> dict[str, Any]:
    """What the written schedules do, the weights of their solvers with it."""
    return {path.name: json.loads(path.read_text())["plan"] for path in (folder / "schedules").iterdir()}


def finished(folder: Path) -> list[str]:
    """The schedules of finished trials."""
    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True) as connection:
            rows = connection.execute(
                "SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id) "
                "WHERE state = 'COMPLETE' AND key = 'schedule'"
            )
            return [json.loads(row[0]) for row in rows]
    except sqlite3.OperationalError:  # not there yet
        return []


def wait_for(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    deadline = time.monotonic() + LIMIT
    while len(finished(folder)) < count:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if child.is_running() and "ray::Worker" in " ".join(child.cmdline())]


def test_synchronous_is_local_and_survives_kills(tmp_path: Path) -> None:
    local, run = tmp_path / "local", tmp_path / "ray"
    assert ended(flexsearch("run", *SMALL, "--out", str(local)))[0] == 0
    driver = flexsearch("run", *SMALL, *RAY, "--synchronous", "--out", str(run))
    wait_for(driver, run, 4)
    at_work = workers(driver)
    assert len(at_work) == 2
    at_work[0].kill()
    wait_for(driver, run, len(finished(run)) + 3)
    driver.send_signal(signal.SIGKILL)  # the driver too
    driver.communicate()
    assert 7 <= len(finished(run)) < 24
    psutil.wait_procs(at_work, timeout=60)
    assert not any(process.is_running() for process in at_work)  # nobody is left behind
    assert json.loads((run / "settings.json").read_text())["workers"] == 2
    code, said = ended(flexsearch("resume", str(run)))
    assert code == 0, said
    assert "2 of 2 workers" in said
    assert front(run) == front(local)
    assert plans(run) == plans(local)
    assert all(step["weights"] for plan in plans(run).values() for step in plan["steps"])


def test_asynchronous_evaluates_everything_once_whoever_dies(tmp_path: Path) -> None:
    run = tmp_path / "ray"
    driver = flexsearch("run", *SMALL, *RAY, "--out", str(run))
    for done in (3, 9):
        wait_for(driver, run, done)
        workers(driver)[0].kill()
    code, said = ended(driver)
    assert code == 0, said
    assert said.count("its process died; trial") >= 1
    assert len(finished(run)) == 24 == len(set(finished(run)))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([*RAY, "--ray-address", "127.0.0.1:1"], exit_codes.CLUSTER, "Ray cannot be reached"),
        (["--workers", "2"], exit_codes.USAGE, "Give --engine ray with it"),
    ],
)
def test_says_what_is_wrong(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    got, said = ended(flexsearch("run", *SMALL, *arguments, "--out", str(tmp_path / "run")))
    assert got == code and words in said
