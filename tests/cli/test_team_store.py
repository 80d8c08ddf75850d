"""A trial store for teams: a search on a PostgreSQL server that these tests start for themselves."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from postgresql_server import Server, running

from flexsearch.cli import exit_codes

pytestmark = pytest.mark.database
pytest.importorskip("psycopg")

SMALL = ["--steps", "8", "--speedup", "2", "--images", "3", "--held-out", "3", "--no-planner", "--evaluations"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as made:
        yield made


@pytest.fixture
def alone(tmp_path: Path, server: Server) -> str:
    """A database of the test's own."""
    name = f"t{abs(hash(tmp_path)) % 10**9}"
    import psycopg

    with psycopg.connect(
        host="127.0.0.1", port=server.port, user="team", password=server.password, dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return server.url(database=name)


def flexsearch(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flexsearch", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=250)
    return process.returncode, said


def finished(url: str, study: str) -> int:
    try:
        trials = optuna.load_study(study_name=study, storage=url).get_trials(deepcopy=False)
    except Exception:  # the driver has not made its tables yet
        return 0
    return sum(trial.state == TrialState.COMPLETE for trial in trials)


def wait_for(process: subprocess.Popen[str], url: str, study: str, count: int) -> None:
    deadline = time.monotonic() + 250
    while finished(url, study) < count:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.3)


def front(folder: Path) -> list[str]:
    return [point["schedule"] for point in json.loads((folder / "result.json").read_text())["front"]]


def test_killed_resumed_and_to_one_driver_at_a_time(alone: str, server: Server, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert ended(flexsearch("run", *SMALL, "24", "--out", str(whole)))[0] == 0

    run = tmp_path / "run"
    first = flexsearch("run", *SMALL, "24", "--out", str(run), "--storage", alone)
    wait_for(first, alone, "run", 4)
    first.send_signal(signal.SIGSTOP)  # it keeps the study's lock, however slow the next command is to start
    # A copy of the folder, as a colleague on another machine would have it: the study is in use.
    shutil.copytree(run, tmp_path / "elsewhere" / "run")
    code, said = ended(flexsearch("resume", str(tmp_path / "elsewhere" / "run")))
    assert code == exit_codes.RUN_FOLDER and "another driver works on the study 'run'" in said
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = finished(alone, "run")
    assert 4 <= kept < 24
    assert ended(flexsearch("resume", str(run)))[0] == 0
    assert finished(alone, "run") == 24 and front(run) == front(whole)
    written = (run / "result.json").read_text()
    assert "team:***@127.0.0.1" in written and "c%40d" not in written and server.password not in written

    code, said = ended(flexsearch("run", *SMALL, "24", "--out", str(tmp_path / "other" / "run"), "--storage", alone))
    assert code == exit_codes.RUN_FOLDER and "a study 'run' of another run" in said


def test_a_server_that_goes_down_in_the_middle(alone: str, server: Server, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = flexsearch("run", *SMALL, "24", "--out", str(run), "--storage", alone)
    wait_for(process, alone, "run", 4)
    server.control("-m", "immediate", "stop")
    try:
        code, said = ended(process)
    finally:
        server.start()
    assert code == exit_codes.RUN_FOLDER and "the trial store was lost" in said and "flexsearch resume" in said
    assert "c%40d" not in said and server.password not in said
    kept = finished(alone, "run")
    assert kept >= 4
    assert ended(flexsearch("resume", str(run)))[0] == 0 and finished(alone, "run") == 24


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"password": "wrong"}, "Check user and password"),
        ({"port": 1}, "that the server runs"),
        ({"database": "nowhere"}, "Make the database first"),
    ],
)
def test_what_cannot_be_opened(changed: dict[str, str | int], words: str, server: Server) -> None:
    from flexsearch.errors import RunFolderError
    from flexsearch.runs.trial_store import open_store

    with pytest.raises(RunFolderError, match=words) as caught:
        open_store(server.url(**changed))  # type: ignore[arg-type]
    assert "team:***@127.0.0.1" in str(caught.value)
