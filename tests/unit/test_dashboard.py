"""`flexsearch dashboard`: a page, and clear messages where there is none."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from search_fixtures import FormulaEvaluator
from test_driver import METHODS, go

from flexsearch.cli import exit_codes, main
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings


@pytest.fixture
def run(tmp_path: Path) -> Path:
    RunFolder.create(tmp_path / "run", Settings())
    go(tmp_path / "run", METHODS["placement"], FormulaEvaluator(), 12)
    return tmp_path / "run"


def test_serves_the_runs_trials_until_it_is_interrupted(run: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    process = subprocess.Popen(
        [sys.executable, "-m", "flexsearch", "dashboard", str(run), "--port", "0", "--no-open"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # in a shell's background job, where the tests may run, it is ignored, and Python leaves that so
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        address = line.split()[line.split().index(f"{run}:") + 1]
        with urllib.request.urlopen(f"{address}dashboard/", timeout=30) as page:
            assert "Optuna Dashboard" in page.read().decode()
        with urllib.request.urlopen(f"{address}api/studies", timeout=30) as answer:
            (study,) = json.load(answer)["study_summaries"]
        with urllib.request.urlopen(f"{address}api/studies/{study['study_id']}?after=0", timeout=30) as answer:
            detail = json.load(answer)
        assert len(detail["trials"]) == 12 and all(trial["state"] == "Complete" for trial in detail["trials"])
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == exit_codes.OK
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken(run: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(main, ["dashboard", str(run), "--port", port, "--no-open"])
    assert result.exit_code == exit_codes.USAGE and f"127.0.0.1:{port} cannot be used" in result.stderr


def test_no_trials_yet(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    RunFolder.create(tmp_path / "run", Settings())
    result = CliRunner().invoke(main, ["dashboard", str(tmp_path / "run"), "--no-open"])
    assert result.exit_code == exit_codes.RUN_FOLDER and "there are no trials yet" in result.stderr
    assert not (tmp_path / "run" / "study.db").exists()


def test_not_installed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    result = CliRunner().invoke(main, ["dashboard", str(run), "--no-open"])
    assert result.exit_code == exit_codes.USAGE and "pip install 'flexiffusion[dashboard]'" in result.stderr


def test_not_a_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dashboard", str(tmp_path), "--no-open"])
    assert result.exit_code == exit_codes.RUN_FOLDER and str(tmp_path) in result.stderr
