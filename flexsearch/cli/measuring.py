"""The part of measuring that `run`, `evaluate` and `compare` show in the same way."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from flexsearch.cli.output import say
from flexsearch.cli.progress import stage
from flexsearch.engines.local import LocalEngine, Outcome
from flexsearch.runs import final_table as verdict
from flexsearch.runs.final_table import Choice

UNSTEADY = 1.25  # median turn / fastest: a machine with nothing else to do stays below, whatever one slow turn does


def time_all(engine: LocalEngine, measured: Sequence[tuple[Choice, Outcome]]) -> dict[str, list[float]]:
    """`verdict.timed` for all choices, with its progress; says so where the times cannot be relied on."""
    with stage("timing", verdict.MOST_TURNS, "turns at most") as at:
        seconds = verdict.timed(engine, measured, lambda note: at.advance(note=note))
    spread = max(statistics.median(turns) / min(turns) for turns in seconds.values())
    if spread > UNSTEADY:
        say(
            f"This machine was busy while it timed: one schedule usually took {spread:.1f} times its shortest time. "
            "Do not rely on the measured speed-ups; `flexsearch compare` measures them again."
        )
    return seconds
