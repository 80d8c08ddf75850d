"""What a person is told who ends a run, or looks at one that has not ended."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import diffusers
import optuna
import pytest
import transformers
from click.testing import CliRunner

from flexiffusion import __version__
from flexsearch.cli import exit_codes, main
from flexsearch.cli.quiet import quiet
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
    assert done.exit_code == exit_codes.RUN_FOLDER and "the run is still going on" in done.stderr
    done = CliRunner().invoke(main, ["report", str(folder.path)])
    assert done.exit_code == exit_codes.RUN_FOLDER and "flexsearch resume" in done.stderr


@pytest.mark.parametrize(("version", "noted"), [("999.0", True), (__version__, False), ("0.0.1", False)])
def test_a_run_of_a_newer_version_goes_on_with_a_note(
    version: str, noted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone_on(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flexsearch.runs.search_run._conduct", gone_on)
    folder = RunFolder.create(tmp_path / "run", Settings())
    stored = folder.path / "settings.json"
    document = json.loads(stored.read_text())
    assert document["version"] == __version__
    stored.write_text(json.dumps(document | {"version": version}))
    done = CliRunner().invoke(main, ["resume", str(folder.path)])
    note = f"note: flexiffusion {version} made this run, and this is {__version__}"
    assert (note in done.stderr) == noted


def test_the_command_line_keeps_other_libraries_quiet() -> None:
    libraries = (diffusers.utils.logging, transformers.utils.logging, optuna.logging)
    before = [library.get_verbosity() for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity(logging.INFO)
        quiet()
        assert [library.get_verbosity() for library in libraries] == [logging.ERROR, logging.ERROR, logging.WARNING]
        assert not diffusers.utils.logging.is_progress_bar_enabled()
        assert not transformers.utils.logging.is_progress_bar_enabled()
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
