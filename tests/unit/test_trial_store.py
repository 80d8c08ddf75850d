"""Trial stores: what is said when one cannot be opened, is full or is lost; one driver a study; nothing is lost."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
import torch
from search_fixtures import TABLE, FormulaEvaluator
from sqlalchemy import event
from test_driver import METHODS, go, trials_of

from flexsearch.cli import exit_codes
from flexsearch.errors import FlexsearchError, ModelError, RunFolderError
from flexsearch.runs.driver import search
from flexsearch.runs.optuna_sampler import MethodSampler
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings
from flexsearch.runs.trial_store import open_store, shown


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nosuchdb://x", ["nosuchdb", "Check --storage"]),
        ("no url", ["--storage: ", "Check --storage"]),
        ("mysql+oursql2://u:secret@h/x", ["u:***@h", "oursql2"]),
        ("sqlite:////no/such/folder/x.db", ["unable to open database file"]),
    ],
)
def test_what_cannot_be_opened(url: str, words: list[str]) -> None:
    with pytest.raises(RunFolderError) as caught:
        open_store(url)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "MySQLdb", None)
    with pytest.raises(RunFolderError, match="pip install 'mysqlclient'"):
        open_store("mysql+mysqldb://localhost/x")


def test_no_password_is_shown() -> None:
    assert shown("postgresql+psycopg://ann:secret@host/db") == "postgresql+psycopg://ann:***@host/db"


class TestOneDriverAStudy:
    @staticmethod
    def settings(tmp_path: Path) -> Settings:
        return Settings(storage=f"sqlite:///{tmp_path / 'team.db'}")

    def test_a_second_one_is_refused_while_the_first_works(self, tmp_path: Path) -> None:
        settings = self.settings(tmp_path)
        folders = [RunFolder(tmp_path / place / "same-name") for place in ("a", "b")]
        for folder in folders:
            folder.path.mkdir(parents=True)
        with folders[0].locked():
            folders[0].study(settings, MethodSampler(METHODS["placement"], 0))
            with folders[1].locked(), pytest.raises(RunFolderError, match="another driver works on the study"):
                folders[1].study(settings, MethodSampler(METHODS["placement"], 0))
        with folders[0].locked():
            folders[0].study(settings, MethodSampler(METHODS["placement"], 0))  # its own run goes on

    def test_another_run_of_the_same_name_is_refused_for_ever(self, tmp_path: Path) -> None:
        settings = self.settings(tmp_path)
        for place, refused in (("a", False), ("b", True), ("a", False)):
            folder = RunFolder(tmp_path / place / "same-name")
            folder.path.mkdir(parents=True, exist_ok=True)
            with folder.locked():
                if refused:
                    with pytest.raises(RunFolderError, match="a study 'same-name' of another run"):
                        folder.study(settings, MethodSampler(METHODS["placement"], 0))
                else:
                    folder.study(settings, MethodSampler(METHODS["placement"], 0))


class Until(FormulaEvaluator):
    """Something happens to the store when so many candidates have been judged."""

    def __init__(self, stop: int, happens: object) -> None:
        super().__init__()
        self.stop, self.happens = stop, happens

    def judge(self, *arguments: object) -> object:  # type: ignore[override]
        if len(self.evaluated) == self.stop:
            self.happens()  # type: ignore[operator]
        return super().judge(*arguments)  # type: ignore[arg-type]


class TestWhatEndsARunFromOutside:
    """The message, its exit code, and that a resumed search ends as one that was never interrupted."""

    @pytest.fixture
    def whole(self, tmp_path: Path) -> list[object]:
        return list(trials_of(go(tmp_path / "whole", METHODS["placement"], FormulaEvaluator(), 20)))

    def test_a_full_disk(self, tmp_path: Path, whole: list[object]) -> None:
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir()
        sampler = MethodSampler(METHODS["placement"], 0)
        study = folder.study(Settings(), sampler)
        engine = study._storage._backend.engine  # type: ignore[attr-defined]

        def fill() -> None:
            @event.listens_for(engine, "connect")
            def bounded(connection: sqlite3.Connection, _: object) -> None:
                pages = connection.execute("PRAGMA page_count").fetchone()[0]
                connection.execute(f"PRAGMA max_page_count = {pages + 1}")

            engine.dispose()

        with (
            pytest.raises(RunFolderError, match=r"the disk is full .*flexsearch resume") as caught,
            folder.guarded(Settings()),
        ):
            search(study, sampler, Until(8, fill), TABLE, 20, True, lambda *_: None)  # type: ignore[arg-type]
        assert exit_codes.exit_code_of(caught.value) == exit_codes.RUN_FOLDER == 5
        assert list(trials_of(study)) == whole[: len(trials_of(study))] and len(trials_of(study)) >= 8
        assert list(trials_of(go(folder.path, METHODS["placement"], FormulaEvaluator(), 20))) == whole

    def test_a_lost_database(self, tmp_path: Path, whole: list[object]) -> None:
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir()
        database = folder.path / "study.db"

        def lose() -> None:
            with sqlite3.connect(database) as connection:
                connection.execute("ALTER TABLE trials RENAME TO gone")

        message = r"study.db: the trial store was lost .*flexsearch resume"
        with pytest.raises(RunFolderError, match=message) as caught, folder.guarded(Settings()):
            go(folder.path, METHODS["placement"], Until(8, lose), 20)  # type: ignore[arg-type]
        assert exit_codes.exit_code_of(caught.value) == 5
        with sqlite3.connect(database) as connection:
            connection.execute("ALTER TABLE gone RENAME TO trials")
        assert list(trials_of(go(folder.path, METHODS["placement"], FormulaEvaluator(), 20))) == whole

    @pytest.mark.parametrize(
        ("error", "expected", "code"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), RunFolderError, 5),
            (OSError(errno.EDQUOT, "Disk quota exceeded"), RunFolderError, 5),
            (Exception("I/O error: No space left on device (os error 28)"), RunFolderError, 5),  # safetensors
            (MemoryError(), ModelError, 4),
            (torch.OutOfMemoryError("CUDA out of memory"), ModelError, 4),
        ],
    )
    def test_other_limits(self, error: Exception, expected: type[FlexsearchError], code: int, tmp_path: Path) -> None:
        with (
            pytest.raises(expected, match=f"flexsearch resume {tmp_path}") as caught,
            RunFolder(tmp_path).guarded(Settings()),
        ):
            raise error
        assert exit_codes.exit_code_of(caught.value) == code

    @pytest.mark.parametrize("error", [ValueError("a fault"), OSError(errno.EACCES, "denied"), KeyboardInterrupt()])
    def test_faults_stay_faults(self, error: BaseException, tmp_path: Path) -> None:
        with pytest.raises(type(error)) as caught, RunFolder(tmp_path).guarded(Settings()):
            raise error
        assert caught.value is error

    def test_a_document_is_written_whole_or_not_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = RunFolder(tmp_path)
        folder.write_json("result.json", {"old": True})

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.replace", full)
        with pytest.raises(RunFolderError, match="disk is full"), folder.guarded(Settings()):
            folder.write_json("result.json", {"new": True})
        assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
        assert "old" in (tmp_path / "result.json").read_text()


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "ü 1"])
def test_a_run_folder_of_any_name_holds_its_own_database(name: str, tmp_path: Path) -> None:
    """In the text of a URL these signs mean something else: `a?b` opened a database beside the folder."""
    settings = Settings(steps=6, speedups=(2.0,))
    folder = RunFolder.create(tmp_path / name, settings)
    folder.store(settings)
    assert (tmp_path / name / "study.db").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
