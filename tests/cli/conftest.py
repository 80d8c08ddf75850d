"""What tests of commands and of whole runs share: see test_pipeline_search.py in tests/unit for one that borrows it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from flexiffusion.cost import CostTable
from flexiffusion.search import refining
from flexiffusion.search.seeds import Seed
from flexsearch.models import costs
from flexsearch.runs import cache_rivals, experiment, final_table
from flexsearch.sampling import references

_counted: dict[str, CostTable] = {}


@pytest.fixture(autouse=True, scope="module")
def multiply_adds_counted_once() -> Iterator[None]:
    """Every command counts its network's multiply-adds, for seconds; test_models.py tests the counting itself."""
    count = costs.unet_macs

    def once(unet: Any, shape: tuple[int, ...], told: Any) -> CostTable:
        parts = {} if told is None else vars(told)
        sizes = {name: None if part is None else tuple(part.shape) for name, part in parts.items()}
        key = json.dumps([dict(unet.config), shape, sizes], default=str, sort_keys=True)
        if key not in _counted:
            _counted[key] = count(unet, shape, told)
        return _counted[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "unet_macs", once)
        yield


@pytest.fixture(autouse=True, scope="module")
def short_measurements() -> Iterator[None]:
    """These tests look at what commands write, not at speed-ups, the best rival, how converged the converged solution
    is, or refined solvers (test_search_run.py and test_fitted_search.py do)."""
    all_seeds = experiment.all_seeds

    def two_of_each_kind(*arguments: Any) -> list[Seed]:
        kinds: defaultdict[str, list[Seed]] = defaultdict(list)
        for seed in all_seeds(*arguments):
            kinds[seed.kind].append(seed)
        return [seed for seeds in kinds.values() for seed in seeds[:2]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "all_seeds", two_of_each_kind)
        patch.setattr(refining, "FEW", 2)
        patch.setattr(final_table, "FEWEST_TURNS", 1)
        patch.setattr(final_table, "MOST_TURNS", 1)
        patch.setattr(final_table, "TIMED_IMAGES", 2)
        patch.setattr(references, "CONVERGED_STEPS", 12)
        patch.setattr(cache_rivals, "HALVINGS", 2)
        yield


@pytest.fixture
def shared_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache of references and measured costs for all tests of this process, and none of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
