"""What SOURCE of `presets add` means, and the schedules that it holds.

Everything goes through the strict codec; nothing is executed, unpacked or followed: no symbolic links, no folders
below the one that is named, no names from the other side (`own_presets` makes its own).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from flexiffusion import codec
from flexiffusion.errors import FlexiffusionError, ScheduleError
from flexiffusion.schedule import Schedule
from flexsearch.errors import SourceError
from flexsearch.sharing import hub, png
from flexsearch.sharing.download import download

MAX_FILES = 500


@dataclass(frozen=True)
class Found:
    """A schedule, and exactly where it was: a path, an address, a file of a repository at a commit."""

    schedule: Schedule
    origin: str


@dataclass(frozen=True)
class Fetched:
    """What a source holds: good schedules, and an error for each file that was refused."""

    found: tuple[Found, ...]
    refused: tuple[FlexiffusionError, ...]


def fetch(source: str) -> Fetched:
    """All schedules of a file, a folder, an https address, a Hugging Face repository, or a PNG picture.

    Raises ScheduleError or SourceError where nothing can be read at all.
    """
    repository = hub.repository(source)
    if repository is not None:
        return _all(hub.files(repository))
    if "://" in source:
        data = download(source, png.MAX_BYTES if source.lower().endswith(".png") else codec.MAX_BYTES)
        return Fetched((Found(_schedule(data, source), source),), ())
    path = Path(source)
    if path.is_dir() and not path.is_symlink():
        return _all(_in_folder(path))
    return Fetched((Found(_schedule(_bytes(path), source), str(path.absolute())),), ())


def is_remote(source: str) -> bool:
    """Whether `fetch` asks the network for it."""
    return "://" in source or source.startswith("hf:")


def _all(files: list[tuple[str, bytes | SourceError]]) -> Fetched:
    found, refused = [], []
    for origin, data in files:
        try:
            if isinstance(data, SourceError):
                raise data
            found.append(Found(_schedule(data, origin), origin))
        except FlexiffusionError as error:
            refused.append(error)
    return Fetched(tuple(found), tuple(refused))


def _in_folder(folder: Path) -> list[tuple[str, bytes | SourceError]]:
    """The .json files directly in a folder; of a run's, or a shared repository's, those in its schedules/."""
    inside = folder / "schedules"
    place = inside if inside.is_dir() and not inside.is_symlink() else folder
    try:
        names = sorted(name for name in os.listdir(place) if name.endswith(".json") and not name.startswith("."))
    except OSError as error:
        raise SourceError(str(place), f"the folder cannot be listed ({error.strerror})", "Check the path") from error
    if not names:
        raise SourceError(str(place), "there is no .json file in it", "Give a schedule file, or a folder of them")
    if len(names) > MAX_FILES:
        raise SourceError(str(place), f"it has {len(names)} .json files", f"Give a folder with at most {MAX_FILES}")
    files: list[tuple[str, bytes | SourceError]] = []
    for name in names:
        origin = str((place / name).absolute())
        try:
            files.append((origin, _bytes(place / name)))
        except SourceError as error:
            files.append((origin, error))
    return files


def _bytes(path: Path) -> bytes:
    """At most as much of a regular file as can be taken. Raises SourceError, also for a symbolic link."""
    try:
        if path.is_symlink():
            raise SourceError(str(path), "it is a symbolic link", "Give the file that it points to")
        # Opened without following and without waiting, then asked what it is: nothing can be put in between.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SourceError(str(path), "it is no regular file", "Give a schedule file, or a folder of them")
            head = file.read(len(png.SIGNATURE))
            limit = png.MAX_BYTES if head == png.SIGNATURE else codec.MAX_BYTES
            return head + file.read(limit + 1 - len(head))
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        words = getattr(error, "strerror", None) or error
        raise SourceError(str(path), f"it cannot be read ({words})", "Check the path and its permissions") from error


def _schedule(data: bytes, place: str) -> Schedule:
    if data.startswith(png.SIGNATURE):
        return png.schedule_in(data, place)
    if data[:512].lstrip()[:1] == b"<":
        raise ScheduleError(place, "it is a web page, no schedule", "Give the address of the file itself (often: raw)")
    return codec.loads(data, place)
