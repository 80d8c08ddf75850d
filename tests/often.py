"""Matrices of which every run of the tests looks at a part."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def often(values: Iterable[Any], kept: Collection[Any]) -> list[Any]:
    """Parameters of a test: those not in `kept` are slow tests, as each is like one of these."""
    return [pytest.param(value, marks=() if value in kept else pytest.mark.slow) for value in values]
