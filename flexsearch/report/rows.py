"""The rows of a run's final table: frozen data that the table, the pictures and `--json` are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from flexiffusion.search.paired import Estimate

RowKind = Literal["teacher", "found", "plain", "plain_searched", "deepcache", "spectrum", "easycache"]
Verdict = Literal["better", "no clear difference", "worse"]

KINDS: tuple[RowKind, ...] = get_args(RowKind)
KIND_WORDS: dict[RowKind, str] = {
    "teacher": "teacher",
    "found": "found",
    "plain": "fewer plain steps",
    "plain_searched": "fewer plain steps, searched placement",
    "deepcache": "DeepCache uniform",
    "spectrum": "Spectrum",
    "easycache": "EasyCache at fixed steps",
}
RIVALS: tuple[RowKind, ...] = ("plain", "plain_searched", "deepcache", "spectrum", "easycache")


@dataclass(frozen=True, slots=True)
class Row:
    """One schedule, measured on held-out noise and prompts.

    `cost_full_steps` is the cost in full network calls, `macs` in multiply-adds per image; `speedup_macs` and
    `speedup_measured` are against the teacher. `errors` is keyed "latent/teacher", "latent/converged",
    "features/teacher": what is compared / with what. `relative_fid` is to the teacher, same noise, from
    `relative_fid_n` images; `real_fid` from as many, to real pictures. The teacher's row has `speedup_asked` None.
    """

    label: str
    kind: RowKind
    speedup_asked: float | None
    full: int
    partial: int
    cost_full_steps: float
    macs: float
    speedup_macs: float
    seconds_per_image: float | None = None
    speedup_measured: float | None = None
    errors: Mapping[str, Estimate] = field(default_factory=dict)
    relative_fid: float | None = None
    relative_fid_n: int | None = None
    real_fid: float | None = None
    schedule_file: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"row {self.label!r}: kind {self.kind!r} is none of {', '.join(KINDS)}")
        if (self.relative_fid is None) != (self.relative_fid_n is None):
            raise ValueError(f"row {self.label!r}: a relative FID means nothing without its n; give both or neither")
        object.__setattr__(self, "errors", MappingProxyType(dict(self.errors)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "kind": self.kind,
            "speedup_asked": self.speedup_asked,
            "full": self.full,
            "partial": self.partial,
            "cost_full_steps": self.cost_full_steps,
            "macs": self.macs,
            "speedup_macs": self.speedup_macs,
            "seconds_per_image": self.seconds_per_image,
            "speedup_measured": self.speedup_measured,
            "errors": {key: estimate.to_dict() for key, estimate in self.errors.items()},
            "relative_fid": self.relative_fid,
            "relative_fid_n": self.relative_fid_n,
            "real_fid": self.real_fid,
            "schedule_file": self.schedule_file,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Row:
        """The inverse of `to_dict`."""
        errors = {key: Estimate.from_dict(value) for key, value in document["errors"].items()}
        return cls(**{**document, "errors": errors})


@dataclass(frozen=True, slots=True)
class Comparison:
    """The found schedule against one rival of its group, in one error.

    `ratio` is found / rival, below 1 is better; None where the rival's error is zero.
    """

    speedup_asked: float
    rival: RowKind
    error: str
    verdict: Verdict
    ratio: float | None
    cost_ratio: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "speedup_asked": self.speedup_asked,
            "rival": self.rival,
            "error": self.error,
            "verdict": self.verdict,
            "ratio": self.ratio,
            "cost_ratio": self.cost_ratio,
        }


def verdict(found: Estimate, rival: Estimate) -> Verdict:
    """Better or worse only where the two 95 % intervals do not touch."""
    if found.high < rival.low:
        return "better"
    return "worse" if found.low > rival.high else "no clear difference"


def rivals_met(found: Sequence[Comparison]) -> list[RowKind]:
    """The kinds that were compared with, in a fixed order."""
    met = {comparison.rival for comparison in found}
    return [rival for rival in RIVALS if rival in met]


def groups(rows: tuple[Row, ...]) -> tuple[tuple[float | None, tuple[Row, ...]], ...]:
    """The rows by asked speed-up: the teacher's group (None) first, then rising; found before its rivals."""
    asked = sorted({row.speedup_asked for row in rows if row.speedup_asked is not None})
    ordered: list[tuple[float | None, tuple[Row, ...]]] = []
    for speedup in (None, *asked):
        members = [row for row in rows if row.speedup_asked == speedup]
        if members:
            ordered.append((speedup, tuple(sorted(members, key=lambda row: KINDS.index(row.kind)))))
    return tuple(ordered)


def comparisons(rows: tuple[Row, ...]) -> tuple[Comparison, ...]:
    """Every found row against every rival of its group, in every error that both have."""
    found_against: list[Comparison] = []
    for speedup, members in groups(rows):
        if speedup is None:
            continue
        for found in (row for row in members if row.kind == "found"):
            for rival in (row for row in members if row.kind in RIVALS):
                for key in (key for key in found.errors if key in rival.errors):
                    ours, theirs = found.errors[key], rival.errors[key]
                    found_against.append(
                        Comparison(
                            speedup_asked=speedup,
                            rival=rival.kind,
                            error=key,
                            verdict=verdict(ours, theirs),
                            ratio=ours.mean / theirs.mean if theirs.mean > 0 else None,
                            cost_ratio=found.cost_full_steps / rival.cost_full_steps,
                        )
                    )
    return tuple(found_against)


def rows_from(documents: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """The rows in a run's `result.json`."""
    return tuple(Row.from_dict(document) for document in documents)
