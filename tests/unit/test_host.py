"""What the doors into hosts share."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from flexiffusion.host import SamplingReport, full_plan, in_full, nothing_saved, total, why_not_cut
from flexiffusion.plan import Plan
from flexiffusion.run import Report
from flexiffusion.schedule import FULL, Action

REPORT = Report(12, 8, 10, 0, 3.0, 2**20, 20, 20, 0.2, 0)


def test_a_report_reads_the_same_in_every_host() -> None:
    report = SamplingReport("sd15-turns-12", replace(REPORT, dropped=40), 30)
    assert report.counts == "full 12, partial 8, null 10, misses 0, dropped units 40"
    assert report.line.startswith("sd15-turns-12: full 12, partial 8, null 10, misses 0, dropped units 40, 3.00 s")
    assert report.line.endswith("; estimated 2.00x against 30 full steps")
    assert SamplingReport(None, REPORT, 30).line.startswith("no schedule: full 12")


def test_networks_one_after_the_other_count_together() -> None:
    refiner = replace(REPORT, full=2, partial=3, misses=1, seconds=1.5, cache_bytes=7, full_seconds=None, null=99)
    both = total([REPORT, refiner], 10)
    assert (both.full, both.partial, both.null, both.misses) == (14, 11, 10, 1)
    assert (both.seconds, both.cache_bytes, both.evaluations, both.levels) == (4.5, 2**20, 40, 20)
    assert both.full_seconds == 0.2
    assert total([], 3) == Report(0, 0, 3, 0, 0.0, 0)


def test_it_is_said_when_no_planned_partial_step_ran() -> None:
    assert nothing_saved("mine", REPORT) is None
    assert nothing_saved("mine", replace(REPORT, partial=0)) is None
    said = nothing_saved("mine", replace(REPORT, partial=0, misses=8))
    assert said is not None and said.startswith("mine: not one step could run in part")


def test_plans_in_full_keep_levels_and_warnings() -> None:
    plan = Plan((3.0, 1.0), (FULL, Action("partial", 0)), 4, "stretched")
    assert in_full(plan) == Plan((3.0, 1.0), (FULL, FULL), 4, "stretched")
    assert full_plan([3.0, 1.0]) == Plan((3.0, 1.0), (FULL, FULL), 0)


def test_a_network_that_cannot_be_cut_is_told_with_the_reason() -> None:
    assert "Linear: not a network that can be cut" in str(why_not_cut(nn.Linear(1, 1)))
