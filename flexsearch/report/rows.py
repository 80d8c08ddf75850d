"""The rows of a run's final table: frozen data that the table, the pictures and `--json` are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from flexiffusion.search.paired import Estimate, Ratio, finite, ratio_interval

RowKind = Literal[
    "teacher",
    "found",
    "plain",
    "uni_pc",
    "dpmpp_3m",
    "plain_fitted",
    "plain_searched",
    "placed_fitted",
    "deepcache",
    "spectrum",
    "easycache",
    "taylorseer",
    "first_block_cache",
]
Verdict = Literal["better", "no clear difference", "worse", "too few images"]
UNCLEAR: Verdict = "no clear difference"

# Of fewer images a bootstrap has fewer different resamples (1,716 of seven) than the 2,000 that are drawn: its interval
# tells of those few images, not of others.
FEWEST_IMAGES = 8

KINDS: tuple[RowKind, ...] = get_args(RowKind)
KIND_WORDS: dict[RowKind, str] = {
    "teacher": "teacher",
    "found": "found",
    "plain": "fewer plain steps",
    "uni_pc": "fewer plain steps, UniPC",
    "dpmpp_3m": "fewer plain steps, DPM-Solver++ 3M",
    "plain_fitted": "fewer plain steps, fitted",
    "plain_searched": "fewer plain steps, searched placement",
    "placed_fitted": "fewer plain steps, placed and fitted",
    "deepcache": "DeepCache uniform",
    "spectrum": "Spectrum",
    "easycache": "EasyCache at fixed steps",
    "taylorseer": "TaylorSeer of diffusers",
    "first_block_cache": "First-Block-Cache of diffusers",
}
RIVALS: tuple[RowKind, ...] = KINDS[2:]


@dataclass(frozen=True, slots=True)
class Row:
    """One schedule, measured on held-out noise and prompts.

    `cost_full_steps` is the cost in full network calls, `macs` in multiply-adds per image; `speedup_macs` and
    `speedup_measured` are against the teacher. `errors` is keyed "latent/teacher", "latent/converged",
    "features/teacher": what is compared / with what; `image_errors` are those of the single images, in the same order
    in every row, for comparisons. `relative_fid` is to the teacher, same noise, from
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
    image_errors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"row {self.label!r}: kind {self.kind!r} is none of {', '.join(KINDS)}")
        if (self.relative_fid is None) != (self.relative_fid_n is None):
            raise ValueError(f"row {self.label!r}: a relative FID means nothing without its n; give both or neither")
        object.__setattr__(self, "errors", MappingProxyType(dict(self.errors)))
        object.__setattr__(self, "image_errors", MappingProxyType(dict(self.image_errors)))

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
            "image_errors": {key: [finite(value) for value in values] for key, values in self.image_errors.items()},
            "relative_fid": None if self.relative_fid is None else finite(self.relative_fid),
            "relative_fid_n": self.relative_fid_n,
            "real_fid": None if self.real_fid is None else finite(self.real_fid),
            "schedule_file": self.schedule_file,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Row:
        """The inverse of `to_dict`; a relative FID that is null though it has an n was not finite."""
        errors = {key: Estimate.from_dict(value) for key, value in document["errors"].items()}
        images = {
            key: tuple(math.inf if value is None else value for value in values)
            for key, values in document.get("image_errors", {}).items()
        }
        fid = document["relative_fid"]
        if fid is None and document["relative_fid_n"] is not None:
            fid = math.inf
        return cls(**{**document, "errors": errors, "image_errors": images, "relative_fid": fid})


@dataclass(frozen=True, slots=True)
class Comparison:
    """The found schedule against one rival of its group, in one error.

    `ratio` is found / rival, below 1 is better, `interval` its 95 % paired-bootstrap interval. Both are None where the
    rival's error is zero, or either is not finite. Means may be those of a few images that end as other pictures:
    `nearer` tells on how many images the found one's error is the smaller, of the `images` on which they differ.
    """

    speedup_asked: float
    rival: RowKind
    error: str
    verdict: Verdict
    ratio: float | None
    interval: tuple[float, float] | None
    cost_ratio: float
    nearer: int
    images: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "speedup_asked": self.speedup_asked,
            "rival": self.rival,
            "error": self.error,
            "verdict": self.verdict,
            "ratio": self.ratio,
            "interval": None if self.interval is None else list(self.interval),
            "cost_ratio": self.cost_ratio,
            "nearer": self.nearer,
            "images": self.images,
        }


def verdict(found: Sequence[float], rival: Sequence[float]) -> tuple[Verdict, Ratio]:
    """What the paired errors of the same images say, and the ratio of their means, found / rival.

    Better or worse only where the ratio's 95 % interval lies wholly below or above 1: the pairing takes out what both
    have in common, that some images are harder than others.
    """
    errors, others = np.array(found), np.array(rival)
    mean, low, high = ratio = ratio_interval(errors, others)
    if len(errors) < FEWEST_IMAGES:
        return "too few images", ratio
    if math.isnan(mean):  # both diverged, or the rival is exact
        return ("worse" if np.isfinite(errors).all() and errors.any() else UNCLEAR), ratio
    return "better" if high < 1 else "worse" if low > 1 else UNCLEAR, ratio


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
    """Every found row against every rival of its group, in every error of whose single images both tell."""
    found_against: list[Comparison] = []
    for speedup, members in groups(rows):
        if speedup is None:
            continue
        for found in (row for row in members if row.kind == "found"):
            for rival in (row for row in members if row.kind in RIVALS):
                for key in (key for key in found.image_errors if key in rival.image_errors):
                    errors, others = found.image_errors[key], rival.image_errors[key]
                    word, (mean, low, high) = verdict(errors, others)
                    found_against.append(
                        Comparison(
                            speedup_asked=speedup,
                            rival=rival.kind,
                            error=key,
                            verdict=word,
                            ratio=mean if math.isfinite(mean) else None,
                            interval=(low, high) if math.isfinite(low) and math.isfinite(high) else None,
                            cost_ratio=found.cost_full_steps / rival.cost_full_steps,
                            nearer=sum(own < other for own, other in zip(errors, others, strict=True)),
                            images=sum(own != other for own, other in zip(errors, others, strict=True)),
                        )
                    )
    return tuple(found_against)


def rows_from(documents: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """The rows in a run's `result.json`."""
    return tuple(Row.from_dict(document) for document in documents)
