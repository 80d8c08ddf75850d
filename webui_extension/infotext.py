"""What is written into a picture and read back from it. Keys are a promise: a released one stays readable for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .settings import AUTO, BY_POSITION, SAME, Settings

SCHEDULE, HIRES, MAPPING, COMPARE = "Flexi schedule", "Flexi hires", "Flexi mapping", "Flexi compare"
RUN, HIRES_RUN = "Flexi run", "Flexi hires run"  # what was really run: written only
SPEEDUP = "Flexi speed-up"  # of "auto"
NOTE = "Flexi note"  # why a picture, or a pass of it, was made the plain way: written only
SEARCH = "Flexi search"  # what a search found; its picture has the found schedule's name: written only
KEYS = (SCHEDULE, HIRES, MAPPING, COMPARE, SPEEDUP, RUN, HIRES_RUN, NOTE, SEARCH)


def written(settings: Settings, schedule: str, hires: str) -> dict[str, str]:
    """The keys of one generation; only `SCHEDULE` where everything else has its default.

    schedule, hires: what brings them back: names, or the text of a schedule file in one line
    """
    keys = {SCHEDULE: schedule}
    if hires != SAME:
        keys[HIRES] = hires
    if settings.mapping != BY_POSITION:
        keys[MAPPING] = settings.mapping
    if settings.compare:
        keys[COMPARE] = str(True)
    if AUTO in (schedule, hires):
        keys[SPEEDUP] = f"{settings.speedup:g}"
    return keys


def read(parameters: Mapping[str, Any], field: str) -> Any:
    """The value of one setting in the parsed text of a picture; None: leave the control as it is.

    A picture made without a schedule turns the script off and leaves the other controls alone.
    """
    if field == "enabled":
        return SCHEDULE in parameters
    if SCHEDULE not in parameters:
        return None
    if field == "schedule":
        return parameters[SCHEDULE]
    if field == "hires":
        return parameters.get(HIRES, SAME)
    if field == "mapping":
        return parameters.get(MAPPING, BY_POSITION)
    if field == "speedup":
        return _number(parameters.get(SPEEDUP))
    if field == "search":
        return 0  # a picture never begins a search
    return parameters.get(COMPARE) == "True"


def _number(text: Any) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
