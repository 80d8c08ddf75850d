"""Where the host finds schedules: `models/flexiffusion`, every folder of extra_model_paths.yaml, and the core's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..flexiffusion.codec import read
from ..flexiffusion.errors import ScheduleError
from ..flexiffusion.presets import Preset, bundled_folder, own_folders
from ..flexiffusion.schedule import Schedule

FOLDER = "flexiffusion"
_NO_SCHEDULES = ("schema",)  # folder of the bundled ones that holds the JSON Schema


def register() -> None:
    """Makes `flexiffusion` a folder of the host. extra_model_paths.yaml may have made it before: that stays."""
    _, extensions = folder_paths.folder_names_and_paths.setdefault(FOLDER, ([], set()))
    if hasattr(extensions, "add"):
        extensions.add(".json")
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER), is_default=True)
    # the user's own folders also where they are not there yet: `flexsearch presets add` may make them while we run
    for folder in dict.fromkeys((bundled_folder(), *own_folders())):
        folder_paths.add_model_folder_path(FOLDER, str(folder))


def names() -> list[str]:
    """Schedules by name, as they are told apart in a dropdown; subfolders of the user's are part of the name."""
    files = folder_paths.get_filename_list(FOLDER)
    return [name.removesuffix(".json") for name in files if Path(name).parts[0] not in _NO_SCHEDULES]


def path_of(name: str) -> Path:
    """The file behind a name, with ".json" (as workflows of 0.1 have it) or without. Raises ScheduleError."""
    path = folder_paths.get_full_path(FOLDER, name.removesuffix(".json") + ".json")
    if path is None:
        raise ScheduleError(
            name,
            f"there is no such schedule in {', '.join(folder_paths.get_folder_paths(FOLDER))}",
            "Put the file into one of these folders, or paste its text into `json`",
        )
    return Path(path)


def load(name: str) -> Schedule:
    """The schedule behind a name. Raises ScheduleError."""
    return read(path_of(name))


def readable() -> Iterator[tuple[str, Preset]]:
    """Every schedule that can be read, one by one, by its name. What cannot be is told when somebody picks it."""
    for name in names():
        try:
            path = path_of(name)
            yield name, Preset(path, read(path))
        except ScheduleError:
            continue


def presets() -> Iterator[Preset]:
    """Every schedule that can be read, one by one."""
    return (preset for _, preset in readable())
