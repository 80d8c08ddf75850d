"""Finds schedule files: the bundled ones, the user's own, a host's folders. A broken file is reported, never fatal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .codec import read
from .errors import ScheduleError
from .schedule import Schedule

UNLISTED = "the folder cannot be listed"  # how the problem of such a folder begins
OVERRIDE = "FLEXIFFUSION_PRESETS"  # environment: folders to search instead of the user's own, separated as in PATH

_log = logging.getLogger("flexiffusion")


@dataclass(frozen=True, slots=True)
class Preset:
    """A schedule and the file that it was read from."""

    path: Path
    schedule: Schedule


def bundled_folder() -> Path:
    """The shared presets: inside the package where a wheel put them, else beside it in the source tree."""
    inside = Path(__file__).resolve().parent / "schedules"
    return inside if inside.is_dir() else inside.parent.parent / "schedules"


def user_folder(environment: Mapping[str, str] | None = None, platform: str = sys.platform) -> Path:
    """Where this user keeps schedules, by the platform's rule; nothing is created.

    Linux: $XDG_DATA_HOME or ~/.local/share (XDG Base Directory 0.8: relative values are ignored); macOS:
    ~/Library/Application Support; Windows: %APPDATA%. Then flexiffusion/schedules.
    """
    variables = os.environ if environment is None else environment
    if platform == "win32":
        base = Path(variables.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        stated = variables.get("XDG_DATA_HOME", "")
        base = Path(stated) if os.path.isabs(stated) else Path.home() / ".local" / "share"
    return base / "flexiffusion" / "schedules"


def own_folders(environment: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Where this user's schedules belong, the first being where new ones are put; they need not be there yet.

    The folders of FLEXIFFUSION_PRESETS, or else `user_folder()`.
    """
    variables = os.environ if environment is None else environment
    stated = tuple(Path(folder) for folder in variables.get(OVERRIDE, "").split(os.pathsep) if folder)
    return stated or (user_folder(variables),)


def default_folders(environment: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """The bundled folder, then those of FLEXIFFUSION_PRESETS, or else the user's own if it exists."""
    variables = os.environ if environment is None else environment
    own = own_folders(variables)
    return (bundled_folder(), *(folder for folder in own if folder.is_dir() or variables.get(OVERRIDE)))


def find(
    folders: Iterable[str | os.PathLike[str]] | None = None,
) -> tuple[tuple[Preset, ...], tuple[ScheduleError, ...]]:
    """All schedules directly in `folders` (default: `default_folders()`), by folder and file name, and what is broken.

    Only regular files whose name ends in .json and does not begin with a dot are read. A folder that is named twice is
    searched once; one that cannot be listed is one of the errors.
    """
    presets: list[Preset] = []
    errors: list[ScheduleError] = []
    searched: set[str] = set()
    for folder in default_folders() if folders is None else folders:
        real = os.path.realpath(folder)
        if real in searched:
            continue
        searched.add(real)
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
        except OSError as error:
            place = os.fspath(folder)
            errors.append(ScheduleError(place, f"{UNLISTED} ({error.strerror})", "Check the path"))
            continue
        for name in names:
            if name.endswith(".json") and not name.startswith("."):
                path = Path(folder) / name
                try:
                    presets.append(Preset(path, read(path)))
                except ScheduleError as error:
                    errors.append(error)
    return tuple(presets), tuple(errors)


def by_name() -> dict[str, Preset]:
    """All presets by name, which is the file's without .json: the user's own before bundled ones of the same name.

    Also as `flexiffusion.presets()`. A file that is broken is left out, with a warning in the log.
    """
    found, errors = find()
    for error in errors:
        _log.warning("%s", error)
    return {preset.path.stem: preset for preset in found}


def named(name: str | os.PathLike[str]) -> Preset:
    """A preset by name, or by the path of its file: the user's own before bundled ones.

    Raises:
        ScheduleError: there is none of this name, or the file is refused.
    """
    text = os.fspath(name)
    if text.endswith(".json") or "/" in text or os.sep in text:
        return Preset(Path(text), read(text))
    folders = (*own_folders(), bundled_folder())
    known = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.json"))}
    if text not in known:
        raise ScheduleError(text, "there is no preset of this name", "See `flexsearch presets list`, or give a file")
    return Preset(known[text], read(known[text]))


def for_family(presets: Sequence[Preset], family: str) -> tuple[Preset, ...]:
    """The presets made for a model family, such as `sd15`, in their order."""
    return tuple(preset for preset in presets if preset.schedule.model.family == family)


class _Module(ModuleType):
    """This module, which is called as `flexiffusion.presets()`, too."""

    def __call__(self) -> dict[str, Preset]:
        return by_name()


sys.modules[__name__].__class__ = _Module
