"""Who may write where: results on stdout, everything else on stderr; with --json exactly one document on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO, TypeVar

import click

_KEY = "flexsearch.json"
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


@dataclass
class _Document:
    """The one JSON document of a command, and the stdout that it goes to."""

    stream: TextIO
    written: bool = False

    def write(self, content: object) -> None:
        if self.written:
            raise RuntimeError("a command with --json may write one document only")
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        if not _encodable(text, self.stream):  # escaped, not replaced: the reader gets every character
            text = json.dumps(content, indent=2, allow_nan=False)
        self.written = True  # also where it fails below: half a document must not be followed by another
        self.stream.write(text + "\n")
        self.stream.flush()


def _start(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    if value:
        ctx.meta[_KEY] = _Document(sys.stdout)
        # Whatever a library prints while the command runs must not get between the document and its reader.
        ctx.with_resource(contextlib.redirect_stdout(sys.stderr))
    return value


def json_option(command: _Decorated) -> _Decorated:
    """Adds --json. The command asks `wants_json()` and then calls `emit` once."""
    return click.option(
        "--json",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_start,
        help="Write one JSON document to stdout, and nothing else.",
    )(command)


def wants_json() -> bool:
    return _KEY in click.get_current_context().meta


def emit(content: object) -> None:
    """Writes the command's one JSON document. Non-finite numbers raise ValueError: JSON has none."""
    click.get_current_context().meta[_KEY].write(content)


def emit_error(ctx: click.Context, error: BaseException, exit_code: int) -> None:
    """With --json, a command that fails writes `{"error": {...}}`; place, problem and remedy where they are known."""
    document = ctx.meta.get(_KEY)
    if document is None or document.written:
        return
    parts = {key: getattr(error, key) for key in ("place", "problem", "remedy") if hasattr(error, key)}
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    document.write(
        {"error": {"kind": type(error).__name__, "message": message, **parts, "exit_code": exit_code}},
    )


def forgive_encodings() -> None:
    """Let stdout and stderr replace what their encoding lacks: a table's dash must not end a command.

    Japanese and Chinese Windows, LC_ALL=C and PYTHONIOENCODING=ascii have such streams.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def abandon_broken_stdout() -> None:
    """Lead stdout nowhere if it cannot be written: what is still in its buffer would fail again at the exit."""
    if sys.__stdout__ is None:
        return
    try:
        sys.__stdout__.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.__stdout__.fileno())
        os.close(nowhere)


def _encodable(text: str, stream: TextIO) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def say(message: str) -> None:
    """One line for the person, on stderr."""
    click.echo(printable(message), err=True)


def printable(text: str) -> str:
    """`text` with control and format characters spelled out: a stranger's file must not steer the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
