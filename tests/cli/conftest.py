"""What tests of commands and of whole runs share: see test_pipeline_search.py in tests/unit for one that borrows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from flexiffusion.cost import CostTable
from flexsearch.models import costs
from flexsearch.runs import cache_rivals, final_table
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
    """These tests look at what commands write, not at speed-ups, the best rival, or how converged the converged
    solution is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(final_table, "FEWEST_TURNS", 1)
        patch.setattr(final_table, "MOST_TURNS", 1)
        patch.setattr(final_table, "TIMED_IMAGES", 2)
        patch.setattr(references, "CONVERGED_STEPS", 12)
        patch.setattr(cache_rivals, "HALVINGS", 2)
        yield
