"""The final table on a wide and a narrow terminal, and as Markdown."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from flexiffusion.search.paired import estimate
from flexsearch.report.rows import Row
from flexsearch.report.table import WIDE, FinalTable, markdown, multiply_adds

SPREAD = np.random.default_rng(0).lognormal(size=256)


def errors(mean: float, jitter: float = 0.0) -> tuple[float, ...]:
    spread = SPREAD * np.exp(jitter * np.random.default_rng(1).normal(size=256))
    return tuple((mean * spread / spread.mean()).tolist())


def row(label: str, kind: str, speedup: float | None, cost: float, images: dict[str, tuple[float, ...]]) -> Row:
    estimates = {key: estimate(np.array(values)) for key, values in images.items()}
    return Row(label, kind, speedup, 6, 6, cost, cost * 4.3e9, 30 / cost, 0.15, 2.7, estimates, 0.32, 256,
               image_errors=images)  # type: ignore[arg-type]  # fmt: skip


def rows() -> list[Row]:
    made = [row("teacher, 30 steps", "teacher", None, 30.0, {"latent/converged": errors(5.8e-4)})]
    for kind, label, error, jitter, cost in (
        ("found", "found 6 + 6", 4e-4, 0.0, 10.0),
        ("plain", "10 steps, log-SNR", 1e-3, 0.0, 10.0),
        ("plain_searched", "10 steps, searched", 4.2e-4, 1.0, 10.0),
        ("deepcache", "DeepCache 3 | branch 0", 2e-4, 0.0, 10.8),
    ):
        images = errors(error, jitter)
        made.append(row(label, kind, 3.0, cost, {"latent/teacher": images, "latent/converged": images}))
    return made


def text(width: int, content: list[Row]) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(FinalTable(content))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [80, WIDE, 200])
def test_every_figure_is_readable_at_every_width(width: int) -> None:
    shown = text(width, rows())
    assert all(len(line) <= width for line in shown.splitlines())
    assert "…" not in shown
    figures = ["4.00e-4", "10.80", "6 F + 6 p", "43 G", "2.70x", "0.15 s", "0.32", "(256)"]
    for figure in figures:
        assert figure in shown


def test_the_words_for_each_rival() -> None:
    cells = [re.split(r"\s{2,}", line.strip()) for line in text(200, rows()).splitlines()]
    assert next(row for row in cells if row[:2] == ["3x", "latent error to teacher"])[2:] == [
        "better (0.40)",
        "no clear difference (0.95)",
        "worse (2.00)",
    ]
    assert "at 0.93 of its cost" in text(200, rows())
    assert len(re.findall(r"nearer on \d+ of 256", text(200, rows()))) == text(200, rows()).count("no clear difference")


def test_what_was_not_measured_says_so() -> None:
    unknown = {"relative_fid": None, "relative_fid_n": None, "seconds_per_image": None, "speedup_measured": None}
    bare = [replace(row, **unknown) for row in rows()]  # type: ignore[arg-type]
    assert "not timed" in text(WIDE, bare)
    assert "–" in text(WIDE, bare)


def test_only_a_teacher_has_no_verdicts() -> None:
    assert "against" not in text(WIDE, rows()[:1])


def test_markdown_is_one_table_row_per_row() -> None:
    lines = markdown(rows()).splitlines()
    measured = lines[: lines.index("")]
    assert len(measured) == 2 + len(rows())
    assert {line.replace("\\|", "").count("|") for line in measured} == {10}
    assert "DeepCache 3 \\| branch 0" in measured[-1]
    assert any("no clear difference (0.95)" in line for line in lines)


def test_multiply_adds() -> None:
    assert [multiply_adds(v) for v in (4.016e11, 5.2e12, 999, 1500)] == ["402 G", "5.2 T", "999", "1.5 k"]
