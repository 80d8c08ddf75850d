"""Every bad file of this folder is refused with its place, its value and what to do about it.

The files are made by `python -m tools.make_attacks`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flexiffusion.codec import loads, read
from flexiffusion.errors import ScheduleError, VersionError
from tools import make_attacks

FOLDER = Path(__file__).parent

# file -> end of the place, what the problem says (with the value), what the remedy says
EXPECTED = {
    "size-over-64-kb": ("", "more than 65536 bytes", "give a schedule file"),
    "empty": ("", "empty", "Give a schedule file"),
    "blank": ("", "empty", "Give a schedule file"),
    "bom-utf-8": (": byte 0", "UTF-8 byte-order mark, ef bb bf", "without BOM"),
    "bom-utf-16": (": byte 0", "UTF-16 byte-order mark, ff fe", "without BOM"),
    "utf-8-invalid": (": byte 66", "0xe4", "Save the file as UTF-8"),
    "null-character": (": line 4 column 14", "\\x00", "Correct the text"),
    "truncated": (": line 13 column 3", '"c', "Correct the text"),
    "trailing-data": (": line 68 column 1", "{}", "Correct the text"),
    "trailing-comma": ("", "not JSON", "Correct the text"),  # Python 3.13 points at the comma, others at the brace
    "comment": (": line 1 column 1", "// a schedule", "Correct the text"),
    "single-quotes": (": line 2 column 2", "'format'", "Correct the text"),
    "depth-9": (": line 67 column 19", "more than 8 levels", "Nest at most 8"),
    "depth-60000-open": (": line 1 column 9", "more than 8 levels", "Nest at most 8"),
    "depth-30000-behind-texts": (": line 67 column 33", "more than 8 levels", "Nest at most 8"),
    "duplicate-key": ("$.version", "'version' is there twice", "Keep one"),
    "duplicate-key-nested": ("$.plan.segments[0].steps", "'steps' is there twice", "Keep one"),
    "duplicate-key-escaped": ("$.plan.segments[0].steps", "'steps' is there twice", "Keep one"),
    "duplicate-key-extra": ("$.extra.a['b c']", "'b c' is there twice", "Keep one"),
    "number-nan": ("$.metrics[0].value", "NaN", "finite"),
    "number-infinity": ("$.sampling.cfg", "Infinity", "finite"),
    "number-minus-infinity": ("$.metrics[0].interval[0]", "-Infinity", "finite"),
    "number-1e999": ("$.cost.macs", "1e999", "that a double can hold"),
    "number-1e999-extra": ("$.extra.a[1]", "-1e999", "that a double can hold"),
    "number-5000-digits": ("$.sampling.steps", "99999999999999999999... has 5000 characters", "at most 40"),
    "number-5000-digits-real": ("$.sampling.cfg", "0.333333333333333333... has 5002 characters", "at most 64"),
    "not-an-object": (": $", "a list of 3", "one JSON object"),
    "not-an-object-text": (": $", "'flexiffusion/schedule' is not an object", "one JSON object"),
    "format-missing": ("$.format", "missing", '"flexiffusion/schedule"'),
    "format-other": ("$.format", "'flexiffusion/workflow'", '"flexiffusion/schedule"'),
    "version-future": ("$.version", "version 3 was made by a newer flexiffusion", "Update flexiffusion"),
    "version-missing": ("$.version", "missing", "Write 2"),
    "version-zero": ("$.version", "0 is outside", "whole number from 1"),
    "version-text": ("$.version", "'1' is not a whole number", "whole number from 1"),
    "version-true": ("$.version", "true is not a whole number", "whole number from 1"),
    "key-unknown": (": $", "'run' is not known", "anything else goes in $.extra"),
    "key-unknown-nested": ("$.plan.segments[0]", "'brunch' is not known", "steps, active, branch, predictor"),
    "key-unknown-model": ("$.model", "'__class__' is not known", "family, branches, sha256"),
    "key-missing": (": $", '"provenance" is missing', "Add it"),
    "key-missing-nested": ("$.plan.segments[0]", '"branch" is missing', "Add it"),
    "key-of-another-kind": ("$.plan", "'layout' is not known", "kind, steps"),
    "type-text-for-number": ("$.plan.segments[0].steps", "'3' is not a whole number", "from 1 to 1000"),
    "type-fraction-for-whole": ("$.plan.segments[0].steps", "2.5 is not a whole number", "from 1 to 1000"),
    "type-true-for-number": ("$.plan.segments[0].active", "true is not a whole number", "from 1 to 1000"),
    "type-null-for-number": ("$.sampling.steps", "null is not a whole number", "from 1 to 1000"),
    "type-list-for-object": ("$.model", "a list of 2 is not an object", "in braces"),
    "type-object-for-list": ("$.plan.segments", "an object of 1 keys is not a list", "in square brackets"),
    "type-number-for-text": ("$.name", "15 is not a text", "in quotes"),
    "type-text-for-list": ("$.levels", "'14.6' is not a list", "in square brackets"),
    "type-text-for-number-metric": ("$.metrics[0].value", "'3.1' is not a number", "Write a number"),
    "name-empty": ("$.name", "empty", "at least one character"),
    "name-too-long": ("$.name", "101 characters", "at most 100"),
    "name-control-character": ("$.name", "'fast\\x1b[2J' contains the character U+001B", "cannot be seen"),
    "name-direction-override": ("$.name", "U+202E", "cannot be seen"),
    "name-lone-surrogate": ("$.name", "U+D800", "cannot be seen"),
    "name-trailing-newline": ("$.name", "U+000A", "cannot be seen"),
    "family-path": ("$.model.family", "'../../etc/passwd'", "Use only letters"),
    "sha256-short": ("$.model.sha256", "'abc123'", "64 digits"),
    "extra-lone-surrogate-key": ("$.extra key", "U+DFFF", "cannot be seen"),
    "kind-unknown": ("$.plan.kind", "'pickle'", "segments, steps"),
    "layout-unknown": ("$.plan.layout", "'back'", "front, even"),
    "predictor-unknown": ("$.plan.segments[0].predictor", "'cubic'", "reuse, linear, quadratic"),
    "branch-out-of-range": ("$.plan.segments[0].branch", "12 is outside the model's 12 branches", "-1 to 11"),
    "branch-below-minus-1": ("$.plan.segments[0].branch", "-2 is outside", "from -1"),
    "branch-out-of-range-step": ("$.plan.steps[1].branch", "12 is outside the model's 12 branches", "-1 to 11"),
    "branch-of-a-full-step": ("$.plan.steps[2].branch", "a full step has no branch", "Leave it out"),
    "branches-zero": ("$.model.branches", "0 is outside", "from 1 to 64"),
    "segments-empty": ("$.plan.segments", "0 entries", "Give 1 to 1000"),
    "segment-active-zero": ("$.plan.segments[0].active", "0 is outside", "from 1 to 1000"),
    "segment-active-above-steps": ("$.plan.segments[0].active", "4 is more than the segment's 3 steps", "Lower active"),
    "segment-sum-not-steps": ("$.sampling.steps", "7 steps, but the segments have 6 together", "Make both the same"),
    "segment-sum-not-levels": ("$.levels", "5 levels for segments of 6 steps", "one level per step"),
    "segment-steps-huge": ("$.plan.segments[0].steps", "1000000000 is outside", "from 1 to 1000"),
    "segment-sum-huge": ("$.plan.segments", "50000 steps together", "at most 1000"),
    "levels-rising": ("$.levels[2]", "10.0 is not below the level before it, 9.0", "strictly falling"),
    "levels-zero": ("$.levels[5]", "0 is not greater than 0", "greater than 0"),
    "levels-beside-steps": ("$.levels", "a steps plan carries its own noise levels", "Leave levels out"),
    "first-step-not-full": ("$.plan.steps[0].do", "the first step is partial", 'Make it "full"'),
    "step-null": ("$.plan.steps[1].do", "'null'", "full, partial"),
    "step-do-unhashable": ("$.plan.steps[1].do", "a list of 1", "full, partial"),
    "steps-empty": ("$.plan.steps", "0 entries", "Give 1 to 1000"),
    "sigma-rising": ("$.plan.steps[2].sigma", "6.0 is not below the level before it, 5.0", "strictly falling"),
    "sigma-repeated": ("$.plan.steps[1].sigma", "14.6 is not below the level before it, 14.6", "without repeats"),
    "sigma-negative": ("$.plan.steps[2].sigma", "-1.0 is not greater than 0", "greater than 0"),
    "drop-twice": ("$.plan.steps[1].drop", "'a' is listed twice", "once"),
    "drop-path": ("$.plan.steps[1].drop[0]", "'../a'", "Use only letters"),
    "cfg-negative": ("$.sampling.cfg", "-1 is less than 0", "at least 0"),
    "size-one-side": ("$.sampling.size", "1 entry", "Give 2"),
    "prediction-unknown": ("$.sampling.prediction", "'velocity'", "epsilon, v_prediction, sample, flow"),
    "metric-n-zero": ("$.metrics[0].n", "0 is outside", "from 1"),
    "metric-interval-reversed": ("$.metrics[0].interval", "3.4 is above 2.9", "lower end first"),
    "cost-negative": ("$.cost.ms['one CPU']", "-5 is not greater than 0", "greater than 0"),
    "provenance-unknown": ("$.provenance.kind", "'official'", "searched, heuristic"),
    "provenance-heuristic-evaluated": ("$.provenance.evaluations", "not found by evaluations", '"searched"'),
    "seed-negative": ("$.provenance.seed", "-1 is outside", "from 0"),
    "format-1-weights": ("$.plan.steps[0]", "'weights' is not known", "sigma, do, drop"),
    "format-1-noise": ("$.plan", "'noise' is not known", "kind, segments, layout"),
    "format-1-noise-step": ("$.plan", "'noise' is not known", "kind, steps"),
    "format-1-blocks": ("$.model", "'blocks' is not known", "family, branches, sha256"),
    "format-1-flow": ("$.sampling.prediction", "format 1 knows no flow models", '"version": 2'),
    "weights-of-some-steps": ("$.plan.steps[1].weights", "other steps have weights", "to all steps, or to none"),
    "weights-empty": ("$.plan.steps[1].weights", "0 entries", "Give 1 to 16"),
    "weights-null": ("$.plan.steps[1].weights", "null is not a list", "in square brackets"),
    "weights-17": ("$.plan.steps[2].weights", "17 entries", "Give 1 to 16"),
    "weights-before-the-first-step": (
        "$.plan.steps[0].weights",
        "2 weights, but there are 1 predictions",
        "at most one",
    ),
    "weights-of-a-segment": ("$.plan.segments[0]", "'weights' is not known", "steps, active, branch, predictor"),
    "weight-huge": ("$.plan.steps[1].weights[1]", "-1000.5 is outside -1000 to 1000", "Fit the weights again"),
    "weight-nan": ("$.plan.steps[1].weights[0]", "NaN", "finite"),
    "weight-text": ("$.plan.steps[1].weights[0]", "'1.4' is not a number", "Write a number"),
    "noise-unknown": ("$.plan.noise", "'ve'", "vp, flow"),
    "noise-of-another-prediction": ("$.plan.noise", "'vp' noise levels with prediction 'flow'", "for both"),
    "flow-sigma-above-1": ("$.plan.steps[0].sigma", "14.6 is no noise level of a flow model", "at most 1"),
    "flow-level-above-1": ("$.levels[0]", "14.6 is no noise level of a flow model", "at most 1"),
    "blocks-zero": ("$.model.blocks", "0 is outside", "from 1 to 1000"),
    "fingerprint-short": ("$.model.fingerprint", "15 entries", "Give 16"),
    "fingerprint-text": ("$.model.fingerprint[15]", "'0.5' is not a number", "Write a number"),
    "fingerprint-above-1": ("$.model.fingerprint[3]", "1.5 is more than 1", "Export"),
    "fingerprint-below-minus-1": ("$.model.fingerprint[0]", "-1.5 is less than -1", "at least -1"),
    "format-1-fingerprint": ("$.model", "'fingerprint' is not known", "family, branches, sha256"),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_refused_with_place_value_and_remedy(name: str) -> None:
    path = FOLDER / f"{name}.json"
    place, problem, remedy = EXPECTED[name]
    with pytest.raises(ScheduleError) as caught:
        read(path)
    error = caught.value
    assert error.place.startswith(str(path))
    assert error.place.endswith(place)
    assert problem in error.problem
    assert remedy in error.remedy
    assert str(error) == f"{error.place}: {error.problem}. {error.remedy}"
    assert len(str(error).replace(str(FOLDER), "")) < 500, "a hostile file must not flood the log"
    assert isinstance(error, VersionError) == (name == "version-future")


def test_every_file_has_an_expectation() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(EXPECTED)


def test_files_are_what_the_tool_makes() -> None:
    for name, content in make_attacks.documents().items():
        wanted = content if isinstance(content, bytes) else content.encode()
        assert (FOLDER / f"{name}.json").read_bytes() == wanted, f"run python -m tools.make_attacks: {name}"


@pytest.mark.parametrize("opening", ["[", "{", '{"a":', '[{"a":['])
@pytest.mark.parametrize("limit", [200, 1000])
def test_nesting_never_reaches_the_recursion_limit(opening: str, limit: int) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 100)
    try:
        with pytest.raises(ScheduleError, match="levels deep"):
            loads((opening * (65536 // len(opening))).encode())
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("text", ['"' * 65536, '\\"' * 32768, '"\\' * 32768, '["' + "\\\\" * 32767])
def test_quotes_and_backslashes_are_scanned_in_linear_time(text: str) -> None:
    with pytest.raises(ScheduleError, match="not JSON"):
        loads(text.encode())
