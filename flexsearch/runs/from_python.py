"""A search from a Python program: settings in, result out, progress by a callback."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flexsearch.runs.progress import Silent, Stage
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.search_run import Result, resume, start
from flexsearch.runs.settings import Settings, require_engine

Callback = Callable[[str, int, int], None]
"""Told of the work: the stage's name, how much of it is done, of how much."""


def search(folder: str | os.PathLike[str], progress: Callback | None = None, **settings: Any) -> Result:
    """Searches schedules for a model, measures them on other images, and writes everything into a folder.

    What `flexsearch run` does; or `flexsearch resume`, where the folder holds a run and no settings are given.

    Args:
        folder: of the run.
        progress: told at every step of every stage; what it raises ends the search, which can then be gone on with.
        settings: see `Settings`, and `flexsearch run --help` for each; what is left out is as the command has it.

    Raises:
        ConfigError: a setting is refused.
        ModelError: the model cannot be loaded.
        RunFolderError: the folder cannot be used, or holds something already where settings are given.
        TypeError: there is no setting of this name.
    """
    path = Path(folder)
    told = _Told(progress)
    if not settings and (path / "settings.json").exists():
        return resume(*RunFolder.open(path), told)
    asked = Settings(**settings)
    require_engine(asked)
    RunFolder.require_free(path)
    return start(path, asked, told)


class _Told(Silent):
    """Progress that goes to a callback."""

    def __init__(self, callback: Callback | None) -> None:
        self._callback = callback
        self._label, self._done, self._total = "", 0, 0

    @contextlib.contextmanager
    def stage(self, label: str, total: int, unit: str = "steps", done: int = 0) -> Iterator[Stage]:
        self._label, self._done, self._total = label, done, total
        self._tell()
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        self._tell()

    def _tell(self) -> None:
        if self._callback is not None:
            self._callback(self._label, self._done, self._total)
