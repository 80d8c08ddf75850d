"""The rules of single values: texts, whole and real numbers, choices. Each returns the value in its one stored form.

Every check takes the value's place first and raises ScheduleError. The published JSON Schema states the same rules
(`schedules/schema/`, compared in tests/unit/test_schema.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from .errors import ScheduleError

Key = TypeVar("Key", int, str)

MAX_STEPS = 1000  # the training timesteps of every model served; also bounds what a tiny hostile file can unfold to
MAX_BRANCHES = 64
MAX_BLOCKS = 1000
FINGERPRINT = 16  # numbers of one
MAX_WEIGHTS = 16  # of one step: more outputs than any solver reads
MAX_WEIGHT = 1000.0  # magnitude; those of usual solvers are below 10
MAX_COUNT = 2**53 - 1  # the largest whole number that every JSON reader keeps exactly
MAX_SEED = 2**63 - 1
MAX_DEPTH = 8  # of a whole file; `extra` is the second level of it

# Control and line-separating characters, direction overrides (a name must not be able to disguise itself in a list)
# and halves of surrogate pairs, which have no UTF-8. Tab and newline are additionally allowed in long texts.
# Compiled by `re` when first used: importing the core stays free.
_UNPRINTABLE = "[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
_UNPRINTABLE_LONG = "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
_NOT_IDENTIFIER = "[^A-Za-z0-9_.-]"


def shown(value: object) -> str:
    """A value as an error message shows it: in Python's spelling, ASCII only, cut to 60 characters."""
    if isinstance(value, str):
        value = value[:80]  # never spell out a megabyte
    elif isinstance(value, Mapping):
        return f"an object of {len(value)} keys"
    elif isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    elif value is None:
        return "null"
    elif isinstance(value, bool):
        return "true" if value else "false"
    elif isinstance(value, int) and abs(value) >= 10**40:
        return "a whole number of more than 40 digits"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def text(place: str, value: object, limit: int, *, empty: bool = False, lines: bool = False) -> str:
    """A text of at most `limit` characters without control characters; `lines` allows tabs and line ends."""
    if not isinstance(value, str):
        raise ScheduleError(place, f"{shown(value)} is not a text", 'Write a text in quotes, such as "sd15"')
    if not value and not empty:
        raise ScheduleError(place, "the text is empty", "Write at least one character")
    if len(value) > limit:
        raise ScheduleError(place, f"{shown(value)} has {len(value)} characters", f"Shorten it to at most {limit}")
    bad = re.search(_UNPRINTABLE_LONG if lines else _UNPRINTABLE, value)
    if bad:
        raise ScheduleError(
            place,
            f"{shown(value)} contains the character U+{ord(bad.group()):04X}",
            "Take out characters that cannot be seen",
        )
    return value


def _key(name: str) -> str:
    """A key as a place names it: in Python's spelling where a terminal may not know all of its characters."""
    return name if name.isprintable() else ascii(name)[1:-1]


def identifier(place: str, value: object, limit: int) -> str:
    """A text of ASCII letters, digits and `_ . -`."""
    value = text(place, value, limit)
    if re.search(_NOT_IDENTIFIER, value):
        raise ScheduleError(place, f"{shown(value)} is not a plain name", "Use only letters, digits and _ . -")
    return value


def one_of(place: str, value: object, allowed: Sequence[str]) -> str:
    """One of the `allowed` texts."""
    if not isinstance(value, str) or value not in allowed:
        raise ScheduleError(place, f"{shown(value)} is not known here", f"Use one of: {', '.join(allowed)}")
    return value


def whole(place: str, value: object, low: int, high: int) -> int:
    """A whole number in low..high. 5.0 is 5, as in JSON Schema; true is no number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ScheduleError(
            place, f"{shown(value)} is not a whole number", f"Write a whole number from {low} to {high}"
        )
    if not low <= value <= high:
        raise ScheduleError(
            place, f"{shown(value)} is outside {low} to {high}", f"Write a whole number from {low} to {high}"
        )
    return value


def real(place: str, value: object, *, low: float | None = None, above: float | None = None) -> float:
    """A finite number, at least `low` and greater than `above` where given."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ScheduleError(place, f"{shown(value)} is not a number", "Write a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ScheduleError(place, f"{shown(value)} is not a finite number", "Write a finite number")
    if low is not None and number < low:
        raise ScheduleError(place, f"{shown(value)} is less than {low:g}", f"Write a number of at least {low:g}")
    if above is not None and number <= above:
        raise ScheduleError(
            place, f"{shown(value)} is not greater than {above:g}", f"Write a number greater than {above:g}"
        )
    return number


def listing(place: str, value: object, low: int = 0, high: int = MAX_STEPS) -> tuple[Any, ...]:
    """A list or tuple of low..high entries, as a tuple."""
    if not isinstance(value, (list, tuple)):
        raise ScheduleError(place, f"{shown(value)} is not a list", "Write a list in square brackets")
    if not low <= len(value) <= high:
        raise ScheduleError(
            place,
            f"the list has {len(value)} {'entry' if len(value) == 1 else 'entries'}",
            f"Give {low}" if low == high else f"Give {low} to {high}",
        )
    return tuple(value)


def descending(place: str, sigmas: Sequence[float], entry: str = "") -> None:
    """Refuses noise levels that do not fall strictly; `entry` follows the index in the place (`.sigma`)."""
    for i in range(1, len(sigmas)):
        if sigmas[i] >= sigmas[i - 1]:
            raise ScheduleError(
                f"{place}[{i}]{entry}",
                f"{sigmas[i]!r} is not below the level before it, {sigmas[i - 1]!r}",
                "List noise levels strictly falling, without repeats",
            )


def instance(place: str, values: Sequence[object], *types: type) -> None:
    """Refuses any of `values` that is not of one of the classes; a mistake in code, never in a file."""
    for i, value in enumerate(values):
        if not isinstance(value, types):
            names = " or ".join(kind.__name__ for kind in types)
            raise ScheduleError(place, f"entry {i} is a {type(value).__name__}", f"Give a {names}")


def store(instance: object, name: str, value: object) -> None:
    """Puts a checked value in its one form into a frozen dataclass; only for `__post_init__`."""
    object.__setattr__(instance, name, value)


class FrozenMapping(Mapping[Key, Any]):
    """A read-only mapping that can be hashed, in the order of its keys."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[Key, Any]) -> None:
        self._items: dict[Key, Any] = {key: items[key] for key in sorted(items)}

    def __getitem__(self, key: Key) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[type[FrozenMapping[Key]], tuple[dict[Key, Any]]]:
        return FrozenMapping, (self._items,)


def frozen(place: str, value: object, depth: int = 2) -> Any:
    """Any JSON value with its objects as FrozenMapping and its lists as tuples; `depth` is its own level."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(place, value, 65536, empty=True, lines=True)
    if isinstance(value, int):
        if abs(value) >= 10**40:
            raise ScheduleError(place, f"{shown(value)} is too long", "Write it as a text or as a rounded number")
        return value
    if isinstance(value, float):
        return real(place, value)
    if isinstance(value, (Mapping, list, tuple)) and depth > MAX_DEPTH:
        raise ScheduleError(
            place, f"lies {depth} levels deep", f"Nest at most {MAX_DEPTH} levels, the file itself being the first"
        )
    if isinstance(value, Mapping):
        for key in value:
            text(f"{place} key", key, 200, empty=True)
        return FrozenMapping({key: frozen(f"{place}.{_key(key)}", value[key], depth + 1) for key in value})
    if isinstance(value, (list, tuple)):
        return tuple(frozen(f"{place}[{i}]", value[i], depth + 1) for i in range(len(value)))
    raise ScheduleError(
        place, f"{shown(value)} is no JSON value", "Use objects, lists, texts, numbers, true, false and null"
    )
