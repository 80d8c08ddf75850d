"""A network that several threads call at once: each call's changes are its own, and none of them is left (rule 11)."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import Network, build
from torch import nn

from flexiffusion.cut import capturing, skipping
from flexiffusion.layouts import find_layout
from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action

PARTIAL = Action("partial", 1)
LEVELS = (8.0, 4.0, 2.0, 1.0)


@pytest.fixture(scope="module")
def unet() -> Network:
    network = build("compvis-ldm4")
    text = network.conditioning(2)  # random, and here the same in all calls
    return replace(network, conditioning=lambda rows: text)


@pytest.fixture(autouse=True)
def _untouched(unet: Network) -> Iterator[None]:
    before = [dict(vars(module)) for module in unet.unet.modules()]
    yield
    assert [dict(vars(module)) for module in unet.unet.modules()] == before


def contexts(network: Network, seed: int) -> tuple[Callable[[], Any], Any]:
    """A way to make a partial call's context, from a full call of this seed; and what the call returns."""
    layout = find_layout(network.unet)
    with torch.no_grad(), capturing(layout, {1}) as capture:
        output = network(network.sample(seed=seed), network.conditioning(2))
    return lambda: skipping(layout, 1, capture.features[1], capture.shapes), output


@contextmanager
def in_step(order: str) -> Iterator[Callable[[str], None]]:
    """`reached("a")` waits until every letter before that "a" in the order was reached; each letter is used in turn."""
    done = threading.Condition()
    rest = list(order)

    def reached(letter: str) -> None:
        with done:
            assert done.wait_for(lambda: rest[0] == letter, timeout=60)
            rest.pop(0)
            done.notify_all()

    yield reached
    assert rest == []


@pytest.mark.parametrize("order", ["ab-ab-ab", "ab-ab-ba", "ba-ab-ba", "ab-ba-ab"])
def test_two_partial_calls_of_one_network_in_any_order(unet: Network, order: str) -> None:
    """Each enters its context, calls, leaves it; a call gets its own feature, not the other thread's."""
    calls = {"a": (0, *contexts(unet, 0)), "b": (1, *contexts(unet, 1))}
    with in_step(order.replace("-", "")) as reached:

        @torch.no_grad()
        def call(name: str) -> tuple[Any, bool]:
            seed, context, _ = calls[name]
            reached(name)
            with context() as partial:
                reached(name)
                output = unet(unet.sample(seed=seed), unet.conditioning(2))
                reached(name)
            return output, partial.delivered

        with ThreadPoolExecutor(2) as pool:
            results = {name: pool.submit(call, name) for name in "ab"}
    for name, (_, _, expected) in calls.items():
        output, delivered = results[name].result()
        assert delivered and torch.equal(output, expected)


def test_a_plain_call_on_another_thread_is_the_network_itself(unet: Network) -> None:
    context, _ = contexts(unet, 0)
    with torch.no_grad():
        expected = unet(unet.sample(seed=5), unet.conditioning(2))
        with context() as partial, ThreadPoolExecutor(1) as pool:
            plain = pool.submit(torch.no_grad()(lambda: unet(unet.sample(seed=5), unet.conditioning(2)))).result()
    assert torch.equal(plain, expected) and not partial.delivered


def test_many_runs_of_one_network_at_once_are_the_same_runs_one_by_one(unet: Network) -> None:
    def sampled(seed: int) -> tuple[list[torch.Tensor], str]:
        plan = Plan(LEVELS, (FULL, PARTIAL) * 2, 0)
        outputs = []
        with torch.no_grad(), Run(unet.unet, plan) as run:
            for i, sigma in enumerate(LEVELS):
                run.evaluate(sigma)
                sample = unet.sample(seed=10 * seed + i)
                outputs.append(run(functools.partial(unet, sample, unet.conditioning(2)), sample))
        return outputs, f"{run.report.full} {run.report.partial} {run.report.misses}"

    alone = [sampled(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(sampled, range(4)))
    for one, other in zip(alone, together, strict=True):
        assert one[1] == other[1] == "2 2 0"
        assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))


def test_a_run_whose_calls_come_from_several_threads(unet: Network) -> None:
    """The prompt's call from one thread, the negative prompt's from another: one after the other, each with its own."""
    plan = Plan(LEVELS, (FULL, PARTIAL) * 2, 0)
    with Run(unet.unet, plan) as run, ThreadPoolExecutor(2) as pool:
        for sigma in LEVELS:
            run.evaluate(sigma)

            @torch.no_grad()
            def call(side: int) -> torch.Tensor:
                sample = unet.sample(seed=side)
                return run(lambda: unet(sample, unet.conditioning(2)), sample, (side,))

            list(pool.map(call, (0, 1)))
    assert (run.report.full, run.report.partial, run.report.misses) == (4, 4, 0)


def test_a_network_that_runs_on_a_thread_of_its_own_is_not_cut(unet: Network) -> None:
    """The run cannot see such a call: it runs in full, which is counted, and never fails."""
    plan = Plan(LEVELS, (FULL, PARTIAL) * 2, 0)

    def elsewhere(module: nn.Module, sample: torch.Tensor) -> torch.Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.no_grad()(lambda: unet(sample, unet.conditioning(2)))).result()

    with torch.no_grad(), Run(unet.unet, plan) as run:
        for sigma in LEVELS:
            run.evaluate(sigma)
            sample = unet.sample()
            result = run(functools.partial(elsewhere, unet.unet, sample), sample)
            assert torch.equal(result, unet(sample, unet.conditioning(2)))
    assert (run.report.full, run.report.partial, run.report.misses) == (4, 0, 2)
