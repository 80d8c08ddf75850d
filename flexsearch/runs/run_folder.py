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

import errno
import json
import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from flexiffusion import __version__
from flexiffusion.whole_file import whole_file
from flexsearch.errors import ConfigError, FlexsearchError, ModelError, RunFolderError
from flexsearch.runs.settings import Settings

# Optuna and torch are imported where they are needed: a folder that cannot be used is refused at once.
if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import Study

    from flexsearch.runs.optuna_sampler import MethodSampler
    from flexsearch.runs.trial_store import Claim

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORGOTTEN = "Remove it if the checkpoint is the one that the run began with, or else start a new run"
VERSION = "version"  # in settings.json: of the flexiffusion that wrote it; not a setting


class RunFolder:
    """Paths of a run, and what may go wrong with them (RunFolderError)."""

    def __init__(self, path: Path, version: str = __version__) -> None:
        self.path = path
        self.version = version
        self.references = path / "references"
        self.schedules = path / "schedules"
        self.front = path / "front.png"
        self.samples = path / "samples.png"
        self.pictures = path / "pictures"
        self._claim: Claim | None = None

    @classmethod
    def require_free(cls, path: Path) -> None:
        """Raises RunFolderError where no new run can have this folder: before any work, and nothing is made."""
        if (path / "settings.json").exists():
            raise RunFolderError(
                str(path), "it holds a run already", f"Use `flexsearch resume {path}`, or another --out"
            )
        nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            raise RunFolderError(str(path), f"it cannot be made ({nearest} cannot be written)", "Give another --out")

    @classmethod
    def create(cls, path: Path, settings: Settings) -> RunFolder:
        """A new run's folder. One that holds a run already is refused: nothing is overwritten."""
        folder = cls(path)
        folder.require_free(path)
        try:
            folder.schedules.mkdir(parents=True, exist_ok=True)
            folder.write_json("settings.json", {VERSION: __version__, **settings.to_dict()})
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
        if not isinstance(document, dict):
            raise RunFolderError(str(path / "settings.json"), "it is not an object", "Start a new run")
        version = str(document.pop(VERSION, __version__))
        try:
            return cls(path, version), Settings.from_dict(document)
        except (ConfigError, TypeError) as error:
            remedy = f"Use flexiffusion {version}, or start a new run" if newer(version) else "Start a new run"
            raise RunFolderError(str(path / "settings.json"), str(error), remedy) from error

    def write_json(self, name: str, document: Any) -> None:
        """Whole or not at all."""
        with whole_file(self.path / name) as draft:
            draft.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def keep_model(self, family: str, sha256: str) -> None:
        """Remember the run's checkpoint. Raises RunFolderError where it has been another before."""
        path = self.path / "model.json"
        if path.exists():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))["sha256"]
            except (OSError, ValueError) as error:
                raise RunFolderError(str(path), f"it cannot be read ({error})", _FORGOTTEN) from error
            except (KeyError, TypeError) as error:
                raise RunFolderError(str(path), "it does not say the checkpoint's sha256", _FORGOTTEN) from error
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
        except OSError as error:  # a read-only disk, a colleague's folder
            raise RunFolderError(
                str(self.path), f"it cannot be written ({error.strerror or error})", "Copy it to where you can write"
            ) from error
        with lock:
            try:
                yield
            finally:
                if self._claim is not None:
                    self._claim.release()

    def in_use(self) -> bool:
        """Whether another process works on this run just now."""
        if not (self.path / ".lock").exists():
            return False
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # not writable: nobody can say
            return False

    @contextmanager
    def guarded(self, settings: Settings) -> Iterator[None]:
        """Say plainly what ended a run from outside: a full disk, a lost trial store, no memory. Nothing that was
        finished is lost, and `resume` goes on."""
        kept = f"What was finished is kept: `flexsearch resume {self.path}` goes on"
        try:
            yield
        except FlexsearchError:
            raise
        except Exception as error:
            from optuna.exceptions import StorageInternalError
            from sqlalchemy.exc import SQLAlchemyError

            from flexiffusion.search.devices import out_of_memory
            from flexsearch.runs.trial_store import is_broken, is_full, reason, shown, trials_are_lost

            said = reason(error)
            if getattr(error, "errno", None) in FULL or is_full(said):
                raise RunFolderError(str(self.path), f"the disk is full ({said})", f"Free some. {kept}") from error
            if isinstance(error, (StorageInternalError, SQLAlchemyError)):
                place = shown(settings.storage) if settings.storage else str(self.path / "study.db")
                remedy = trials_are_lost(self.path) if is_broken(said) else f"See to it. {kept}"
                raise RunFolderError(place, f"the trial store was lost ({said})", remedy) from error
            if out_of_memory(error):
                remedy = f"End other programs, or give a smaller --batch or less --memory to a new run. {kept}"
                raise ModelError(settings.model, f"memory ran out ({said})", remedy) from error
            raise

    def study(self, settings: Settings, sampler: MethodSampler) -> Study:
        """The run's Optuna study, made if it is not there: minimise (error, cost in full steps)."""
        import optuna
        from optuna.exceptions import ExperimentalWarning

        from flexsearch.runs.trial_store import Claim, shown

        storage = self.store(settings)
        name = self.study_name(settings)
        if settings.storage:
            self._claim = Claim(storage, name)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["minimize", "minimize"],
            sampler=sampler,
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(["error", "cost in full steps"])
        if settings.storage and study.user_attrs.get("run") != self._mark():
            if "run" in study.user_attrs:
                raise RunFolderError(
                    shown(settings.storage),
                    f"it has a study {name!r} of another run",
                    "Give another --out: a study is called as its run's folder",
                )
            study.set_user_attr("run", self._mark())
        return study

    def store(self, settings: Settings) -> RDBStorage:
        """The run's trial store. Raises RunFolderError."""
        from sqlalchemy import URL

        from flexsearch.runs.trial_store import open_store

        if settings.storage:
            return open_store(settings.storage)
        # Built from its parts: a path may hold what has a meaning in the text of a URL, such as a question mark.
        return open_store(URL.create("sqlite", database=str(self.path / "study.db")).render_as_string(), self.path)

    def study_name(self, settings: Settings) -> str:
        return self.path.resolve().name if settings.storage else "flexsearch"

    def _mark(self) -> str:
        """What tells this run from another of the same name in a shared trial store."""
        path = self.path / ".run"
        if not path.exists():
            path.write_text(uuid.uuid4().hex, encoding="utf-8")
        return path.read_text(encoding="utf-8")


def newer(version: str) -> bool:
    """Whether a version of flexiffusion is later than this one; not of a text that is no version."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version) > Version(__version__)
    except InvalidVersion:
        return False
