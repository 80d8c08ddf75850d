"""Random hostile bytes in every run of the tests; `python -m tools.fuzz` goes on for as long as you like."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools import fuzz

NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, 30, 1000])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=30) | st.sampled_from(["full", "partial", "segments"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=12,
)
GOOD = json.loads((fuzz.ROOT / "tests" / "golden" / "segments.json").read_text(encoding="utf-8"))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside."""
    if isinstance(value, dict):
        return [path, *(place for key in value for place in places(value[key], (*path, key)))]
    if isinstance(value, list):
        return [path, *(place for i, entry in enumerate(value) for place in places(entry, (*path, i)))]
    return [path]


PLACES = [path for path in places(GOOD) if path]


@given(st.binary(max_size=300))
@settings(max_examples=120, deadline=None)
def test_any_bytes(data: bytes) -> None:
    fuzz.check_codec(data)
    fuzz.check_png(data)


@given(VALUES)
@settings(max_examples=120, deadline=None)
def test_any_document(value: Any) -> None:
    fuzz.check_codec(json.dumps(value).encode())


@given(st.lists(st.tuples(st.sampled_from(PLACES), VALUES | st.just(...)), min_size=1, max_size=3))
@settings(max_examples=250, deadline=None)
def test_any_value_in_any_place_of_a_good_file(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    document = json.loads(json.dumps(GOOD))
    for path, value in changes:
        inside = document
        try:
            for key in path[:-1]:
                inside = inside[key]
            if value is ...:
                del inside[path[-1]]
            else:
                inside[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    fuzz.check_codec(json.dumps(document).encode())


def test_a_place_under_a_key_of_unassigned_characters_can_be_shown() -> None:
    """Such a key is accepted, and what is wrong below it was told with the key as it is."""
    document = GOOD | {"extra": {"\U00018d09": {"\x1f": None}}}
    assert not fuzz.check_codec(json.dumps(document).encode())


@pytest.mark.parametrize("target", ["codec", "png"])
def test_the_mutator_finds_nothing(target: str) -> None:
    check = fuzz.check_codec if target == "codec" else fuzz.check_png
    figures = fuzz.run_mutator(check, target, 3000, 20.0, 1)
    assert "none crashed" in figures


def test_the_mutator_sees_a_fault() -> None:
    def faulty(data: bytes) -> bool:
        if b"NaN" in data:
            raise KeyError("x")
        return False

    with pytest.raises(SystemExit):
        fuzz.run_mutator(faulty, "codec", 10_000, 20.0, 0)


def test_mutations_keep_some_files_good_and_break_others() -> None:
    stream, corpus = random.Random(0), fuzz.seeds("codec")
    outcomes = [fuzz.check_codec(fuzz.mutated(stream.choice(corpus), stream, corpus)) for _ in range(1000)]
    assert 15 < sum(outcomes) < 985
