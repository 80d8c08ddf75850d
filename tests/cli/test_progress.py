"""Progress: plain lines every ten seconds with the time left, or a bar on a terminal."""

from __future__ import annotations

import io
import re

import pytest

from flexsearch.cli.progress import Lines, duration, stage
from flexsearch.cli.time_left import TimeLeft


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


def begun(left: TimeLeft, label: str, total: int, done: int, stream: io.StringIO) -> Lines:
    left.begin(label, total, done)
    return Lines(label, total, "evaluations", done, stream, left)


def test_a_line_every_ten_seconds_with_the_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    at = begun(TimeLeft(clock), "search", 100, 0, stream)
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
    at = begun(TimeLeft(clock), "search", 100, 80, stream)
    clock.now = 20.0
    at.advance(10)
    assert lines(stream) == ["search: 20 of 100 evaluations to do", "search: 90/100 evaluations, 20 s left"]


def test_a_stage_that_fails_does_not_say_that_it_ended() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="odd"), stage("search", 3, stream=stream) as at:
        at.say("hello")
        raise ValueError("odd")
    assert lines(stream) == ["search: 3 steps", "hello"]


def test_the_time_left_is_that_of_the_whole_run() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left.expect({"references": 100.0, "search": 300.0, "table": 50.0})
    left.begin("references", 20, 0)
    assert left.seconds(0) is None, "nothing tells of it yet"
    clock.now = 10.0
    assert left.seconds(5) == 30.0 + 350 * 10 / 25, "its own rest, and what comes at the speed so far"
    clock.now = 40.0
    left.end()
    left.begin("search", 30, 0)
    clock.now = 100.0  # of work 400 a quarter in 40 s, then 30 in 60 s
    assert left.seconds(3) == pytest.approx(60 / 3 * 27 + 50 * 100 / 130)
    left.end()
    left.begin("table", 2, 0)
    clock.now = 107.0
    assert left.seconds(1) == 7.0, "nothing comes after it"


def test_results_that_were_kept_tell_nothing_of_the_speed() -> None:
    """A run that is resumed has its references at once."""
    clock = Clock()
    left = TimeLeft(clock)
    left.expect({"references": 1000.0, "search": 100.0, "table": 100.0})
    left.begin("references", 1000, 0)
    clock.now = 0.1
    left.end()
    left.begin("search", 10, 0)
    clock.now = 10.1
    assert left.seconds(1) == pytest.approx(90 + 100)


def test_a_stage_alone_has_its_own_time_left() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left.begin("measure", 4, 0)
    clock.now = 5.0
    assert left.seconds(1) == 15.0


@pytest.mark.parametrize("label", ["search", "teacher and converged reference", "planner's tables"])
def test_a_bar_in_forty_columns_keeps_its_figures(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = Terminal(), Clock()
    with stage(label, 4000, "network calls", stream=stream, left=TimeLeft(clock)) as at:
        clock.now = 3000.0
        at.advance(1000, note="best 0.4")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).replace("\r", "\n").splitlines()
    assert any(line.startswith(label[:14]) and "1000/4000 2 h 30 min left" in line for line in shown), shown
    assert all(len(line) <= 40 and "…" not in line for line in shown)


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
