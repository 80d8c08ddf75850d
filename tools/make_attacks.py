"""Writes tests/attacks/*.json: one file per kind of bad schedule, each a good one with one thing wrong.

python -m tools.make_attacks [FOLDER]
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

SEGMENTS: dict[str, Any] = {
    "format": "flexiffusion/schedule",
    "version": 1,
    "name": "attack",
    "model": {"family": "sd15", "branches": 12},
    "sampling": {
        "sampler": "ddim",
        "scheduler": None,
        "steps": 6,
        "cfg": 7.5,
        "size": [512, 512],
        "prediction": "epsilon",
    },
    "plan": {
        "kind": "segments",
        "layout": "front",
        "segments": [{"steps": 3, "active": 2, "branch": 1}, {"steps": 3, "active": 1, "branch": 0}],
    },
    "levels": [14.6, 9.0, 5.0, 2.5, 1.0, 0.3],
    "metrics": [{"name": "relative_fid", "value": 3.1, "n": 256, "interval": [2.9, 3.4]}],
    "cost": {"macs": 5.2e12, "ms": {"one CPU": 512}},
    "provenance": {"kind": "searched", "seed": 0, "evaluations": 420},
    "extra": {},
}
STEPS: dict[str, Any] = {
    **{key: SEGMENTS[key] for key in ("format", "version", "name", "model", "sampling", "provenance")},
    "plan": {
        "kind": "steps",
        "steps": [
            {"sigma": 14.6, "do": "full"},
            {"sigma": 5.0, "do": "partial", "branch": 1, "predictor": "linear", "drop": ["mid.attentions.0"]},
            {"sigma": 1.0, "do": "full"},
        ],
    },
}
FLOW: dict[str, Any] = {  # a flow model's, of format 2, with a solver of its own
    **STEPS,
    "version": 2,
    "model": {"family": "flux", "branches": 57, "blocks": 57},
    "sampling": {**SEGMENTS["sampling"], "prediction": "flow"},
    "plan": {
        "kind": "steps",
        "noise": "flow",
        "steps": [
            {"sigma": 1, "do": "full", "weights": [1]},
            {"sigma": 0.9, "do": "partial", "branch": 1, "predictor": "linear", "weights": [1.4, -0.4]},
            {"sigma": 0.5, "do": "full", "weights": [1.6, -0.9, 0.3]},
        ],
    },
}
MISSING = object()


def changed(base: dict[str, Any], path: str, value: object) -> str:
    """The base with the value at `path` ("plan.segments.0.steps") replaced or added or, if MISSING, taken out; text."""
    document = copy.deepcopy(base)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node: Any = document
    for part in parents:
        node = node[part]
    if value is MISSING:
        del node[last]
    elif isinstance(node, list) and last == len(node):
        node.append(value)
    else:
        node[last] = value
    return json.dumps(document, indent=1) + "\n"


def changed_base(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The base with other values of some of its keys."""
    return {**copy.deepcopy(base), **changes}


def literal(path: str, text: str, base: dict[str, Any] = SEGMENTS) -> str:
    """The base with `text` standing at `path` as it is, JSON or not."""
    return changed(base, path, "@@").replace('"@@"', text)


def documents() -> dict[str, str | bytes]:
    """Contents by file name without .json."""
    good = json.dumps(SEGMENTS, indent=1) + "\n"
    first = "plan.segments.0"
    return {
        # bytes and text
        "size-over-64-kb": good + " " * (64 * 1024 + 1 - len(good)),
        "empty": "",
        "blank": " \n\t\n",
        "bom-utf-8": b"\xef\xbb\xbf" + good.encode(),
        "bom-utf-16": b"\xff\xfe" + good.encode("utf-16-le"),
        "utf-8-invalid": good.replace("attack", "att\xe4ck").encode("latin-1"),
        "null-character": good.replace("attack", "att\x00ck"),
        "truncated": good[:200],
        "trailing-data": good + "{}",
        "trailing-comma": good.replace('"extra": {}', '"extra": {},'),
        "comment": "// a schedule\n" + good,
        "single-quotes": good.replace('"', "'"),
        # nesting and keys
        "depth-9": literal("extra.nested", "[" * 7 + "]" * 7),
        "depth-60000-open": "[" * 60000,
        "depth-30000-behind-texts": literal("extra.a", '{"a\\\\": "[", "b\\"": ' + "[" * 30000),
        "duplicate-key": good.replace('"version": 1,', '"version": 1,\n "version": 1,'),
        "duplicate-key-nested": literal(f"{first}.steps", '3, "steps": 4'),
        "duplicate-key-escaped": literal(f"{first}.steps", '3, "st\\u0065ps": 4'),
        "duplicate-key-extra": literal("extra.a", '{"b c": 1, "b c": 2}'),
        # numbers
        "number-nan": literal("metrics.0.value", "NaN"),
        "number-infinity": literal("sampling.cfg", "Infinity"),
        "number-minus-infinity": literal("metrics.0.interval.0", "-Infinity"),
        "number-1e999": literal("cost.macs", "1e999"),
        "number-1e999-extra": literal("extra.a", "[1, -1e999]"),
        "number-5000-digits": literal("sampling.steps", "9" * 5000),
        "number-5000-digits-real": literal("sampling.cfg", "0." + "3" * 5000),
        # not a schedule, or not of this version
        "not-an-object": "[1, 2, 3]\n",
        "not-an-object-text": '"flexiffusion/schedule"\n',
        "format-missing": changed(SEGMENTS, "format", MISSING),
        "format-other": changed(SEGMENTS, "format", "flexiffusion/workflow"),
        "version-future": changed(SEGMENTS, "version", 3),
        "version-missing": changed(SEGMENTS, "version", MISSING),
        "version-zero": changed(SEGMENTS, "version", 0),
        "version-text": changed(SEGMENTS, "version", "1"),
        "version-true": changed(SEGMENTS, "version", True),
        # keys
        "key-unknown": changed(SEGMENTS, "run", "rm -rf /"),
        "key-unknown-nested": changed(SEGMENTS, f"{first}.brunch", 1),
        "key-unknown-model": changed(SEGMENTS, "model.__class__", "x"),
        "key-missing": changed(SEGMENTS, "provenance", MISSING),
        "key-missing-nested": changed(SEGMENTS, f"{first}.branch", MISSING),
        "key-of-another-kind": changed(STEPS, "plan.layout", "even"),
        # types
        "type-text-for-number": changed(SEGMENTS, f"{first}.steps", "3"),
        "type-fraction-for-whole": changed(SEGMENTS, f"{first}.steps", 2.5),
        "type-true-for-number": changed(SEGMENTS, f"{first}.active", True),
        "type-null-for-number": changed(SEGMENTS, "sampling.steps", None),
        "type-list-for-object": changed(SEGMENTS, "model", ["sd15", 12]),
        "type-object-for-list": changed(SEGMENTS, "plan.segments", {"0": {}}),
        "type-number-for-text": changed(SEGMENTS, "name", 15),
        "type-text-for-list": changed(SEGMENTS, "levels", "14.6"),
        "type-text-for-number-metric": changed(SEGMENTS, "metrics.0.value", "3.1"),
        # texts
        "name-empty": changed(SEGMENTS, "name", ""),
        "name-too-long": changed(SEGMENTS, "name", "x" * 101),
        "name-control-character": changed(SEGMENTS, "name", "fast\u001b[2J"),
        "name-direction-override": changed(SEGMENTS, "name", "safe\u202egpj.exe"),
        "name-lone-surrogate": changed(SEGMENTS, "name", "half \ud800"),
        "name-trailing-newline": changed(SEGMENTS, "name", "attack\n"),
        "family-path": changed(SEGMENTS, "model.family", "../../etc/passwd"),
        "sha256-short": changed(SEGMENTS, "model.sha256", "abc123"),
        "extra-lone-surrogate-key": changed(SEGMENTS, "extra.half \udfff", 1),
        # ranges and rules
        "kind-unknown": changed(SEGMENTS, "plan.kind", "pickle"),
        "layout-unknown": changed(SEGMENTS, "plan.layout", "back"),
        "predictor-unknown": changed(SEGMENTS, f"{first}.predictor", "cubic"),
        "branch-out-of-range": changed(SEGMENTS, f"{first}.branch", 12),
        "branch-below-minus-1": changed(SEGMENTS, f"{first}.branch", -2),
        "branch-out-of-range-step": changed(STEPS, "plan.steps.1.branch", 12),
        "branch-of-a-full-step": changed(STEPS, "plan.steps.2.branch", 1),
        "branches-zero": changed(SEGMENTS, "model.branches", 0),
        "segments-empty": changed(SEGMENTS, "plan.segments", []),
        "segment-active-zero": changed(SEGMENTS, f"{first}.active", 0),
        "segment-active-above-steps": changed(SEGMENTS, f"{first}.active", 4),
        "segment-sum-not-steps": changed(SEGMENTS, "sampling.steps", 7),
        "segment-sum-not-levels": changed(SEGMENTS, "levels", [14.6, 9.0, 5.0, 2.5, 1.0]),
        "segment-steps-huge": changed(SEGMENTS, f"{first}.steps", 10**9),
        "segment-sum-huge": changed(SEGMENTS, "plan.segments", [{"steps": 1000, "active": 1, "branch": 0}] * 50),
        "levels-rising": changed(SEGMENTS, "levels.2", 10.0),
        "levels-zero": changed(SEGMENTS, "levels.5", 0),
        "levels-beside-steps": changed(STEPS, "levels", [14.6, 5.0, 1.0]),
        "first-step-not-full": changed(
            STEPS, "plan.steps.0", {"sigma": 14.6, "do": "partial", "branch": 1, "predictor": "reuse"}
        ),
        "step-null": changed(STEPS, "plan.steps.1", {"sigma": 5.0, "do": "null"}),
        "step-do-unhashable": changed(STEPS, "plan.steps.1.do", ["partial"]),
        "steps-empty": changed(STEPS, "plan.steps", []),
        "sigma-rising": changed(STEPS, "plan.steps.2.sigma", 6.0),
        "sigma-repeated": changed(STEPS, "plan.steps.1.sigma", 14.6),
        "sigma-negative": changed(STEPS, "plan.steps.2.sigma", -1.0),
        "drop-twice": changed(STEPS, "plan.steps.1.drop", ["a", "b", "a"]),
        "drop-path": changed(STEPS, "plan.steps.1.drop", ["../a"]),
        "cfg-negative": changed(SEGMENTS, "sampling.cfg", -1),
        "size-one-side": changed(SEGMENTS, "sampling.size", [512]),
        "prediction-unknown": changed(SEGMENTS, "sampling.prediction", "velocity"),
        "metric-n-zero": changed(SEGMENTS, "metrics.0.n", 0),
        "metric-interval-reversed": changed(SEGMENTS, "metrics.0.interval", [3.4, 2.9]),
        "cost-negative": changed(SEGMENTS, "cost.ms.one CPU", -5),
        "provenance-unknown": changed(SEGMENTS, "provenance.kind", "official"),
        "provenance-heuristic-evaluated": changed(SEGMENTS, "provenance.kind", "heuristic"),
        "seed-negative": changed(SEGMENTS, "provenance.seed", -1),
        # what format 2 has, in format 1
        "format-1-weights": changed(STEPS, "plan.steps.0.weights", [1]),
        "format-1-noise": changed(SEGMENTS, "plan.noise", "vp"),
        "format-1-noise-step": changed(STEPS, "plan.noise", "vp"),
        "format-1-blocks": changed(SEGMENTS, "model.blocks", 57),
        "format-1-flow": changed(SEGMENTS, "sampling.prediction", "flow"),
        # weights of steps
        "weights-of-some-steps": changed(FLOW, "plan.steps.1.weights", MISSING),
        "weights-empty": changed(FLOW, "plan.steps.1.weights", []),
        "weights-null": changed(FLOW, "plan.steps.1.weights", None),
        "weights-17": changed(FLOW, "plan.steps.2.weights", [0.1] * 17),
        "weights-before-the-first-step": changed(FLOW, "plan.steps.0.weights", [1.2, -0.2]),
        "weights-of-a-segment": changed({**SEGMENTS, "version": 2}, f"{first}.weights", [1]),
        "weight-huge": changed(FLOW, "plan.steps.1.weights.1", -1000.5),
        "weight-nan": literal("plan.steps.1.weights.0", "NaN", FLOW),
        "weight-text": changed(FLOW, "plan.steps.1.weights.0", "1.4"),
        # flow models
        "noise-unknown": changed(FLOW, "plan.noise", "ve"),
        "noise-of-another-prediction": changed(FLOW, "plan.noise", "vp"),
        "flow-sigma-above-1": changed(FLOW, "plan.steps.0.sigma", 14.6),
        "flow-level-above-1": changed(
            changed_base(SEGMENTS, version=2, sampling=FLOW["sampling"]), "plan.noise", "flow"
        ),
        "blocks-zero": changed(FLOW, "model.blocks", 0),
        "fingerprint-short": changed(FLOW, "model.fingerprint", [0.5] * 15),
        "fingerprint-text": changed(FLOW, "model.fingerprint", [0.5] * 15 + ["0.5"]),
        "fingerprint-above-1": changed(FLOW, "model.fingerprint", [0.5] * 3 + [1.5] + [0.5] * 12),
        "fingerprint-below-minus-1": changed(FLOW, "model.fingerprint", [-1.5] + [0.5] * 15),
        "format-1-fingerprint": changed(SEGMENTS, "model.fingerprint", [0.5] * 16),
    }


def main(folder: Path) -> None:
    """Writes every document as FOLDER/NAME.json."""
    for name, content in documents().items():
        (folder / f"{name}.json").write_bytes(content if isinstance(content, bytes) else content.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "tests" / "attacks")
