"""Fixtures of the contract tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from networks import NETWORKS, Network, build, dictionaries


def _param(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow if name.endswith("-original") else ())


@pytest.fixture(scope="session", params=map(_param, NETWORKS))
def network(request: pytest.FixtureRequest) -> Network:
    return build(request.param)


@pytest.fixture(scope="session", params=["sd1", "ddpm-cifar10", "compvis-three-levels"])
def some_network(request: pytest.FixtureRequest) -> Network:
    """For what does not depend on the layout's details."""
    return build(request.param)


@pytest.fixture(scope="session")
def sd1() -> Network:
    return build("sd1")


@pytest.fixture
def untouched() -> Iterator[Callable[[Network], None]]:
    """Call it with a network to have its modules compared at the end of the test with what they were."""
    before: list[tuple[Network, Any]] = []
    yield lambda network: before.append((network, dictionaries(network.unet)))
    for network, found in before:
        assert dictionaries(network.unet) == found
