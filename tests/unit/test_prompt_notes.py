"""What a person is told of the prompts and the size that they gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexsearch.errors import ModelError
from flexsearch.models import load
from flexsearch.models.load import load_model
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings


def notes(folder: Path, model: str, *prompts: str) -> list[str]:
    settings = Settings(model=model, steps=6, speedups=(2.0,), prompts=prompts, batch=1)
    return [line for line in Experiment(settings, folder).described().splitlines() if line.startswith("note:")]


def test_prompts_of_a_model_that_draws_without_them(tmp_path: Path) -> None:
    assert notes(tmp_path, "pixel", "a bag", "a shirt") == [
        "note: pixel draws without prompts; those that were given are not used"
    ]
    assert notes(tmp_path, "pixel") == []


def test_prompts_that_are_cut(tmp_path: Path) -> None:
    (line,) = notes(tmp_path, "tiny", "a bag " * 60, "a shirt")
    assert line.startswith("note: 1 of 2 prompts have more than ") and line.endswith(
        "tokens; the rest of each is not read"
    )
    assert notes(tmp_path, "tiny", "a bag", "a shirt") == []


def test_a_size_that_no_memory_holds_is_refused_before_anything_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "total_memory", lambda device: 1 << 30)
    with pytest.raises(ModelError, match="not even one picture of 65536x65536 fits into the memory of cpu"):
        load_model("tiny", "cpu", "float32", (65536, 65536))
    assert load_model("tiny", "cpu", "float32", (64, 64)).image_size == (64, 64)
