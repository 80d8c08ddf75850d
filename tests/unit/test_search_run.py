"""A search from Python: no command line, no click context, progress by a callback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import flexsearch
from flexiffusion import codec
from flexiffusion.search import macro_steps, refining
from flexsearch.errors import RunFolderError
from flexsearch.report import figures
from flexsearch.runs import final_table
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.measure_files import measure_files
from flexsearch.runs.progress import Silent, Stage
from flexsearch.runs.search_run import start
from flexsearch.runs.settings import Settings
from flexsearch.sampling import references


class Kept(Silent):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.lines: list[str] = []
        self.expected: list[str] = []
        self.totals: list[int] = []
        self.counts: list[list[int]] = []

    def expect(self, work: Mapping[str, float]) -> None:
        assert all(amount > 0 for amount in work.values())
        self.expected += work

    @contextlib.contextmanager
    def stage(self, label: str, total: int, unit: str = "steps", done: int = 0) -> Iterator[Stage]:
        self.stages.append(label)
        self.totals.append(total)
        self.counts.append([])
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        self.counts[-1].append(count)

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_a_search_that_begins_with_plans_and_its_files_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(macro_steps, "LEVELS", 6)
    monkeypatch.setattr(references, "CONVERGED_STEPS", 12)
    monkeypatch.setattr(final_table, "MOST_TURNS", 1)
    monkeypatch.setattr(final_table, "TIMED_IMAGES", 2)
    settings = Settings(steps=8, speedups=(2.0,), evaluations=6, images=2, held_out=2)
    told, drawn = Kept(), list[str]()
    samples = figures.samples
    monkeypatch.setattr(
        figures, "samples", lambda path, strips: (drawn.extend(label for label, _ in strips), samples(path, strips))
    )
    result = start(tmp_path / "run", settings, told)
    assert told.stages == ["teacher and converged reference", "planner's tables", "search",
                           "rivals on the search images", "solvers refined", "final table", "timing"]  # fmt: skip
    assert told.expected == told.stages, "what the time left is told by has every stage"
    assert told.totals[0] == sum(told.counts[0]) == 2 * 8 + 2 * (8 + 12), "inside an image set, step by step"
    assert len(told.counts[0]) == 8 + 8 + 12
    calls: list[int] = []
    Experiment(settings, tmp_path / "run" / "references").draw_references(calls.append)
    assert calls == [2 * 8, 2 * 8, 2 * 12], "what was kept is there at once"
    assert list((tmp_path / "run" / "references").glob("tables-*"))
    assert any(line.startswith("model: tiny") for line in told.lines)
    (path,) = result.schedules
    schedule = codec.read(path)
    assert [label.partition("\n")[0] for label in drawn] == ["teacher, 8 steps", "2x found", "2x plain"]
    assert all(label.endswith(" s a picture") for label in drawn)
    assert {row.kind for row in result.rows} >= {"teacher", "found", "plain"} and result.comparisons
    again = measure_files([(str(path), schedule)], Settings(held_out=2), Silent())
    assert [row.kind for row in again.rows] == ["teacher", "found"]
    found = next(row for row in result.rows if row.kind == "found")
    assert again.rows[1].errors["latent/teacher"].mean == found.errors["latent/teacher"].mean


def test_search_is_the_public_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted by its callback, and gone on with: the result is that of the run."""
    monkeypatch.setattr(refining, "FEW", 2)  # nothing is refined: the test above does
    monkeypatch.setattr(references, "CONVERGED_STEPS", 12)
    monkeypatch.setattr(final_table, "MOST_TURNS", 1)
    monkeypatch.setattr(final_table, "TIMED_IMAGES", 2)
    asked = {"steps": 8, "speedups": (2.0,), "evaluations": 4, "images": 2, "held_out": 2, "planner": False}
    told: list[tuple[str, int, int]] = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if stage == "search" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flexsearch.search(tmp_path / "run", progress=stop, **asked)
    assert told[0] == ("teacher and converged reference", 0, 2 * 8 + 2 * (8 + 12)) and told[-1] == ("search", 2, 4)
    with pytest.raises(RunFolderError):
        flexsearch.search(tmp_path / "run", **asked)
    told.clear()
    result = flexsearch.search(tmp_path / "run", progress=lambda *step: told.append(step))
    assert isinstance(result, flexsearch.Result) and [path.suffix for path in result.schedules] == [".json"]
    assert ("search", 4, 4) in told and told[-1][0] == "timing"
    with pytest.raises(TypeError, match="unexpected keyword"):
        flexsearch.search(tmp_path / "other", speed=2)
