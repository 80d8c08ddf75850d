"""A parsed document -> Schedule: every key known, every value of its type and in its range, or one ScheduleError.

The rules of single values are the dataclasses' own (`schedule`, `metadata`); this module knows which keys an object
has and turns the places of their errors into JSON paths. The JSON Schema in `schedules/schema/` states the same for
editors; tests/unit/test_schema.py keeps the two together.

Format 2 adds weights of steps, noise levels of flow models, the number of a transformer's blocks and the fingerprint
of a checkpoint; a file that needs none of them is still written as format 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .checks import MAX_WEIGHTS, listing, one_of, shown, whole
from .errors import ScheduleError, VersionError
from .schedule import (
    Action,
    Cost,
    Metric,
    ModelInfo,
    Provenance,
    Sampling,
    Schedule,
    Segment,
    SegmentsPlan,
    Step,
    StepsPlan,
)

FORMAT = "flexiffusion/schedule"
VERSION = 2

Document = dict[str, Any]
Migrations = Mapping[int, Callable[[Document], Document]]


def _to_2(document: Document) -> Document:
    """All that format 1 says, format 2 says in the same way."""
    return document


# version -> function that makes a document of version + 1 from one of that version
MIGRATIONS: Migrations = {1: _to_2}


def migrated(document: Document, place: str, migrations: Migrations = MIGRATIONS, current: int = VERSION) -> Document:
    """The document at version `current`, one migration after the other.

    Raises VersionError for a newer or unknown version, ScheduleError for a document that is no schedule at all.
    """
    if document.get("format") != FORMAT:
        found = shown(document["format"]) if "format" in document else "missing"
        raise ScheduleError(
            f"{place}.format", f"the format is {found}", f'Give a schedule file: its format is "{FORMAT}"'
        )
    if "version" not in document:
        raise ScheduleError(f"{place}.version", "the version is missing", f"Write {current}")
    version = whole(f"{place}.version", document["version"], 1, 10**6)
    if version > current:
        raise VersionError(
            f"{place}.version",
            f"version {version} was made by a newer flexiffusion; this one reads up to {current}",
            "Update flexiffusion",
        )
    while version < current:
        if version not in migrations:
            raise VersionError(
                f"{place}.version", f"version {version} can no longer be read", "Export the schedule again"
            )
        document = migrations[version](document)
        version += 1
    return {**document, "version": version}


def schedule_from(document: object, place: str = "$") -> Schedule:
    """The Schedule of a parsed file; `place` is the JSON path of the document. Raises ScheduleError, VersionError."""
    if not isinstance(document, dict):
        raise ScheduleError(
            place, f"{shown(document)} is not an object", "Give a schedule file: one JSON object in braces"
        )
    required = ("format", "version", "name", "model", "sampling", "plan", "provenance")
    optional = ("description", "author", "license", "levels", "metrics", "cost", "extra")
    written, document = document.get("version"), migrated(document, place)
    fields = _fields(place, document, required, optional)
    for key in ("format", "version"):
        del fields[key]
    new = written != 1  # keys that format 1 does not have are as unknown there as any other
    fields["model"] = _built(
        f"{place}.model",
        ModelInfo,
        fields["model"],
        ("family", "branches"),
        ("sha256", "blocks", "fingerprint") if new else ("sha256",),
    )
    fields["sampling"] = _built(
        f"{place}.sampling",
        Sampling,
        fields["sampling"],
        ("sampler", "scheduler", "steps", "cfg", "size", "prediction"),
        (),
    )
    fields["plan"] = _plan(f"{place}.plan", fields["plan"], new)
    if "metrics" in fields:
        entries = listing(f"{place}.metrics", fields["metrics"], high=100)
        fields["metrics"] = tuple(
            _built(
                f"{place}.metrics[{i}]", Metric, entry, ("name", "value", "n"), ("features", "reference", "interval")
            )
            for i, entry in enumerate(entries)
        )
    if fields.get("cost") is not None:
        fields["cost"] = _built(f"{place}.cost", Cost, fields["cost"], (), ("macs", "speedup_macs", "ms"))
    fields["provenance"] = _built(
        f"{place}.provenance", Provenance, fields["provenance"], ("kind",), ("tool", "seed", "evaluations")
    )
    if fields["sampling"].prediction == "flow" and not new:
        raise ScheduleError(
            f"{place}.sampling.prediction",
            "format 1 knows no flow models",
            'Write "version": 2, and "noise" in the plan',
        )
    with _placed("Schedule", place):
        return Schedule(**fields)


def _plan(place: str, value: object, new: bool) -> SegmentsPlan | StepsPlan:
    if not isinstance(value, dict):
        raise ScheduleError(place, f"{shown(value)} is not an object", "Write an object in braces")
    if "kind" not in value:
        raise ScheduleError(f"{place}.kind", "the kind is missing", "Write one of: segments, steps")
    if one_of(f"{place}.kind", value["kind"], ("segments", "steps")) == "segments":
        fields = _fields(place, value, ("kind", "segments"), ("layout", "noise") if new else ("layout",))
        segments = tuple(
            _built(f"{place}.segments[{i}]", Segment, entry, ("steps", "active", "branch"), ("predictor",))
            for i, entry in enumerate(listing(f"{place}.segments", fields["segments"], low=1))
        )
        with _placed("SegmentsPlan", place):
            return SegmentsPlan(segments, fields.get("layout", "front"), fields.get("noise", "vp"))
    fields = _fields(place, value, ("kind", "steps"), ("noise",) if new else ())
    entries = listing(f"{place}.steps", fields["steps"], low=1)
    steps = tuple(_step(f"{place}.steps[{i}]", entry, ("weights",) if new else ()) for i, entry in enumerate(entries))
    with _placed("StepsPlan", place):
        return StepsPlan(steps, fields.get("noise", "vp"))


def _step(place: str, value: object, new: tuple[str, ...]) -> Step:
    if (
        isinstance(value, dict)
        and "do" in value
        and one_of(f"{place}.do", value["do"], ("full", "partial")) == "partial"
    ):
        fields = _fields(place, value, ("sigma", "do", "branch"), ("predictor", "drop", *new))
    else:
        for key in ("branch", "predictor"):
            if isinstance(value, dict) and key in value:
                raise ScheduleError(
                    f"{place}.{key}", f"a full step has no {key}", 'Leave it out, or write "do": "partial"'
                )
        fields = _fields(place, value, ("sigma", "do"), ("drop", *new))
    sigma = fields.pop("sigma")
    weights = listing(f"{place}.weights", fields.pop("weights"), 1, MAX_WEIGHTS) if "weights" in fields else ()
    fields["kind"] = fields.pop("do")
    with _placed("Action", place), _placed("Step", place):
        return Step(sigma, Action(**fields), weights)


def _fields(place: str, value: object, required: tuple[str, ...], optional: tuple[str, ...]) -> Document:
    """A copy of an object that has all `required` keys and none but these and the `optional` ones."""
    if not isinstance(value, dict):
        raise ScheduleError(place, f"{shown(value)} is not an object", "Write an object in braces")
    for key in value:
        if key not in required and key not in optional:
            known = ", ".join(required + optional)
            raise ScheduleError(
                place, f"the key {shown(key)} is not known", f"Keys here: {known}; anything else goes in $.extra"
            )
    for key in required:
        if key not in value:
            raise ScheduleError(
                place, f'the key "{key}" is missing', f"Add it; keys needed here: {', '.join(required)}"
            )
    return dict(value)


def _built(place: str, kind: type[Any], value: object, required: tuple[str, ...], optional: tuple[str, ...]) -> Any:
    fields = _fields(place, value, required, optional)
    with _placed(kind.__name__, place):
        return kind(**fields)


@contextmanager
def _placed(root: str, place: str) -> Iterator[None]:
    """Turns the place `Segment.active` of an error into `$.plan.segments[2].active`."""
    try:
        yield
    except ScheduleError as error:
        raise error.moved(f"{root}.", f"{place}.") from None
