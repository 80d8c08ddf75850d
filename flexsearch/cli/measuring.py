"""The part of measuring that `run`, `evaluate` and `compare` show in the same way."""

from __future__ import annotations

from collections.abc import Sequence

from flexsearch.cli.progress import stage
from flexsearch.engines.local import LocalEngine, Outcome
from flexsearch.search import verdict
from flexsearch.search.verdict import Choice


def time_all(engine: LocalEngine, measured: Sequence[tuple[Choice, Outcome]]) -> dict[str, list[float]]:
    """`verdict.timed` for all choices, with its progress."""
    with stage("timing", verdict.MOST_TURNS, "turns at most") as at:
        return verdict.timed(engine, measured, lambda note: at.advance(note=note))
