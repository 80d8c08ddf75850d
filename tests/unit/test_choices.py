"""The words that settings take are those that there is something for."""

from __future__ import annotations

from flexiffusion.noise import SPACINGS
from flexiffusion.search.objective import ERRORS, STATISTICS
from flexsearch import choices
from flexsearch.models.prediction import PREDICTIONS
from flexsearch.runs.methods import BUILDERS
from flexsearch.sampling.solvers import MAKERS


def test_every_word_has_its_entry_and_every_entry_its_word() -> None:
    assert set(choices.METHODS) == set(BUILDERS)
    assert {*choices.SOLVERS, "dpmpp_3m"} == set(MAKERS) and choices.FITTED not in MAKERS
    assert choices.PREDICTIONS == PREDICTIONS
    assert choices.SPACINGS == SPACINGS and choices.ERRORS == ERRORS and choices.STATISTICS == STATISTICS
