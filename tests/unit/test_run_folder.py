"""A run's folder: what is wrong with it is said in its own words, and a stored study is read without its genes."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock

from flexiffusion import __version__
from flexiffusion.schedule import FULL, Action
from flexiffusion.search.candidate import Candidate
from flexsearch.errors import RunFolderError
from flexsearch.runs import trial_candidate
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", Settings())


def changed(folder: RunFolder, **values: Any) -> None:
    path = folder.path / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_settings_say_which_version_wrote_them(folder: RunFolder) -> None:
    assert json.loads((folder.path / "settings.json").read_text())["version"] == __version__
    opened, settings = RunFolder.open(folder.path)
    assert opened.version == __version__ and settings == Settings()


def test_a_run_of_a_newer_version_names_it(folder: RunFolder) -> None:
    changed(folder, version="99.0", quantum=True)
    with pytest.raises(RunFolderError, match=r"unknown settings quantum.*Use flexiffusion 99\.0"):
        RunFolder.open(folder.path)
    changed(folder, version="99.0")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": "six"}, "settings.json: steps: 'six' is of a wrong type"),
        ({"steps": True}, "settings.json: steps: True is of a wrong type"),
        ({"speedups": None}, "settings.json: speedups: None is of a wrong type"),
        ({"speedups": ["2"]}, "settings.json: speedups: ('2',) is of a wrong type"),
        ({"speedups": 2}, "settings.json: speedups: 2 is not a list"),
        ({"size": [512]}, "settings.json: size: (512,) is of a wrong type"),
        ({"guidance": "7"}, "settings.json: guidance: '7' is of a wrong type"),
        ({"method": "luck"}, "--method: 'luck' is not known"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_setting_of_a_wrong_type(values: dict[str, Any], words: str, folder: RunFolder) -> None:
    changed(folder, **values)
    with pytest.raises(RunFolderError) as caught:
        RunFolder.open(folder.path)
    assert words in str(caught.value) and "Start a new run" in str(caught.value)


def test_settings_of_every_type_come_back(tmp_path: Path) -> None:
    settings = Settings(
        guidance=7.0, size=(512, 768), speedups=(2, 3.5), prompts=("a", "b"), held_out_prompts=("c",), workers=2,
        engine="ray", cost="latency", profile={"unit": "ms", "full": 1.0},
    )  # fmt: skip
    RunFolder.create(tmp_path / "run", settings)
    assert RunFolder.open(tmp_path / "run")[1] == settings


def test_a_folder_that_cannot_be_written(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only disk, or a colleague's run."""

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", read_only)
    with pytest.raises(RunFolderError, match=r"it cannot be written \(Read-only file system\)"), folder.locked():
        pass


def test_whether_it_is_in_use(folder: RunFolder) -> None:
    assert not folder.in_use()
    with folder.locked():
        assert folder.in_use()
    assert not folder.in_use()


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "it cannot be read"), ("{}", "it does not say the checkpoint's sha256"), ("[]", "it does not say")],
)
def test_a_broken_model_json(content: str, words: str, folder: RunFolder) -> None:
    (folder.path / "model.json").write_text(content)
    with pytest.raises(RunFolderError, match=words) as caught:
        folder.keep_model("sd15", "ab" * 32)
    assert "Remove it if the checkpoint is the one that the run began with" in str(caught.value)


def test_a_broken_trial_store_says_that_the_trials_are_lost(folder: RunFolder) -> None:
    (folder.path / "study.db").write_text("this is no database, and never was one " * 100)
    with pytest.raises(RunFolderError, match="Its trials are lost: start a new run") as caught:
        folder.store(Settings())
    assert "references" in str(caught.value) and "--storage" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("database or disk is full", r"the disk is full .*Free some.*flexsearch resume"),
        ("attempt to write a readonly database", "the trials cannot be opened .*Make the folder writable"),
    ],
)
def test_a_trial_store_that_cannot_be_made(
    said: str, words: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr("flexsearch.runs.trial_store.RDBStorage", fails)
    with pytest.raises(RunFolderError, match=words) as caught:
        folder.store(Settings())
    assert "server" not in str(caught.value)


def test_a_stored_trial_is_read_without_its_genes(tmp_path: Path) -> None:
    candidate = Candidate(
        (999, 700, 300, 20),
        (Action("full", drop=("input_blocks.1.0",)), Action("partial", 0, "linear"), FULL,
         Action("partial", -1, drop=("output_blocks.11.1",))),
    )  # fmt: skip
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=url, study_name="s")
    study.ask().set_user_attr(trial_candidate.KEY, trial_candidate.to_json(candidate))
    (trial,) = optuna.load_study(storage=url, study_name="s").trials
    assert trial_candidate.from_json(trial.user_attrs[trial_candidate.KEY]) == candidate
