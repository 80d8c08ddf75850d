"""Progress: plain lines every ten seconds with the time left, or a bar on a terminal."""

from __future__ import annotations

import io
import re

import pytest

from flexsearch.cli.progress import Lines, duration, stage


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[str]:
    """The lines without their time of day, which every one must have."""
    found = stream.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in found)
    return [line[9:] for line in found]


def test_a_line_every_ten_seconds_with_the_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    at = Lines("search", 100, "evaluations", 0, stream, clock)
    for _ in range(50):
        clock.now += 1.0
        at.advance(note="best 0.4")
    assert lines(stream)[:3] == [
        "search: 100 evaluations",
        "search: 10/100 evaluations, 1 min 30 s left, best 0.4",
        "search: 20/100 evaluations, 1 min 20 s left, best 0.4",
    ]
    assert len(lines(stream)) == 6
    at.finish()
    assert lines(stream)[-1] == "search: 50/100 evaluations, took 50 s, best 0.4"


def test_units_of_an_earlier_call_do_not_count_as_speed() -> None:
    stream, clock = io.StringIO(), Clock()
    at = Lines("search", 100, "evaluations", 80, stream, clock)
    clock.now = 20.0
    at.advance(10)
    assert lines(stream) == ["search: 20 of 100 evaluations to do", "search: 90/100 evaluations, 20 s left"]


def test_a_stage_that_fails_does_not_say_that_it_ended() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="odd"), stage("search", 3, stream=stream) as at:
        at.say("hello")
        raise ValueError("odd")
    assert lines(stream) == ["search: 3 steps", "hello"]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with stage("search [x]", 4, unit="evaluations", done=1, stream=stream) as at:
        at.advance(2, note="best [0.4]")
        at.say("[bold] is text")
        at.advance()
    shown = stream.getvalue()
    assert "search [x]" in shown
    assert "4/4" in shown
    assert "best [0.4]" in shown
    assert "[bold] is text" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (95, "1 min 35 s"), (7322, "2 h 2 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
