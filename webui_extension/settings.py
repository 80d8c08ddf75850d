"""The script's arguments: their order is a promise (API users send lists), new ones only ever come at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from flexiffusion.checks import shown
from flexiffusion.errors import FlexiffusionError
from flexiffusion.plan import LevelMapping
from flexiffusion.rule import FASTEST

AUTO = "auto"  # what `schedule` and `hires` can be besides a preset's name: the one that fits `speedup`
SAME, OFF = "same", "off"  # and `hires`
BY_POSITION, BY_LEVEL = "by position", "by noise level"
LONGEST = 600.0  # minutes of a search
MAPPINGS: dict[str, LevelMapping] = {BY_POSITION: "position", BY_LEVEL: "level"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What one generation is asked to do. The fields' order is the order of the script's arguments.

    schedule: name of a preset, or the text of a schedule file
    hires:    the same for the hires pass, or "same", or "off"
    mapping:  "by position" or "by noise level", see `flexiffusion.plan.plan_for`
    compare:  make the plain picture too and show both with seconds
    speedup:  1 to 4, of "auto" (`flexiffusion.auto`), and of a search
    search:   minutes of a search for a schedule, in the place of a picture with one; 0: none
    """

    enabled: bool = False
    schedule: str = AUTO
    hires: str = SAME
    mapping: str = BY_POSITION
    compare: bool = False
    speedup: float = 2.0
    search: float = 0.0

    @property
    def placement(self) -> LevelMapping:
        """The mapping's name in the core."""
        return MAPPINGS[self.mapping]


ARGUMENTS = tuple(field.name for field in fields(Settings))


def settings_of(arguments: Sequence[Any]) -> Settings:
    """The settings that a script argument list holds; what is missing has its default, what is too much is not read.

    Raises FlexiffusionError for a value of the wrong type and for an unknown mapping.
    """
    values: dict[str, Any] = {}
    for i, (field, value) in enumerate(zip(fields(Settings), arguments, strict=False)):
        wanted = type(field.default)
        if value is None:
            continue
        if wanted is bool:
            value = _switch(value)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, wanted):
            raise FlexiffusionError(
                f"Flexiffusion argument {i} ({field.name}): {shown(value)} is no {wanted.__name__}. "
                f"The arguments are {', '.join(ARGUMENTS)}"
            )
        values[field.name] = value
    mapping = values.get("mapping", "").strip() or BY_POSITION
    values["mapping"] = next((name for name, core in MAPPINGS.items() if mapping.lower() in (name, core)), mapping)
    if values["mapping"] not in MAPPINGS:
        raise FlexiffusionError(
            f"Flexiffusion argument 3 (mapping): {shown(mapping)} is not known. Use one of: {', '.join(MAPPINGS)}"
        )
    speedup = values.get("speedup", 1.0)
    if not 1 <= speedup <= FASTEST:
        raise FlexiffusionError(
            f"Flexiffusion argument 5 (speedup): {shown(speedup)} is outside 1 to {FASTEST:g}. Give 1 to {FASTEST:g}"
        )
    minutes = values.get("search", 0.0)
    if not 0 <= minutes <= LONGEST:
        raise FlexiffusionError(
            f"Flexiffusion argument 6 (search): {shown(minutes)} is outside 0 to {LONGEST:g} minutes. Give 0 for none"
        )
    hires = values.get("hires", "")
    word = hires.strip().lower() or SAME
    values["hires"] = word if word in (SAME, OFF, AUTO) else hires
    if values.get("schedule", "").strip().lower() == AUTO:
        values["schedule"] = AUTO
    return Settings(**values)


def _switch(value: Any) -> Any:
    """A yes or no as API clients write it: JSON's true, 1 or "true"; anything else is left for the caller to refuse."""
    word = value.strip().lower() if isinstance(value, str) else value
    return {"true": True, "false": False, 1: True, 0: False}.get(word, value) if isinstance(word, (str, int)) else value
