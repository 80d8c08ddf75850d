"""The schedules that a user can pick: bundled ones, the user's own, and those beside the host's models."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from flexiffusion import codec, presets
from flexiffusion.checks import shown
from flexiffusion.errors import FlexiffusionError, ScheduleError
from flexiffusion.presets import Preset
from flexiffusion.schedule import Schedule

from .settings import AUTO, OFF, SAME

NONE = "none"  # a cell of the X/Y/Z plot without a schedule
RESERVED = (NONE, SAME, OFF, AUTO)
_log = logging.getLogger("flexiffusion")


class Library:
    """Presets by name, which is the file's name without `.json`; in equal names the later folder wins.

    folders: to search; ones that do not exist are left out.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self.errors: tuple[ScheduleError, ...] = ()
        self._presets: dict[str, Preset] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads all files again. A broken one is logged and left out."""
        found, self.errors = presets.find(folder for folder in self._folders if folder.is_dir())
        self._presets = {preset.path.stem: preset for preset in found}
        for error in self.errors:
            _log.warning("%s", error)

    @property
    def presets(self) -> tuple[Preset, ...]:
        """Every preset, by folder and name."""
        return tuple(self._presets.values())

    def choices(self, family: str | None) -> list[str]:
        """What a dropdown lists: presets of this family, then the others with theirs in brackets; None: all alike."""
        ordered = sorted(self._presets.items(), key=lambda item: _natural(item[0]))
        names = {listed(name): preset.schedule.model.family for name, preset in ordered}
        if family is None:
            return list(names)
        others = [f"{name} [{made_for}]" for name, made_for in names.items() if made_for != family]
        return [name for name, made_for in names.items() if made_for == family] + others

    def refit(self, choice: str, family: str | None) -> str:
        """The choice after the model has changed: "auto", which fits every model, for a preset of another family."""
        name = self.name_of(choice)
        if choice == AUTO or name not in self._presets:
            return choice or AUTO
        made_for = self._presets[name].schedule.model.family
        if family is None or made_for == family:
            return listed(name)
        return AUTO

    def name_of(self, choice: str) -> str:
        """The preset's name that a dropdown's choice stands for; of an unknown one the choice itself.

        A name may hold whatever a file's name may: what is a name is taken for one before anything is taken off: spaces
        around it, the mark of a family that does not fit, ".json".
        """
        bare = choice.strip()
        unmarked = bare.rpartition(" [")[0].rstrip() if bare.endswith("]") else bare
        for wanted in (choice, bare, unmarked, unmarked.removesuffix(".json")):
            for name in self._presets:
                if wanted in (name, name.strip()):
                    return name
        return bare

    def is_text(self, choice: str) -> bool:
        """Whether a choice is the text of a schedule file, not a name."""
        return choice.lstrip().startswith("{") and self.name_of(choice) not in self._presets

    def schedule(self, choice: str) -> Schedule:
        """The schedule of a choice, a preset's name, or the text of a schedule file.

        Raises ScheduleError for a text that is no schedule, FlexiffusionError for an unknown name.
        """
        if self.is_text(choice):
            return codec.loads(choice.encode("utf-8", "surrogatepass"), "the schedule given as text")
        name = self.name_of(choice)
        if name and name not in self._presets:
            self.refresh()  # it may have been added since: an API call has no button for that
            name = self.name_of(choice)
        if name in self._presets:
            return self._presets[name].schedule
        if not name:
            raise FlexiffusionError("Flexiffusion: no schedule is chosen. Choose one in the dropdown")
        near = get_close_matches(name, self._presets, n=5, cutoff=0.5)
        remedy = f"Did you mean: {', '.join(near)}" if near else "Choose one in the dropdown"
        raise FlexiffusionError(f"Flexiffusion: there is no schedule {shown(name)}. {remedy}")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers in names as numbers: turns-6 before turns-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def listed(name: str) -> str:
    """A name as a dropdown lists it: one that would be taken for one of the other choices keeps its file's ending."""
    return f"{name}.json" if name.strip().lower() in RESERVED else name
