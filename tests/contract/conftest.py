"""Fixtures of the contract tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from networks import NETWORKS, Network, build, dictionaries

# Of the same classes of units as another network, or of fewer of them: name -> that other.
ALIKE = {
    "ddpm-256": "ddpm-cifar10",
    "ddpm-no-middle": "ddpm-cifar10",
    "ldm-unconditional": "ddpm-cifar10",
    "sd1-inpaint": "sd1",
    "sd2": "sd1",
    "ldm-text": "sd1",
    "class-conditional": "sdxl",
    "compvis-sd2": "compvis-sd1",
    "compvis-ldm4": "compvis-sd1",
}


def _param(name: str, alike: Collection[str] = ()) -> Any:
    return pytest.param(name, marks=pytest.mark.slow if name.endswith("-original") or name in alike else ())


@pytest.fixture(scope="session", params=map(_param, NETWORKS))
def every_network(request: pytest.FixtureRequest) -> Network:
    """For the main checks."""
    return build(request.param)


@pytest.fixture(scope="session", params=[_param(name, ALIKE) for name in NETWORKS])
def network(request: pytest.FixtureRequest) -> Network:
    """For the others: those that are like another one in the slow tests only."""
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
