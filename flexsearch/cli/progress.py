"""How far the work is, on stderr: a bar with the time left on a terminal, a plain line now and then elsewhere.

with stage("search", total=420, unit="evaluations") as at:
    at.advance(note="best 0.41")
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TextIO

from flexsearch.cli import output
from flexsearch.cli.time_left import TimeLeft
from flexsearch.runs.progress import Stage

LINE_EVERY_S = 10.0
WIDE = 80  # columns that a bar with its words needs


@contextlib.contextmanager
def stage(
    label: str,
    total: int,
    unit: str = "steps",
    done: int = 0,
    stream: TextIO | None = None,
    left: TimeLeft | None = None,
) -> Iterator[Stage]:
    """A stage of `total` units, `done` of which an earlier, interrupted call has done (they do not count as speed).

    `left` knows the stages before and after it; without it the time left is that of this stage.
    """
    stream = sys.stderr if stream is None else stream
    left = left or TimeLeft()
    left.begin(label, total, done)
    if stream.isatty():
        with _bar(label, total, unit, done, stream, left) as bar:
            yield bar
    else:
        lines = Lines(label, total, unit, done, stream, left)
        yield lines
        lines.finish()  # not after an exception: the last line would say that all is well
    left.end()


class Terminal:
    """`flexsearch.runs.progress.Progress` on stderr."""

    def __init__(self) -> None:
        self._left = TimeLeft()

    def expect(self, work: Mapping[str, float]) -> None:
        self._left.expect(work)

    def stage(self, label: str, total: int, unit: str = "steps", done: int = 0) -> AbstractContextManager[Stage]:
        return stage(label, total, unit, done, left=self._left)

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

    def __init__(self, label: str, total: int, unit: str, done: int, stream: TextIO, left: TimeLeft) -> None:
        """`left` has begun the stage."""
        self._label, self._total, self._unit, self._done, self._stream = label, total, unit, done, stream
        self._left, self._last_line = left, left.clock()
        self._note = ""
        self.say(f"{label}: {total - done} of {total} {unit} to do" if done else f"{label}: {total} {unit}")

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        self._note = note or self._note
        now, seconds = self._left.clock(), self._left.seconds(self._done)
        if now - self._last_line >= LINE_EVERY_S and self._done < self._total and seconds is not None:
            self._last_line = now
            self._progress(f"{duration(seconds)} left")

    def say(self, message: str) -> None:
        self._stream.write(f"{datetime.now():%H:%M:%S} {message}\n")
        self._stream.flush()

    def finish(self) -> None:
        self._progress(f"took {duration(self._left.elapsed)}")

    def _progress(self, time_note: str) -> None:
        note = f", {self._note}" if self._note else ""
        self.say(f"{self._label}: {self._done}/{self._total} {self._unit}, {time_note}{note}")


@contextlib.contextmanager
def _bar(label: str, total: int, unit: str, done: int, stream: TextIO, left: TimeLeft) -> Iterator[Stage]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

    console = Console(file=stream)
    wide = console.width >= WIDE  # a narrow terminal has room for the figures alone
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), MofNCompleteColumn()]
    if wide:
        columns = [columns[0], BarColumn(), columns[1], TextColumn(f"{unit},", markup=False)]
    columns.append(TextColumn("{task.fields[left]}", markup=False))
    if wide:
        columns.append(TextColumn("{task.fields[note]}", markup=False))
    shown = label if wide else label[: console.width - 2 * len(str(total)) - 18]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(shown, total=total, completed=done, note="", left="")

        class Bar:
            def advance(self, count: int = 1, note: str = "") -> None:
                nonlocal done
                done += count
                seconds = left.seconds(done)
                if note:
                    progress.update(task, note=note)
                if seconds is not None:
                    progress.update(task, left=f"{duration(seconds)} left")
                progress.advance(task, count)

            def say(self, message: str) -> None:
                progress.console.print(message, markup=False, highlight=False)

        yield Bar()
