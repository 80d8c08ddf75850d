"""How far the work is, on stderr: a bar with the time left on a terminal, a plain line now and then elsewhere.

with stage("search", total=420, unit="evaluations") as at:
    at.advance(note="best 0.41")
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TextIO

from flexsearch.cli import output
from flexsearch.runs.progress import Stage

LINE_EVERY_S = 10.0


@contextlib.contextmanager
def stage(label: str, total: int, unit: str = "steps", done: int = 0, stream: TextIO | None = None) -> Iterator[Stage]:
    """A stage of `total` units, `done` of which an earlier, interrupted call has done (they do not count as speed)."""
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        with _bar(label, total, unit, done, stream) as bar:
            yield bar
    else:
        lines = Lines(label, total, unit, done, stream)
        yield lines
        lines.finish()  # not after an exception: the last line would say that all is well


class Terminal:
    """`flexsearch.runs.progress.Progress` on stderr."""

    def stage(self, label: str, total: int, unit: str = "steps", done: int = 0) -> AbstractContextManager[Stage]:
        return stage(label, total, unit, done)

    def say(self, message: str) -> None:
        output.say(message)


def duration(seconds: float) -> str:
    """`95.0` -> `1 min 35 s`: the two largest units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Lines:
    """Timestamped lines for logs and pipes: the first at once, then one every ten seconds, and the last."""

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        done: int,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._total, self._unit, self._stream, self._clock = label, total, unit, stream, clock
        self._done = self._done_before = done
        self._started = self._last_line = clock()
        self._note = ""
        self.say(f"{label}: {total - done} of {total} {unit} to do" if done else f"{label}: {total} {unit}")

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        self._note = note or self._note
        now = self._clock()
        if now - self._last_line >= LINE_EVERY_S and self._done < self._total:
            self._last_line = now
            left = (now - self._started) / (self._done - self._done_before) * (self._total - self._done)
            self._progress(f"{duration(left)} left")

    def say(self, message: str) -> None:
        self._stream.write(f"{datetime.now():%H:%M:%S} {message}\n")
        self._stream.flush()

    def finish(self) -> None:
        self._progress(f"took {duration(self._clock() - self._started)}")

    def _progress(self, time_note: str) -> None:
        note = f", {self._note}" if self._note else ""
        self.say(f"{self._label}: {self._done}/{self._total} {self._unit}, {time_note}{note}")


@contextlib.contextmanager
def _bar(label: str, total: int, unit: str, done: int, stream: TextIO) -> Iterator[Stage]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{escape(unit)},"),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(file=stream)) as progress:
        task = progress.add_task(escape(label), total=total, completed=done, note="")

        class Bar:
            def advance(self, count: int = 1, note: str = "") -> None:
                if note:
                    progress.update(task, note=note)
                progress.advance(task, count)

            def say(self, message: str) -> None:
                progress.console.print(message, markup=False, highlight=False)

        yield Bar()
