"""Bytes <-> Schedule: bounded, strict, canonical. A file is data only and safe to take from a stranger.

Refused before anything is built: more than 64 KB, more than 8 levels, a byte-order mark, invalid UTF-8, duplicate keys,
NaN, Infinity, numbers out of range or absurdly long. What is written is canonical: equal schedules give equal bytes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .checks import MAX_DEPTH, shown
from .errors import ScheduleError
from .schedule import Schedule, SegmentsPlan, version_of
from .validation import FORMAT, schedule_from
from .whole_file import whole_file

MAX_BYTES = 64 * 1024
PNG_KEY = "flexiffusion"  # of the text chunk in which our own pictures carry a whole schedule file
MAX_INTEGER = 40  # characters of a whole number; Python's own limit of 4300 digits would still cost and confuse
MAX_REAL = 64  # characters; 17 digits say everything about a double

# A text (closed or not: never tried again from its middle, so the scan stays linear) or a bracket.
_TOKEN = r'(?s:"(?:[^"\\]+|\\.)*"?|[][{}])'
_PLAIN_KEY = r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z"


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands in the parsed document where something was refused, so that its JSON path can be told."""

    problem: str
    remedy: str


def loads(data: bytes, place: str = "<bytes>") -> Schedule:
    """The schedule that `data` holds.

    place: what the errors call the source, such as the file's path; JSON paths follow it (`a.json: $.plan.layout`).
    Raises ScheduleError, and VersionError for a file of a newer format.
    """
    return schedule_from(_parsed(data, place), f"{place}: $")


def dumps(schedule: Schedule) -> bytes:
    """The canonical file of a schedule: keys in fixed order, shortest numbers, a segment or step a line, LF at the end.

    Raises ScheduleError when it would be larger than any reader takes.
    """
    data = _file(schedule).encode()
    if len(data) > MAX_BYTES:
        raise ScheduleError(
            schedule.name, f"the file would have {len(data)} bytes", f"Keep it within {MAX_BYTES}: shorten extra"
        )
    return data


def read(path: str | os.PathLike[str]) -> Schedule:
    """The schedule in a file. Raises ScheduleError, also when the file cannot be read."""
    place = os.fspath(path)
    try:
        if not Path(path).is_file():  # a pipe or device would block or never end
            raise ScheduleError(place, "there is no such regular file", "Check the path")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ScheduleError(
            place, f"the file cannot be read ({error})", "Check the path and its permissions"
        ) from error
    return loads(data, place)


def write(path: str | os.PathLike[str], schedule: Schedule) -> None:
    """Writes the canonical file; a reader sees the old file or the new one, never half of it. Raises OSError."""
    data = dumps(schedule)
    with whole_file(Path(path)) as draft:
        draft.write_bytes(data)


def _parsed(data: bytes, place: str) -> Any:
    """The JSON document in `data`, free of everything that JSON readers disagree on."""
    if len(data) > MAX_BYTES:
        raise ScheduleError(
            place, f"more than {MAX_BYTES} bytes", "A schedule has a few thousand: give a schedule file"
        )
    if not data.strip():
        raise ScheduleError(place, "the file is empty", "Give a schedule file")
    for mark, name in ((b"\xef\xbb\xbf", "UTF-8"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if data.startswith(mark):
            raise ScheduleError(
                f"{place}: byte 0", f"a {name} byte-order mark, {mark.hex(' ')}", "Save the file as UTF-8 without BOM"
            )
    try:
        source = data.decode()
    except UnicodeDecodeError as error:
        raise ScheduleError(
            f"{place}: byte {error.start}",
            f"0x{data[error.start]:02x} is not valid UTF-8 here",
            "Save the file as UTF-8",
        ) from None
    _check_depth(source, place)
    try:
        document = json.loads(
            source, object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        where = f"{place}: line {error.lineno} column {error.colno}"
        found = shown(source[error.pos : error.pos + 20]) if error.pos < len(source) else "the end of the file"
        raise ScheduleError(
            where, f"not JSON: {error.msg.removesuffix(' at')} at {found}", "Correct the text there"
        ) from None
    _check_refused(document, f"{place}: $")
    return document


def _check_depth(source: str, place: str) -> None:
    """Before parsing, which recurses: brackets outside of texts nest at most MAX_DEPTH deep."""
    depth = 0
    for token in re.finditer(_TOKEN, source):
        if token.group()[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                line = source.count("\n", 0, token.start()) + 1
                column = token.start() - source.rfind("\n", 0, token.start())
                raise ScheduleError(
                    f"{place}: line {line} column {column}",
                    f"nested more than {MAX_DEPTH} levels deep",
                    f"Nest at most {MAX_DEPTH} levels, the file itself being the first",
                )
        elif token.group()[0] in "]}":
            depth -= 1


def _check_refused(value: object, path: str) -> None:
    if isinstance(value, _Refused):
        raise ScheduleError(path, value.problem, value.remedy)
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_refused(entry, f"{path}.{key}" if re.match(_PLAIN_KEY, key) else f"{path}[{shown(key)}]")
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            _check_refused(entry, f"{path}[{i}]")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        repeated = key in result
        result[key] = _Refused(f"the key {shown(key)} is there twice", "Keep one of them") if repeated else value
    return result


def _integer(literal: str) -> int | _Refused:
    if len(literal) > MAX_INTEGER:
        return _Refused(f"{literal[:20]}... has {len(literal)} characters", f"Write at most {MAX_INTEGER}")
    return int(literal)


def _real(literal: str) -> float | _Refused:
    if len(literal) > MAX_REAL:
        return _Refused(f"{literal[:20]}... has {len(literal)} characters", f"Write at most {MAX_REAL}")
    value = float(literal)
    return (
        value if math.isfinite(value) else _Refused(f"{literal} is too large", "Write a number that a double can hold")
    )


def _constant(literal: str) -> _Refused:
    return _Refused(f"{literal} is not JSON", "Write a finite number, or null where nothing is known")


def _file(s: Schedule) -> str:
    facts: dict[str, Any] = {
        "format": FORMAT,
        "version": version_of(s),
        "name": s.name,
        "description": s.description,
        "author": s.author,
        "license": s.license,
        "model": {
            "family": s.model.family,
            "branches": s.model.branches,
            **({} if s.model.blocks is None else {"blocks": s.model.blocks}),
            "sha256": s.model.sha256,
            **({} if s.model.fingerprint is None else {"fingerprint": s.model.fingerprint}),
        },
        "sampling": {
            key: getattr(s.sampling, key) for key in ("sampler", "scheduler", "steps", "cfg", "size", "prediction")
        },
    }
    lines = [f"{_line(key)}: {_line(facts[key])}" for key in facts]
    lines.append(f'"plan": {_plan(s)}')
    lines.append(f'"levels": {_line(s.levels)}')
    metrics = [
        _line({key: getattr(metric, key) for key in ("name", "value", "n", "features", "reference", "interval")})
        for metric in s.metrics
    ]
    lines.append(f'"metrics": {_rows(metrics)}')
    cost = s.cost and {"macs": s.cost.macs, "speedup_macs": s.cost.speedup_macs, "ms": s.cost.ms}
    lines.append(f'"cost": {_line(cost)}')
    origin = {key: getattr(s.provenance, key) for key in ("kind", "tool", "seed", "evaluations")}
    lines.append(f'"provenance": {_line(origin)}')
    lines.append(f'"extra": {_line(s.extra)}')
    return "{\n  " + ",\n  ".join(lines) + "\n}\n"


def _plan(schedule: Schedule) -> str:
    noise = "" if schedule.plan.noise == "vp" else f'"noise": {_line(schedule.plan.noise)}, '
    if isinstance(schedule.plan, SegmentsPlan):
        rows = [
            _line({"steps": seg.steps, "active": seg.active, "branch": seg.branch, "predictor": seg.predictor})
            for seg in schedule.plan.segments
        ]
        layout = _line(schedule.plan.layout)
        return f'{{"kind": "segments", "layout": {layout}, {noise}"segments": {_rows(rows)}}}'
    rows = []
    for step in schedule.plan.steps:
        entry: dict[str, Any] = {"sigma": step.sigma, "do": step.action.kind}
        if step.action.kind == "partial":
            entry.update(branch=step.action.branch, predictor=step.action.predictor)
        if step.action.drop:
            entry["drop"] = step.action.drop
        if step.weights:
            entry["weights"] = step.weights
        rows.append(_line(entry))
    return f'{{"kind": "steps", {noise}"steps": {_rows(rows)}}}'


def _rows(rows: list[str]) -> str:
    return "[\n    " + ",\n    ".join(rows) + "\n  ]" if rows else "[]"


def _line(value: object) -> str:
    """A JSON value on one line."""
    if isinstance(value, float):
        return _shortest(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_line(key)}: {_line(value[key])}" for key in value) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_line(entry) for entry in value) + "]"
    if value is None or isinstance(value, (bool, int, str)):
        return json.dumps(value, ensure_ascii=False)
    _unwritable(value)


def _shortest(value: float) -> str:
    """The shortest decimal that reads back as the same double: 7, 0.1, 5.2e12."""
    if value == 0:
        return "0"  # -0 would read back as the whole number 0
    plain = repr(value)
    digits = next(text for text in (f"{value:.{n}e}" for n in range(17)) if float(text) == value)
    mantissa, exponent = digits.split("e")
    scientific = f"{mantissa}e{int(exponent)}"
    return min(plain[:-2] if plain.endswith(".0") else plain, scientific, key=len)


def _unwritable(value: object) -> NoReturn:
    raise TypeError(f"a {type(value).__name__} cannot stand in a schedule")  # the constructors let none through
