"""What the doors into hosts share: can a network be cut, plans that save nothing, the report of a sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from .errors import ModelMismatch
from .fingerprint import fingerprint_of, is_same_checkpoint
from .layouts import find_layout
from .plan import FEWEST_STEPS, Plan
from .run import Report
from .schedule import FULL, Schedule


@dataclass(frozen=True, slots=True)
class SamplingReport:
    """What one sampling really did.

    schedule: its name; None: every step was to run in full
    report:   counts and seconds, of all networks that took part
    steps:    levels of the host's own list, before the schedule
    notes:    what the user should know, in sentences
    """

    schedule: str | None
    report: Report
    steps: int
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> str:
        """Without seconds: "full 12, partial 8, null 10, misses 0", and `Report.rest` where there is any."""
        report = self.report
        counts = f"full {report.full}, partial {report.partial}, null {report.null}, misses {report.misses}"
        return f"{counts}, {report.rest}".removesuffix(", ")

    @property
    def line(self) -> str:
        """One line for a log: the schedule's name and what was run."""
        return f"{self.schedule or 'no schedule'}: {self}"

    def __str__(self) -> str:
        report = self.report
        if not (report.partial or report.null or report.dropped):
            return f"{report}; every step in full"  # what a clock shows then is its own noise
        speedup = report.speedup(self.steps)
        estimate = "no full step to estimate a speed-up from" if speedup is None else f"estimated {speedup:.2f}x"
        return f"{self.report}; {estimate} against {self.steps} full steps"


def why_not_cut(network: nn.Module) -> str | None:
    """Why a network cannot run partial steps; None: it can."""
    try:
        find_layout(network)
    except ModelMismatch as error:
        return str(error)
    return None


def full_plan(levels: Sequence[float]) -> Plan:
    """Every level in full."""
    return Plan(tuple(levels), (FULL,) * len(levels), 0)


def in_full(plan: Plan) -> Plan:
    """The same levels, every one in full: what is left of a plan on a network that cannot be cut."""
    return replace(plan, actions=(FULL,) * len(plan.actions))


def checkpoint_note(schedule: Schedule, network: nn.Module) -> str | None:
    """A sentence on a schedule that was searched on a certain checkpoint, unless this network is seen to be that one.

    For hosts that do not tell a checkpoint's hash.
    """
    known = schedule.model.fingerprint
    if known is not None and (own := fingerprint_of(network)) is not None:
        if is_same_checkpoint(network, known, own):
            return None
        return f"{schedule.name} was searched on another checkpoint than this; its quality was not measured here"
    if not schedule.model.sha256:
        return None
    return (
        f"{schedule.name} was searched on the checkpoint with SHA-256 {schedule.model.sha256[:12]}...; "
        "this host does not tell which one is loaded. On another one its quality was not measured"
    )


def gain_note(schedule: str, plan: Plan, levels: Sequence[float]) -> str | None:
    """A sentence where a plan saves nothing against the host's own levels, all in full; None: it saves."""
    steps = len(levels)
    if steps < FEWEST_STEPS:
        return f"nothing to gain at {steps} steps: every step runs in full"
    fulls = sum(action == FULL for action in plan.actions)
    if fulls < steps:
        return None
    if fulls == len(plan.actions) and plan.levels == tuple(levels):
        return f"{schedule} has no effect here: every step runs in full"
    return f"{schedule} runs {fulls} full steps, the sampler without it {steps}: nothing is gained here"


def nothing_saved(schedule: str, report: Report) -> str | None:
    """A sentence where partial steps were planned and not one could run in part; None elsewhere."""
    if report.misses and not report.partial:
        return f"{schedule}: not one step could run in part, so nothing was saved by partial steps; the log says why"
    return None


def side_by_side(reports: Sequence[Report], full: int = 0, misses: int = 0) -> Report:
    """What copies of one network, each on a device of its own, ran in one sampling at the same time.

    Seconds and evaluations are the first one's; calls and memory are those of all together.

    full, misses: calls of networks that have no report, and how many of them the plan wanted partial
    """
    return replace(
        reports[0],
        full=sum(report.full for report in reports) + full,
        partial=sum(report.partial for report in reports),
        misses=sum(report.misses for report in reports) + misses,
        cache_bytes=sum(report.cache_bytes for report in reports),
        dropped=sum(report.dropped for report in reports),
        skipped=sum(report.skipped for report in reports),
    )


def total(reports: Sequence[Report], nulls: int) -> Report:
    """What several networks ran one after the other in one sampling, such as a model and its refiner.

    nulls: noise levels that were taken out of the sampler's list, once for all networks
    """
    full_seconds = [report.full_seconds for report in reports if report.full_seconds is not None]
    return Report(
        full=sum(report.full for report in reports),
        partial=sum(report.partial for report in reports),
        null=nulls,
        misses=sum(report.misses for report in reports),
        seconds=sum(report.seconds for report in reports),
        cache_bytes=max((report.cache_bytes for report in reports), default=0),
        evaluations=sum(report.evaluations for report in reports),
        levels=max((report.levels for report in reports), default=0),
        full_seconds=max(full_seconds, default=None),
        dropped=sum(report.dropped for report in reports),
        skipped=sum(report.skipped for report in reports),
    )
