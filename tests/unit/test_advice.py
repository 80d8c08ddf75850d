"""The sentence for each speed-up at the end of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_report_table import row

from flexsearch.report.advice import advice
from flexsearch.report.rows import Row

SPREAD = np.random.default_rng(0).lognormal(size=32)
KEY = "latent/teacher"


def made(kind: str, error: float, jitter: float = 0.0, images: int = 32) -> Row:
    noise = np.exp(jitter * np.random.default_rng(1).normal(size=32))
    values = tuple((error * SPREAD * noise)[:images].tolist())
    return replace(row(f"the {kind} one", kind, 3.0, 10.0, {KEY: values}), schedule_file="r/3x.json"
                   if kind == "found" else None)  # fmt: skip


FOUND = made("found", 1.0)


@pytest.mark.parametrize(
    ("rivals", "words"),
    [
        ([made("plain", 3.0), made("deepcache", 9.0)], "3x: use r/3x.json; it is better than every rival at its cost"),
        ([made("plain", 3.0), made("spectrum", 1.0, 1.0)],
         "3x: use r/3x.json; it is better than fewer plain steps at its cost, but not clearly better than Spectrum"),
        ([made("plain", 1.0, 1.0)], "3x: keep the plain one: what was found is not clearly better"),
        ([made("plain", 3.0), made("plain_searched", 0.2)],
         "3x: use the plain_searched one (fewer plain steps, searched placement), which is better than what was found"),
        ([], "3x: there is no rival at this cost to compare it with; look at its pictures"),
    ],
)  # fmt: skip
def test_what_to_use(rivals: list[Row], words: str) -> None:
    assert advice([FOUND, *rivals], KEY) == [words]


def test_too_few_images() -> None:
    (sentence,) = advice([made("found", 1.0, images=4), made("plain", 9.0, images=4)], KEY)
    assert "too few images" in sentence
