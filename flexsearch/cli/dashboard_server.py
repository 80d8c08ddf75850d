"""What `dashboard` does: serve optuna-dashboard on a run's trial store."""

from __future__ import annotations

import contextlib
import logging
import webbrowser
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import RDBStorage

from flexsearch.cli import output
from flexsearch.errors import ConfigError, RunFolderError
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No line for every request."""


def serve(folder: RunFolder, settings: Settings, host: str, port: int, opened: bool) -> None:
    """Serve until Ctrl+C. Raises ConfigError where the package is missing or the address cannot be used, and
    RunFolderError where there are no trials."""
    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError as error:
        remedy = "Run: pip install 'flexiffusion[dashboard]'"
        raise ConfigError("flexsearch dashboard", f"{error.name} is not installed", remedy) from error
    application = wsgi(_store(folder, settings))
    logging.getLogger("optuna").setLevel(logging.WARNING)
    try:
        server = make_server(host, port, application, Server, Quiet)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            "--port", f"{host}:{port} cannot be used ({error})", "Give another; 0 is any free one"
        ) from error
    address = f"http://{'localhost' if host == '127.0.0.1' else host}:{server.server_port}/"
    output.say(f"dashboard of {folder.path}: {address} (Ctrl+C ends it)")
    if opened:
        webbrowser.open(address)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


def _store(folder: RunFolder, settings: Settings) -> RDBStorage:
    missing = RunFolderError(str(folder.path), "there are no trials yet", "Wait until its search begins")
    if settings.storage is None and not (folder.path / "study.db").exists():
        raise missing
    storage = folder.store(settings)
    if folder.study_name(settings) not in [study.study_name for study in storage.get_all_studies()]:
        raise missing
    return storage
