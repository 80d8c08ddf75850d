"""The folder of one run: settings, trial store, references, results.

settings.json       what was asked for, after all layers
model.json          family and SHA-256 of the checkpoint
study.db            the trials (Optuna, SQLite), unless --storage names another place
references/         teacher and converged trajectories (safetensors)
costs.json          multiply-adds of every kind of step
result.json         the final table and comparisons
front.png samples.png
pictures/           the pictures of samples.png, one file each: teacher/0.png, <schedule>/0.png
schedules/*.json    the found schedules
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from optuna.study import Study, StudyDirection
from sqlalchemy import event

from flexsearch.errors import ConfigError, RunFolderError
from flexsearch.search.sampler import MethodSampler
from flexsearch.search.settings import Settings


class RunFolder:
    """Paths of a run, and what may go wrong with them (RunFolderError)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.references = path / "references"
        self.schedules = path / "schedules"
        self.front = path / "front.png"
        self.samples = path / "samples.png"
        self.pictures = path / "pictures"

    @classmethod
    def create(cls, path: Path, settings: Settings) -> RunFolder:
        """A new run's folder. One that holds a run already is refused: nothing is overwritten."""
        folder = cls(path)
        if (path / "settings.json").exists():
            raise RunFolderError(
                str(path), "it holds a run already", f"Use `flexsearch resume {path}`, or another --out"
            )
        try:
            folder.schedules.mkdir(parents=True, exist_ok=True)
            folder.write_json("settings.json", settings.to_dict())
        except OSError as error:
            raise RunFolderError(str(path), f"it cannot be written ({error})", "Give another --out") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, Settings]:
        """An existing run's folder and its settings."""
        try:
            document = json.loads((path / "settings.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunFolderError(
                str(path), "there is no run in it", "Give a folder that `flexsearch run` made"
            ) from None
        except (OSError, ValueError) as error:
            raise RunFolderError(
                str(path / "settings.json"), f"it cannot be read ({error})", "Start a new run"
            ) from error
        try:
            return cls(path), Settings.from_dict(document)
        except (ConfigError, TypeError) as error:
            raise RunFolderError(str(path / "settings.json"), str(error), "Start a new run") from error

    def write_json(self, name: str, document: Any) -> None:
        """Whole or not at all."""
        partial = self.path / f"{name}.partial"
        partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, self.path / name)

    def keep_model(self, family: str, sha256: str) -> None:
        """Remember the run's checkpoint. Raises RunFolderError where it has been another before."""
        path = self.path / "model.json"
        if path.exists():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))["sha256"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise RunFolderError(str(path), f"it cannot be read ({error})", "Start a new run") from error
            if known != sha256:
                raise RunFolderError(
                    str(self.path),
                    f"its model has changed: SHA-256 {known[:10]} when the run began, {sha256[:10]} now",
                    "Put the same checkpoint in its place, or start a new run",
                )
        self.write_json("model.json", {"family": family, "sha256": sha256})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time; the lock goes with the process, however it ends."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunFolderError(str(self.path), "another process works on this run", "Wait for it") from error
        with lock:
            yield

    def study(self, settings: Settings, sampler: MethodSampler) -> Study:
        """The run's Optuna study, made if it is not there: minimise (error, cost in full steps)."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = settings.storage or f"sqlite:///{self.path / 'study.db'}"
        try:
            storage = RDBStorage(url)
            if url.startswith("sqlite"):
                # One write-ahead log and no wait for the disk at each gene: a killed process still loses nothing.
                event.listen(storage.engine, "connect", _fast_commits)
                storage.engine.dispose()
            return optuna.create_study(
                storage=storage,
                study_name=self.path.resolve().name if settings.storage else "flexsearch",
                directions=[StudyDirection.MINIMIZE, StudyDirection.MINIMIZE],
                sampler=sampler,
                load_if_exists=True,
            )
        except Exception as error:  # a dozen kinds, by database
            raise RunFolderError(url, f"the trial store cannot be opened ({error})", "Check --storage") from error


def _fast_commits(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
