"""A schedule file as a command gets it: a path, or - for standard input."""

from __future__ import annotations

import sys

from flexiffusion import codec
from flexiffusion.schedule import Schedule


def read_schedule(file: str) -> Schedule:
    """The schedule in `file`. Raises ScheduleError, also for a file that cannot be read."""
    if file != "-":
        return codec.read(file)
    # One byte more than a file may have: enough to refuse a longer one, without reading an endless stream.
    return codec.loads(sys.stdin.buffer.read(codec.MAX_BYTES + 1), "<stdin>")
