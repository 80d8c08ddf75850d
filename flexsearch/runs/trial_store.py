"""The database of a run's trials: opening it, having it to oneself, and what to say when it cannot be used."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from flexsearch.errors import RunFolderError

CONNECT_SECONDS = 10
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # as pip calls them


# What databases and safetensors, which have no number of the error, say of a full disk.
FULL_WORDS = ("no space left", "disk is full", "file too large", "quota exceeded")
BROKEN_WORDS = ("malformed", "is not a database", "file is encrypted")  # what SQLite says of a damaged file


def open_store(url: str, run: Path | None = None) -> RDBStorage:
    """The trial store at a URL. `run`: the folder of the run whose own file it is.

    Raises RunFolderError, with the remedy.
    """
    try:
        database = make_url(url).get_backend_name()
        options = {"connect_args": {"connect_timeout": CONNECT_SECONDS}} if database in ("postgresql", "mysql") else {}
        storage = RDBStorage(url, engine_kwargs=options)
        if database == "sqlite":
            # One write-ahead log and no wait for the disk at each gene: a killed process still loses nothing.
            event.listen(storage.engine, "connect", _fast_commits)
            storage.engine.dispose()
        return storage
    except Exception as error:  # a dozen kinds, by database
        said = reason(error)
        if run is None:
            raise RunFolderError(shown(url), f"the trial store cannot be opened ({said})", _remedy(error)) from error
        if is_full(said):
            remedy = f"Free some. What was finished is kept: `flexsearch resume {run}` goes on"
            raise RunFolderError(str(run), f"the disk is full ({said})", remedy) from error
        remedy = (
            trials_are_lost(run) if is_broken(said) else "Make the folder writable, or copy it to where you can write"
        )
        raise RunFolderError(str(run / "study.db"), f"the trials cannot be opened ({said})", remedy) from error


def is_full(said: str) -> bool:
    """Whether a library's message speaks of a full disk."""
    return any(words in said.lower() for words in FULL_WORDS)


def is_broken(said: str) -> bool:
    """Whether a database's message speaks of a file that is no database any more."""
    return any(words in said.lower() for words in BROKEN_WORDS)


def trials_are_lost(run: Path) -> str:
    """The remedy for a run whose own database is broken."""
    return f"Its trials are lost: start a new run; with a copy of {run / 'references'} in its folder it begins sooner"


def _fast_commits(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def shown(url: str) -> str:
    """A storage URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "--storage"


def reason(error: BaseException) -> str:
    """What the database said, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


def _remedy(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = DRIVERS.get(error.name.partition(".")[0], error.name)
        return f"Run: pip install '{package}'"
    said = str(error).lower()
    if "password" in said or "access denied" in said or "authentication" in said:
        return "Check user and password, in --storage or where the database's client looks for them (~/.pgpass)"
    if "does not exist" in said or "unknown database" in said:
        return "Make the database first; its tables are made by the search"
    return "Check --storage, and that the server runs and can be reached from here"


class Claim:
    """One driver a study: held until it is released or the process ends, however it ends.

    PostgreSQL and MySQL keep the lock for the connection, SQLite's is a file beside the database. Raises RunFolderError
    where another driver holds it.
    """

    def __init__(self, storage: RDBStorage, study: str) -> None:
        self._connection: Connection | None = None
        self._file: FileLock | None = None
        url = storage.engine.url
        name = hashlib.sha256(f"flexsearch {study}".encode()).hexdigest()
        if url.get_backend_name() == "sqlite" and url.database:
            self._file = FileLock(f"{Path(url.database)}.{name[:8]}.lock")
            try:
                self._file.acquire(timeout=0)
            except Timeout:
                free = False
            else:
                free = True
        elif url.get_backend_name() in ("postgresql", "mysql"):
            self._connection = storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            # PostgreSQL takes 64 bits with a sign, MySQL a text of at most 64 characters.
            number = int.from_bytes(bytes.fromhex(name[:16]), "big", signed=True)
            asked, key = {
                "postgresql": ("SELECT pg_try_advisory_lock(:key)", number),
                "mysql": ("SELECT GET_LOCK(:key, 0)", name[:60]),
            }[url.get_backend_name()]
            free = bool(self._connection.execute(text(asked), {"key": key}).scalar())
        else:
            free = True
        if not free:
            self.release()
            raise RunFolderError(
                shown(str(url)), f"another driver works on the study {study!r}", "Wait for it, or give another --out"
            )

    def release(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()  # closed, not back to the pool: the lock goes with it
            self._connection.close()
        if self._file is not None:
            self._file.release()
