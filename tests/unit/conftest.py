"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest

from flexiffusion.search.methods import autodiffusion, segments


@pytest.fixture
def small_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations of six, so that some dozen trials breed; with the paper's fifty they would all be drawn at random."""
    monkeypatch.setattr(segments, "POPULATION", 6)
    for name, value in {"POPULATION": 6, "MUTANTS": 3, "CROSSES": 2, "STEPS_GENERATIONS": 1}.items():
        monkeypatch.setattr(autodiffusion, name, value)
