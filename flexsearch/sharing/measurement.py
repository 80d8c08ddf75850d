"""What `verify` found on somebody's checkpoint, small enough to give away, and many of them put together.

A measurement has hashes, settings, errors with intervals, device and seconds. Nothing of it names a person, a path or a
prompt. It comes from strangers: it is read with the bounds of a schedule file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexiffusion import codec
from flexiffusion.schedule import Schedule
from flexiffusion.whole_file import whole_file
from flexsearch.errors import ConfigError

FORMAT, VERSION = "flexiffusion/measurement", 1
MAX_BYTES = 64 * 1024
EVIDENCE = "evidence"  # the key under a schedule's `extra`
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Measurement:
    """One schedule on one checkpoint.

    `schedule`: SHA-256 of the file without its evidence (`schedule_hash`); `checkpoint`: SHA-256 of the weights, or
    None; `error`: the latent error to the teacher (mean, low, high) of `images` images; `to_plain`: the paired ratio to
    fewer plain steps at its cost (ratio, low, high), None without any; `verdict`: as `verify` says it, or None;
    `speedup_macs`, `speedup_measured`: in multiply-adds and by the clock; `teacher_seconds`: of one image.
    """

    name: str
    schedule: str
    family: str
    checkpoint: str | None
    sampler: str
    steps: int
    guidance: float | None
    size: tuple[int, int]
    images: int
    seed: int
    error: tuple[float, float, float]
    to_plain: tuple[float, float, float] | None
    verdict: str | None
    speedup_macs: float
    speedup_measured: float | None
    teacher_seconds: float | None
    device: str
    dtype: str
    flexiffusion: str
    torch: str

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Evidence:
    """What the measurements of one schedule say together: spreads are (smallest, median, largest) over checkpoints."""

    name: str
    schedule: str
    checkpoints: int
    images: int
    error: tuple[float, float, float]
    to_plain: tuple[float, float, float] | None
    speedup_measured: tuple[float, float, float] | None
    verdicts: Mapping[str, int]
    devices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        fields = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("name", "schedule")}
        return {**fields, "devices": list(self.devices), "verdicts": dict(self.verdicts)}


def schedule_hash(schedule: Schedule) -> str:
    """SHA-256 of the canonical file without its evidence: gathering does not make another schedule of it."""
    extra = {key: value for key, value in schedule.extra.items() if key != EVIDENCE}
    return hashlib.sha256(codec.dumps(dataclasses.replace(schedule, extra=extra))).hexdigest()


def write(path: Path, measurement: Measurement) -> None:
    """Raises ConfigError where the file cannot be written."""
    try:
        with whole_file(path) as draft:
            draft.write_text(json.dumps(measurement.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--share {path}", f"it cannot be written ({error})", "Give another place") from error


def read(path: Path) -> Measurement:
    """Raises ConfigError for a file that is no measurement, naming the place, the value and the remedy."""
    place = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(place, f"it cannot be read ({error})", "Give files that verify --share wrote") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(place, f"it has more than {MAX_BYTES} bytes", "Give files that verify --share wrote")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(place, f"it is not JSON ({error})", "Give files that verify --share wrote") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(place, "it is not a measurement", "Give files that verify --share wrote")
    if document.get("version") != VERSION:
        version = f"version {document.get('version')!r}"
        raise ConfigError(place, f"{version} is not known here", f"Version {VERSION} is read: update flexiffusion")
    fields: dict[str, Any] = {name: document.get(name) for name in _CHECKS}
    if unknown := sorted(set(document) - {"format", "version", *_CHECKS}):
        raise ConfigError(f"{place}, {unknown[0]}", "the key is not known", "Give files as verify --share wrote them")
    for name, check in _CHECKS.items():
        if not check(fields[name]):
            shown = json.dumps(fields[name])[:60]
            raise ConfigError(f"{place}, {name}", f"{shown} is out of range", "Give files as verify --share wrote them")
    for name in ("size", "error", "to_plain"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return Measurement(**fields)


def gathered(measurements: Sequence[Measurement]) -> tuple[Evidence, ...]:
    """The evidence of each schedule, in the order of their names.

    A checkpoint counts once for a schedule: of several measurements the one of most images, then the last.
    """
    best: dict[tuple[str, str], Measurement] = {}
    for index, item in enumerate(measurements):
        key = (item.schedule, item.checkpoint or f"unnamed {index}")
        if key not in best or item.images >= best[key].images:
            best[key] = item
    groups: dict[str, list[Measurement]] = {}
    for item in best.values():
        groups.setdefault(item.schedule, []).append(item)
    return tuple(
        sorted((_evidence(group) for group in groups.values()), key=lambda found: (found.name, found.schedule))
    )


def with_evidence(schedule: Schedule, evidence: Evidence) -> Schedule:
    """The schedule with what was gathered under `extra.evidence`; what it had there before is replaced."""
    return dataclasses.replace(schedule, extra={**schedule.extra, EVIDENCE: evidence.to_dict()})


def _evidence(group: Sequence[Measurement]) -> Evidence:
    ratios = [item.to_plain[0] for item in group if item.to_plain is not None]
    speedups = [item.speedup_measured for item in group if item.speedup_measured is not None]
    words = [item.verdict for item in group if item.verdict is not None]
    return Evidence(
        name=group[0].name,
        schedule=group[0].schedule,
        checkpoints=len(group),
        images=sum(item.images for item in group),
        error=_spread([item.error[0] for item in group]),
        to_plain=_spread(ratios) if ratios else None,
        speedup_measured=_spread(speedups) if speedups else None,
        verdicts={word: words.count(word) for word in sorted(set(words))},
        devices=tuple(sorted({item.device for item in group})),
    )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def _number(value: object, low: float = 0.0, high: float = 1e9) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    )


def _whole(value: object, low: int = 0, high: int = 2**63) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def _hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_number, value)) and value[1] <= value[2]


def _or_none(check: Any) -> Any:
    return lambda value: value is None or check(value)


_CHECKS: dict[str, Any] = {
    "name": _text,
    "schedule": _hash,
    "family": _text,
    "checkpoint": _or_none(_hash),
    "sampler": _text,
    "steps": lambda value: _whole(value, 1, 100_000),
    "guidance": _or_none(lambda value: _number(value, -1000, 1000)),
    "size": lambda value: (
        isinstance(value, list) and len(value) == 2 and all(_whole(side, 1, 1 << 20) for side in value)
    ),
    "images": lambda value: _whole(value, 1, 10_000_000),
    "seed": _whole,
    "error": _interval,
    "to_plain": _or_none(_interval),
    "verdict": _or_none(lambda value: value in ("confirmed", "weaker", "refuted")),
    "speedup_macs": _number,
    "speedup_measured": _or_none(_number),
    "teacher_seconds": _or_none(_number),
    "device": _text,
    "dtype": _text,
    "flexiffusion": _text,
    "torch": _text,
}
