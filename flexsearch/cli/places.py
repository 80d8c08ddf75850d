"""Places that a command will write to, looked at before it measures for minutes."""

from __future__ import annotations

import os
from pathlib import Path

from flexsearch.errors import ConfigError


def require_file(flag: str, path: Path) -> None:
    """Raises ConfigError where no file can be written at `path`: its folder is not there, or it may not."""
    if path.is_dir():
        raise ConfigError(f"{flag} {path}", "it cannot be written (it is a folder)", "Give a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{flag} {path}", f"it cannot be written (there is no folder {path.parent})", "Make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{flag} {path}", "it cannot be written (permission denied)", "Give another file")


def require_folder(flag: str, path: Path) -> None:
    """Raises ConfigError where `path` is no folder, and none can be made there."""
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise ConfigError(f"{flag} {path}", f"it cannot be written ({nearest} is no folder)", "Give another folder")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(
            f"{flag} {path}", f"it cannot be written ({nearest}: permission denied)", "Give another folder"
        )
