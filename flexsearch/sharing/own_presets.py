"""The user's own presets: one folder that every host reads, and a note beside them of where each came from.

The folder is the first of `flexiffusion.presets.own_folders()`. File names are made here, from the schedule's name:
nothing that a stranger wrote becomes part of a path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from flexiffusion import codec, presets
from flexiffusion.schedule import Schedule
from flexiffusion.whole_file import whole_file
from flexsearch.errors import ConfigError

NOTES = ".sources"  # JSON, but without .json: hosts list every file with that ending
Added = Literal["added", "replaced", "there already"]

_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Note:
    """Where a preset came from: what was typed, where exactly it was, when, and the SHA-256 of the file as added."""

    source: str
    origin: str
    added: str
    sha256: str


def stem_of(name: str) -> str:
    """The file name, without .json, for a schedule's name: letters, digits and `._-`, a plain file on every system.

    Accents are taken off their letters: `über schnell` is `uber-schnell`.
    """
    plain = "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip(".-")[:100].rstrip(".-")
    if not stem or _WINDOWS.fullmatch(stem):
        return f"schedule-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return stem


class OwnPresets:
    """One folder of presets. Raises ConfigError where the folder cannot be used."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = presets.own_folders()[0] if folder is None else folder

    def add(self, schedule: Schedule, origin: str, source: str, replace: bool = False) -> tuple[Added, Path]:
        """Puts a schedule there, in its canonical form, and notes its origin.

        Raises ConfigError where another schedule has the name, in the folder (unless `replace`) or among those bundled.
        """
        stem, data = stem_of(schedule.name), codec.dumps(schedule)
        bundled = {path.stem.casefold(): path for path in presets.bundled_folder().glob("*.json")}
        if stem.casefold() in bundled:
            if bundled[stem.casefold()].read_bytes() == data:
                return "there already", bundled[stem.casefold()]
            raise ConfigError(schedule.name, "a bundled preset has this name", "Give it another with --name")
        with self._locked():
            present = {path.stem.casefold(): path for path in self.folder.glob("*.json")}
            path = present.get(stem.casefold(), self.folder / f"{stem}.json")
            if path.exists() and path.read_bytes() == data:
                return "there already", path
            outcome: Added = "replaced" if os.path.lexists(path) else "added"
            if outcome == "replaced" and not replace:
                raise ConfigError(
                    schedule.name, f"another schedule of this name is there, {path}", "Give --replace, or a --name"
                )
            codec.write(path, schedule)
            stamp = datetime.now(timezone.utc).isoformat(timespec="seconds")
            note = Note(source, origin, stamp, hashlib.sha256(data).hexdigest())
            self._write_notes({**self.notes(), path.stem: note})
        return outcome, path

    def remove(self, names: Sequence[str]) -> list[Path]:
        """Deletes presets of this folder, all or none. Raises ConfigError for a name that is not there."""
        # looked up among what is there, never put together: no name leads out of the folder
        paths = {path.stem: path for path in self.folder.glob("*.json")}
        for name in names:
            if name in paths:
                continue
            if name in {path.stem for path in presets.bundled_folder().glob("*.json")}:
                raise ConfigError(name, "it is bundled, and not yours to remove", "Leave it")
            known = ", ".join(sorted(paths)) or "none"
            raise ConfigError(name, f"there is no such preset in {self.folder}", f"There: {known}")
        with self._locked():
            for name in names:
                paths[name].unlink()
            self._write_notes({stem: note for stem, note in self.notes().items() if stem not in names})
        return [paths[name] for name in names]

    def notes(self) -> dict[str, Note]:
        """Where each preset came from, by file name without .json; {} where nothing was noted."""
        try:
            document = json.loads((self.folder / NOTES).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        keys = {field.name for field in dataclasses.fields(Note)}
        if not isinstance(document, dict):
            return {}
        return {stem: Note(**note) for stem, note in document.items() if _is_note(note, keys)}

    def schedule(self, name: str) -> Schedule:
        """A preset of this folder. Raises ScheduleError."""
        return codec.read(self.folder / f"{name}.json")

    def changed_here(self, name: str) -> bool:
        """Whether a preset was edited since it was added."""
        note = self.notes().get(name)
        path = self.folder / f"{name}.json"
        return note is not None and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != note.sha256

    def _write_notes(self, notes: Mapping[str, Note]) -> None:
        document = {stem: dataclasses.asdict(notes[stem]) for stem in sorted(notes)}
        with whole_file(self.folder / NOTES) as draft:
            draft.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=10):
                yield
        except (OSError, Timeout) as error:
            raise ConfigError(str(self.folder), f"it cannot be written ({error})", "Check its permissions") from error


def names() -> list[str]:
    """All preset names that `find` knows."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.json") if path.name[0] != "."})


def _folders() -> tuple[Path, ...]:
    """In the order of preference."""
    return (*presets.own_folders(), presets.bundled_folder())


def _is_note(note: Any, keys: set[str]) -> bool:
    return isinstance(note, dict) and set(note) == keys and all(isinstance(text, str) for text in note.values())
