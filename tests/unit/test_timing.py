"""Timing: a person is told when the machine's other work makes the measured speed-ups worthless."""

from __future__ import annotations

from typing import Any, cast

import pytest

from flexsearch.runs import final_table
from flexsearch.runs.progress import Silent


@pytest.mark.parametrize(
    ("turns", "busy"),
    [([0.3, 6.4, 6.5], "21.3 times"), ([0.3, 0.31, 6.4], None), ([0.3], None)],
    ids=["most turns are slow", "one slow turn", "one turn"],
)
def test_says_where_times_cannot_be_relied_on(
    turns: list[float], busy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {"steady": [0.1] * len(turns), "other": turns}
    monkeypatch.setattr(final_table, "timed", lambda *_: taken)
    lines: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "say", lines.append)
    assert final_table.time_all(cast(Any, None), [], progress) == taken
    said = "".join(lines)
    assert ("This machine was busy" in said) == (busy is not None)
    assert busy is None or busy in said
