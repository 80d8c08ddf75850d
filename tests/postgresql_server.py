"""A PostgreSQL server of the tests' own; skips where the programs are not installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.engine import URL


def programs() -> Path:
    """Where initdb, postgres and pg_ctl are; Debian keeps them off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not folders:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    return folders[0]


@dataclass(frozen=True)
class Server:
    """A private cluster that listens on one port of this machine; user `team`, password `a b/c@d`."""

    folder: Path
    port: int
    password: str = "a b/c@d"

    def control(self, *arguments: str) -> None:
        command = [str(programs() / "pg_ctl"), "-D", str(self.folder), "-w", *arguments]
        subprocess.run(as_user(command), check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self.control("-l", str(self.folder / "log"), "-o", options, "start")

    def url(self, password: str | None = None, port: int | None = None, database: str = "postgres") -> str:
        made = URL.create(
            "postgresql+psycopg", "team", password or self.password, "127.0.0.1", port or self.port, database
        )
        return made.render_as_string(hide_password=False)


def as_user(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command] if not os.getuid() else command
    )


@contextmanager
def running() -> Iterator[Server]:
    """A server in a folder of its own, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="flexsearch-pg-") as place:
        folder, password = Path(place) / "data", Path(place) / "password"
        made = Server(folder, port)
        password.write_text(made.password)
        if not os.getuid():
            for path in (Path(place), password):
                shutil.chown(path, "postgres", "postgres")
        command = [str(programs() / "initdb"), "-D", str(folder), "-U", "team", "-A", "scram-sha-256"]
        subprocess.run(
            as_user([*command, f"--pwfile={password}", "--no-sync"]), check=True, capture_output=True, cwd="/"
        )
        made.start()
        try:
            yield made
        finally:
            made.control("-m", "immediate", "stop")
