"""The published JSON Schema and the hand-written validation agree, on generated schedules and on damaged ones."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexiffusion import checks
from flexiffusion.codec import dumps, loads
from flexiffusion.errors import ScheduleError
from flexiffusion.metadata import ORIGINS, PREDICTIONS, Cost, Metric, ModelInfo, Provenance, Sampling
from flexiffusion.schedule import (
    FULL,
    PREDICTORS,
    SEGMENT_LAYOUTS,
    Action,
    NoiseKind,
    Schedule,
    Segment,
    SegmentsPlan,
    Step,
    StepsPlan,
    version_of,
)

ROOT = Path(__file__).parent.parent.parent
SCHEMAS = {
    version: json.loads((ROOT / "schedules" / "schema" / f"schedule-{version}.schema.json").read_text(encoding="utf-8"))
    for version in (1, 2)
}
VALIDATORS = {version: jsonschema.Draft202012Validator(schema) for version, schema in SCHEMAS.items()}

# The rules that JSON Schema cannot state, by how the hand-written validation words them. Each has its own bad file in
# tests/attacks (named here), and the schema's description lists them.
BEYOND_SCHEMA = {
    "segment-active-above-steps": r"more than the segment's \d+ steps",
    "branch-out-of-range": r"outside the model's \d+ branches",
    "segment-sum-not-steps": r"steps, but the segments have \d+ together",
    "segment-sum-not-levels": r"levels for segments of \d+ steps together",
    "segment-sum-huge": r"the segments have \d+ steps together",
    "levels-rising": r"is not below the level before it",
    "sigma-rising": r"is not below the level before it",
    "metric-interval-reversed": r"is above",
    "depth-9": r"nested more than 8 levels deep",
    "duplicate-key": r"is there twice",
    "weights-of-some-steps": r"other steps have weights",
    "weights-before-the-first-step": r"weights, but there are \d+ predictions so far",
    "noise-of-another-prediction": r"noise levels with prediction",
    "flow-sigma-above-1": r"is no noise level of a flow model",
    "number-5000-digits": r"characters",
}


def validator(document: object) -> jsonschema.Draft202012Validator:
    """Of the document's own version; the newest where it has none that is known."""
    version = document.get("version") if isinstance(document, dict) else None
    return VALIDATORS[1 if version == 1 else 2]


characters = st.characters(codec="utf-8").filter(lambda c: not re.search(checks._UNPRINTABLE, c))
texts = st.text(characters, min_size=1, max_size=20)
lines = st.text(characters | st.sampled_from("\n\t"), max_size=20)
names = st.text("abcXYZ019_.-", min_size=1, max_size=12)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
predictors = st.sampled_from(PREDICTORS)
drops = st.lists(names, max_size=3, unique=True).map(tuple)
extras = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | finite | lines,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def falling(low: int, high: int, noise: NoiseKind) -> st.SearchStrategy[list[float]]:
    level = positive if noise == "vp" else st.floats(min_value=0, max_value=1, exclude_min=True)
    return st.lists(level, min_size=low, max_size=high, unique=True).map(lambda values: sorted(values, reverse=True))


@st.composite
def segments(draw: st.DrawFn, branches: int) -> Segment:
    steps = draw(st.integers(1, 12))
    return Segment(steps, draw(st.integers(1, steps)), draw(st.integers(-1, branches - 1)), draw(predictors))


@st.composite
def weighted(draw: st.DrawFn, steps: list[Step]) -> list[Step]:
    """The steps with a solver of their own."""
    weight = st.floats(-1000, 1000)
    return [
        Step(step.sigma, step.action, tuple(draw(st.lists(weight, min_size=1, max_size=min(i + 1, 16)))))
        for i, step in enumerate(steps)
    ]


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule that the format allows (small ones)."""
    branches = draw(st.integers(1, 64))
    noise: NoiseKind = draw(st.sampled_from(["vp", "vp", "flow"]))
    plan: SegmentsPlan | StepsPlan
    levels = None
    if draw(st.booleans()):
        plan = SegmentsPlan(
            tuple(draw(st.lists(segments(branches), min_size=1, max_size=5))),
            draw(st.sampled_from(SEGMENT_LAYOUTS)),
            noise,
        )
        total = plan.total_steps
        if draw(st.booleans()):
            levels = tuple(draw(falling(total, total, noise)))
    else:
        total = draw(st.integers(1, 1000))
        partial = st.builds(Action, st.just("partial"), st.integers(-1, branches - 1), predictors, drops)
        action = st.just(FULL) | st.builds(Action, st.just("full"), drop=drops) | partial
        sigmas = draw(falling(1, 6, noise))
        first = Action("full", drop=draw(drops))
        steps = [Step(sigma, draw(action) if i else first) for i, sigma in enumerate(sigmas)]
        plan = StepsPlan(tuple(draw(weighted(steps)) if draw(st.booleans()) else steps), noise)
    intervals = st.tuples(finite, finite).map(lambda ends: (min(ends), max(ends)))
    metric = st.builds(
        Metric, names, finite, st.integers(1, 10**6), st.none() | texts, st.none() | texts, st.none() | intervals
    )
    origin = draw(st.sampled_from(ORIGINS))
    return Schedule(
        name=draw(texts),
        model=ModelInfo(
            draw(names),
            branches,
            draw(st.none() | st.text("0123456789abcdef", min_size=64, max_size=64)),
            draw(st.none() | st.integers(1, 1000)),
            draw(st.none() | st.tuples(*[st.floats(-1, 1)] * 16)),
        ),
        sampling=Sampling(
            draw(st.none() | texts),
            draw(st.none() | texts),
            total,
            draw(st.none() | st.floats(0, 100)),
            draw(st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096))),
            draw(st.none() | st.sampled_from([kind for kind in PREDICTIONS if (kind == "flow") == (noise == "flow")])),
        ),
        plan=plan,
        description=draw(lines),
        author=draw(st.just("") | texts),
        license=draw(texts),
        levels=levels,
        metrics=tuple(draw(st.lists(metric, max_size=2))),
        cost=draw(
            st.none()
            | st.builds(Cost, st.none() | positive, st.none() | positive, st.dictionaries(texts, positive, max_size=2))
        ),
        provenance=Provenance(
            origin,
            draw(st.none() | texts),
            draw(st.none() | st.integers(0, 2**63 - 1)),
            draw(st.none() | st.integers(0, 10**6)) if origin == "searched" else None,
        ),
        extra=draw(st.dictionaries(texts, extras, max_size=2).filter(lambda extra: depth(extra) <= 7)),
    )


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@pytest.mark.parametrize("version", SCHEMAS)
def test_the_schema_is_one(version: int) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[version])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(schedules())
def test_generated_schedules_round_trip_and_fit_the_schema(schedule: Schedule) -> None:
    data = dumps(schedule)
    again = loads(data)
    assert again == schedule and hash(again) == hash(schedule)
    assert dumps(again) == data
    document = json.loads(data)
    validator(document).validate(document)
    assert document["version"] == version_of(schedule)


# What a mutation puts in place of a value: of every type, at and beyond the limits.
STRANGE: list[Any] = [
    None, True, False, 0, 1, 2, -1, -2, 1.0, 2.5, -0.0, 1e-300, 1e300, 64, 65, 1000, 1001, 2**53, 2**63, 10**30,
    "", "full", "partial", "null", "segments", "steps", "even", "linear", "searched", "heuristic", "sample",
    "flow", "vp", "a\n",
    "a\tb", "\u202e", "\x7f", "ü", "x" * 64, "x" * 65, "f" * 64, "F" * 64, "f" * 64 + "\n", "x" * 201, "x" * 2001,
    [], [1], [2, 1], [1, 2], [1.5, "a"], ["a", "a"], ["a", "b"], [None], {}, {"a": 1},
    {"": 2}, {"x" * 201: 1}, {"a\n": 1},
    {"sigma": 1, "do": "full"}, {"sigma": 1, "do": "partial", "branch": 0}, {"steps": 2, "active": 1, "branch": 0},
    {"kind": "steps", "steps": [{"sigma": 2, "do": "full"}]},
    {"kind": "segments", "segments": [{"steps": 3, "active": 1, "branch": 0}]},
]  # fmt: skip


ADDED = [
    "branch", "predictor", "drop", "levels", "layout", "steps", "note", "weights", "noise", "blocks", "fingerprint",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """The document of a valid schedule after one to three mutations anywhere below `format` and `version`."""
    document: dict[str, Any] = json.loads(dumps(draw(schedules())))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        node: Any = document
        keys = [key for key in reversed(document) if key not in ("format", "version")] or list(document)
        while True:
            last = draw(st.sampled_from(keys)) if keys else None
            inner = node[last] if keys else None
            if not (isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 4))):
                break
            node, keys = inner, list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if last is None:
            continue
        alike = [value for value in STRANGE if type(value) is type(inner)] or STRANGE
        value = copy.deepcopy(draw(st.sampled_from(alike) | st.sampled_from(alike) | st.sampled_from(STRANGE)))
        how = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add", "repeat", "empty"]))
        if how == "delete":
            del node[last]
        elif how == "empty" and isinstance(inner, (dict, list)):
            inner.clear()
        elif how in ("add", "repeat") and isinstance(node, list):
            node.insert(last, copy.deepcopy(inner) if how == "repeat" else value)
        elif how == "add":
            node[draw(st.sampled_from(ADDED))] = value
        else:
            node[last] = value
    return document


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(damaged())
def test_damaged_documents_are_accepted_by_both_or_refused_by_both(document: dict[str, Any]) -> None:
    try:
        schedule = loads(json.dumps(document).encode())
    except ScheduleError as error:
        beyond = any(re.search(rule, error.problem) for rule in BEYOND_SCHEMA.values())
        assert beyond or not validator(document).is_valid(document), (
            f"only the hand-written validation refuses: {error}"
        )
    else:
        validator(document).validate(document)
        assert loads(dumps(schedule)) == schedule


def attack(path: Path) -> object:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return ...  # no JSON at all, or not for everybody


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "attacks").glob("*.json")), ids=lambda path: path.stem)
def test_the_schema_refuses_every_attack_that_it_can_see(path: Path) -> None:
    document = attack(path)
    invisible = {"size-over-64-kb", "bom-utf-8", "branch-out-of-range-step", "sigma-repeated", *BEYOND_SCHEMA}
    invisible |= {name for name in ("duplicate-key-nested", "duplicate-key-escaped", "duplicate-key-extra")}
    invisible |= {"number-nan", "number-infinity", "number-minus-infinity", "number-1e999", "number-1e999-extra"}
    invisible |= {"weight-nan", "flow-level-above-1"}
    invisible |= {"number-5000-digits-real"}  # what Python makes of these numbers is not what the file says
    if document is not ... and path.stem not in invisible:
        assert not validator(document).is_valid(document)


@pytest.mark.parametrize("name", sorted(BEYOND_SCHEMA))
def test_every_exception_is_a_rule_with_a_file_of_its_own(name: str) -> None:
    data = (ROOT / "tests" / "attacks" / f"{name}.json").read_bytes()
    with pytest.raises(ScheduleError) as caught:
        loads(data)
    assert re.search(BEYOND_SCHEMA[name], caught.value.problem)
    if not name.startswith("number"):
        document = json.loads(data)
        validator(document).validate(document)
