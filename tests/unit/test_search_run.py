"""A search from Python: no command line, no click context, progress by a callback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from flexiffusion import codec
from flexsearch.runs.measure_files import measure_files
from flexsearch.runs.progress import Silent, Stage
from flexsearch.runs.search_run import start
from flexsearch.runs.settings import Settings


class Kept(Silent):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.lines: list[str] = []

    @contextlib.contextmanager
    def stage(self, label: str, total: int, unit: str = "steps", done: int = 0) -> Iterator[Stage]:
        self.stages.append(label)
        yield self

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_a_search_and_its_files_from_python(tmp_path: Path) -> None:
    settings = Settings(steps=8, speedups=(2.0,), evaluations=6, images=2, held_out=2, planner=False)
    told = Kept()
    result = start(tmp_path / "run", settings, told)
    assert told.stages == ["teacher and converged reference", "search", "final table", "timing"]
    assert any(line.startswith("model: tiny") for line in told.lines)
    (path,) = result.schedules
    schedule = codec.read(path)
    assert {row.kind for row in result.rows} >= {"teacher", "found", "plain"} and result.comparisons
    again = measure_files([(str(path), schedule)], Settings(held_out=2), Silent())
    assert [row.kind for row in again.rows] == ["teacher", "found"]
    found = next(row for row in result.rows if row.kind == "found")
    assert again.rows[1].errors["latent/teacher"].mean == found.errors["latent/teacher"].mean
