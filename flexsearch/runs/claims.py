"""A schedule's claims against what was measured now: confirmed, weaker or refuted.

An error is *confirmed* unless its 95 % interval lies wholly above the claimed one: to be better than claimed refutes
nothing. Clearly larger, it is *weaker* where the schedule is still clearly better than fewer plain steps at its cost,
by the paired ratio's interval, and else *refuted*: one could have typed as good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from flexiffusion.schedule import Metric, Schedule
from flexiffusion.search.objective import REFERENCES, ReferenceName
from flexiffusion.search.paired import Estimate, Ratio, ratio_interval
from flexsearch.report.rows import FEWEST_IMAGES, Row

Word = Literal["confirmed", "weaker", "refuted"]
WORDS: tuple[Word, ...] = get_args(Word)  # the later, the worse

COST_SLACK = 0.02  # a speed-up in multiply-adds may differ by so much, as the size and guidance differ


@dataclass(frozen=True)
class Finding:
    """One claim and what was found. `word` None: it is told, but cannot be judged; `why` says so."""

    claim: str
    claimed: float
    claimed_interval: tuple[float, float] | None
    measured: float
    interval: tuple[float, float] | None
    word: Word | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def findings(schedule: Schedule, row: Row, against_plain: Mapping[ReferenceName, Ratio]) -> tuple[Finding, ...]:
    """Every claim of the file against its measured row. `against_plain`: the paired ratio to fewer plain steps."""
    found = [_quality(metric, row, against_plain) for metric in schedule.metrics]
    if schedule.cost is not None and schedule.cost.speedup_macs is not None:
        found.append(_speedup(schedule.cost.speedup_macs, row.speedup_macs))
    return tuple(found)


def overall(found: Sequence[Finding]) -> Word | None:
    """The worst word; None where nothing that can be judged was claimed."""
    words = [finding.word for finding in found if finding.word is not None]
    return max(words, key=WORDS.index) if words else None


def plain_ratios(found: Mapping[ReferenceName, Any], plain: Mapping[ReferenceName, Any]) -> dict[ReferenceName, Ratio]:
    """The paired ratio for each reference that both have errors to (arrays, one error an image)."""
    return {name: ratio_interval(found[name], plain[name]) for name in found if name in plain and plain[name].any()}


def _quality(metric: Metric, row: Row, against_plain: Mapping[ReferenceName, Ratio]) -> Finding:
    words = (metric.reference or "").replace(",", " ").split()
    name = f"{metric.name} to {metric.reference}" if metric.reference else metric.name
    reference = next((known for known in REFERENCES if words[:1] == [known]), None)
    if metric.name == "latent_mse" and reference is not None:
        measured = row.errors[f"latent/{reference}"]
        word, why = _judged(metric, measured, against_plain.get(reference))
        interval = (measured.low, measured.high)
        return Finding(name, metric.value, metric.interval, measured.mean, interval, word, why)
    if metric.name == "relative_fid" and row.relative_fid is not None:
        why = "has no interval: shown, not checked"
        if metric.n != row.relative_fid_n:
            why = f"of {metric.n} images, not comparable with {row.relative_fid_n}"
        return Finding(name, metric.value, metric.interval, row.relative_fid, None, None, why)
    return Finding(name, metric.value, metric.interval, float("nan"), None, None, "is not measured by this tool")


def _judged(metric: Metric, measured: Estimate, ratio: Ratio | None) -> tuple[Word, str]:
    if not math.isfinite(measured.mean):
        return "refuted", "it diverged on one image or more"
    claimed_high = metric.interval[1] if metric.interval is not None else metric.value
    if measured.low <= claimed_high:
        better = metric.interval is not None and measured.high < metric.interval[0]
        return "confirmed", "smaller than claimed" if better else "the intervals touch"
    times = f"{measured.mean / metric.value:.2g} times the claimed error" if metric.value > 0 else "not zero"
    if ratio is None:
        return "refuted", f"{times}, and there are no plain steps of this cost to compare with"
    mean, low, high = ratio
    if measured.n < FEWEST_IMAGES:
        return "refuted", f"{times}; {measured.n} images are too few to compare it with plain steps"
    beside = f"{mean:.2f} ({low:.2f} to {high:.2f}) of fewer plain steps' error at its cost"
    if high < 1:
        return "weaker", f"{times}, yet {beside}"
    return "refuted", f"{times}, and {beside}"


def _speedup(claimed: float, measured: float) -> Finding:
    if measured >= claimed * (1 - COST_SLACK):
        word: Word = "confirmed"
        why = "within 2 %" if measured <= claimed * (1 + COST_SLACK) else "more than claimed"
    else:
        word, why = ("weaker", "less than claimed") if measured > 1 else ("refuted", "not faster at all")
    return Finding("speed-up in multiply-adds", claimed, None, measured, None, word, why)
