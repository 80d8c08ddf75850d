"""Entries of one's own, `package.module:name`, in every open set: solvers, methods, errors, feature modules."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flexiffusion.noise import NoiseLevels
from flexiffusion.schedule import ModelInfo, Sampling, Schedule, Segment, SegmentsPlan
from flexiffusion.solver import euler
from flexsearch.errors import ConfigError
from flexsearch.evaluators.local import measure
from flexsearch.metrics.features import load_features
from flexsearch.named import is_named
from flexsearch.runs import methods
from flexsearch.runs.from_file import settings_of
from flexsearch.runs.progress import Silent
from flexsearch.runs.search_run import start
from flexsearch.runs.settings import Settings
from flexsearch.sampling.solvers import solver_maker

OWN = """
import numpy as np
from flexiffusion.solver import euler as my_euler
from flexsearch.runs.methods import placement

NUMBER = 5

def count(outcome, reference):
    return np.full(3, 7.0)

def first_half(experiment):
    return ("a method of", experiment)
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_entries.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def test_settings_take_them() -> None:
    settings = Settings(method="own_entries:first_half", solver="own_entries:my_euler", error="own_entries:count")
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert settings.objective.paired and settings.solver_name == "my_euler"


def test_each_is_used_as_an_entry_of_the_tool_is() -> None:
    assert solver_maker("own_entries:my_euler", NoiseLevels((3.0, 2.0, 1.0))) is euler
    assert np.array_equal(measure("own_entries:count")(None, "teacher"), np.full(3, 7.0))  # type: ignore[arg-type]
    experiment: Any = SimpleNamespace(settings=Settings(method="own_entries:first_half"))
    assert methods.build(experiment) == ("a method of", experiment)


@pytest.mark.parametrize(
    ("value", "problem"),
    [("no_such_package.x:y", "No module named"), ("own_entries:missing", "no attribute 'missing'"),
     ("own_entries:NUMBER", "cannot be called: it is int")],
)  # fmt: skip
@pytest.mark.parametrize("flag", ["--method", "--solver", "--error"])
def test_what_cannot_be_used_is_refused_before_the_run_begins(
    flag: str, value: str, problem: str, tmp_path: Path
) -> None:
    settings = Settings(**{flag[2:]: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"^{flag}: .*{problem}"):
        start(tmp_path / "run", settings, Silent())
    assert not (tmp_path / "run").exists()


def test_a_feature_module_that_cannot_be_imported() -> None:
    with pytest.raises(ConfigError, match=r"^--features: 'own_entries:Missing' cannot be imported"):
        load_features("own_entries:Missing")
    with pytest.raises(ConfigError, match="no torch module"):
        load_features("own_entries:NUMBER")


def test_nothing_of_a_stranger_s_file_is_imported(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    sampling = Sampling("trap:anything", None, 6, None, None, None)
    schedule = Schedule("x", ModelInfo("tiny", 9), sampling, SegmentsPlan((Segment(6, 6, 8),)))
    with pytest.raises(ConfigError, match="its sampler 'trap:anything' is not one of this tool"):
        settings_of(schedule, Settings())


@pytest.mark.parametrize("value", ["a:b", "a.b.c:d_1"])
def test_the_form(value: str) -> None:
    assert is_named(value)


@pytest.mark.parametrize("value", ["", ":", "a", "a:", ":b", "a b:c", "a.:b", "a:b.c", "inception:/x/y.pth", "C:x y"])
def test_what_is_not_of_the_form(value: str) -> None:
    assert not is_named(value)
