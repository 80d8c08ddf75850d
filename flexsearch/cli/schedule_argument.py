"""A schedule file as a command gets it: a path, or - for standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from flexiffusion import codec
from flexiffusion.errors import ScheduleError
from flexiffusion.schedule import Schedule


def read_schedule(file: str, pictures: bool = True) -> Schedule:
    """The schedule in `file`; with `pictures` also the one that a PNG picture carries.

    Raises ScheduleError, also for a file that cannot be read.
    """
    if file != "-":
        return _carried(Path(file)) if pictures and file.lower().endswith(".png") else codec.read(file)
    # One byte more than a file may have: enough to refuse a longer one, without reading an endless stream.
    return codec.loads(sys.stdin.buffer.read(codec.MAX_BYTES + 1), "<stdin>")


def _carried(path: Path) -> Schedule:
    from flexsearch.sharing import png

    try:
        with path.open("rb") as file:
            data = file.read(png.MAX_BYTES + 1)
    except OSError as error:
        raise ScheduleError(str(path), f"cannot be read ({error.strerror})", "Check the path") from error
    return png.schedule_in(data, str(path))
