"""What a person is told who ends a run, or looks at one that has not ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from flexsearch.cli import exit_codes, main
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flexsearch.runs.search_run._search", interrupted)
    done = CliRunner().invoke(main, ["run", "--out", str(tmp_path / "my run")])
    assert done.exit_code == exit_codes.INTERRUPTED
    assert f"Go on with: flexsearch resume '{tmp_path / 'my run'}'" in done.stderr
    assert (tmp_path / "my run" / "settings.json").exists()


def test_a_report_of_a_run_that_goes_on_says_so(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Settings())
    with folder.locked():
        done = CliRunner().invoke(main, ["report", str(folder.path)])
    assert done.exit_code == exit_codes.RUN_FOLDER and "the run goes on just now" in done.stderr
    done = CliRunner().invoke(main, ["report", str(folder.path)])
    assert done.exit_code == exit_codes.RUN_FOLDER and "flexsearch resume" in done.stderr
