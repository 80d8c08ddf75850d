"""Calls that a `Run` cannot serve from its cache run in full, are counted, and never raise."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import Network
from plans import F, P, features, plan
from torch import Tensor, nn

from flexiffusion.layouts import find_layout
from flexiffusion.run import Run


class TestMisses:
    def changed(self, network: Network, change: Callable[[int], Tensor], chunks: Any = (0,)) -> Run:
        """F P P P P with another input from the third step on; every result must be right."""
        made = plan(F, P(0), P(0), P(0), P(1))
        conditionings = {rows: network.conditioning(rows) for rows in (1, 2, 3, 4)}
        with Run(network.unet, made) as run:
            for i, sigma in enumerate(made.levels):
                sample = change(i)
                call = lambda s=sample: network(s.float(), conditionings[s.shape[0]])  # noqa: E731
                run.evaluate(sigma)
                # the input does not move, so whatever was right to do gives what the untouched network gives
                torch.testing.assert_close(run(call, sample, chunks), call())
        return run

    @pytest.mark.parametrize(
        "change",
        [
            lambda network, i: network.sample(rows=2 if i < 2 else 1),
            lambda network, i: network.sample(rows=2 if i < 2 else 4),
            lambda network, i: network.sample(size=network.sizes[i >= 2]),
            lambda network, i: network.sample().to(torch.float32 if i < 2 else torch.float64),
        ],
        ids=["fewer rows", "more rows", "size", "dtype"],
    )
    def test_other_input_runs_in_full_once(self, some_network: Network, change: Any) -> None:
        run = self.changed(some_network, lambda i: change(some_network, i))
        # one miss: the call that ran in full instead serves the later steps
        assert (run.report.full, run.report.partial, run.report.misses) == (2, 3, 1)

    def test_sizes_in_turn_keep_their_features(self, sd1: Network) -> None:
        run = self.changed(sd1, lambda i: sd1.sample(rows=1 + i % 2))
        assert (run.report.full, run.report.partial, run.report.misses) == (2, 3, 1)

    def test_a_second_size_within_a_step(self, sd1: Network, caplog: pytest.LogCaptureFixture) -> None:
        """Euler SMEA Dy evaluates each level at the picture's size and at another one: nothing was ever saved."""
        conditioning, made = sd1.conditioning(2), plan(F, P(0), F, P(0))
        with Run(sd1.unet, made) as run:
            for sigma in made.levels:
                for size in sd1.sizes[:2]:
                    run.evaluate(sigma)
                    sample = sd1.sample(size=size)
                    call = functools.partial(sd1, sample, conditioning)
                    torch.testing.assert_close(run(call, sample), call())
        assert (run.report.full, run.report.partial, run.report.misses) == (4, 4, 0)
        assert not run._cache and not caplog.records

    def test_input_that_is_never_the_same(self, sd1: Network, caplog: pytest.LogCaptureFixture) -> None:
        run = self.changed(sd1, lambda i: sd1.sample(rows=(1, 2, 3, 4, 3)[i]))
        assert (run.report.full, run.report.partial, run.report.misses) == (4, 1, 3)
        assert [r.getMessage().partition(": ")[2] for r in caplog.records] == [
            "a call with a size (or a dtype) that the last full step did not have runs in full"
        ]

    def test_batch_that_does_not_part(self, sd1: Network, caplog: pytest.LogCaptureFixture) -> None:
        run = self.changed(sd1, lambda i: sd1.sample(rows=3), ("cond", "uncond"))
        assert (run.report.full, run.report.partial, run.report.misses) == (5, 0, 4)
        assert [r.levelno for r in caplog.records] == [logging.WARNING]

    def test_unknown_identity(self, sd1: Network) -> None:
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, P(0), P(0))
        with Run(sd1.unet, made) as run:
            for sigma, chunks in zip(made.levels, [("a",), ("b",), ("b",)], strict=True):
                run.evaluate(sigma)
                run(lambda: sd1(sample, conditioning), sample, chunks)
        assert (run.report.full, run.report.partial, run.report.misses) == (2, 1, 1)

    def test_chunk_that_missed_the_last_full_step(self, sd1: Network) -> None:
        """The negative prompt left out at a full step: its older feature is not what the plan means."""
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, F, F, P(0, "linear"))
        with Run(sd1.unet, made) as run:
            for sigma, orders in zip(made.levels, ["ab", "ab", "a", "ab"], strict=True):
                run.evaluate(sigma)
                for chunk in orders:
                    run(lambda: sd1(sample, conditioning), sample, (chunk,))
        assert (run.report.full, run.report.partial, run.report.misses) == (6, 1, 1)

    def test_start_in_the_middle_of_a_plan(self, sd1: Network) -> None:
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, P(0), P(0), F, P(0))
        with Run(sd1.unet, made) as run:
            for sigma in made.levels[1:]:
                run.evaluate(sigma)
                run(lambda: sd1(sample, conditioning), sample)
        assert (run.report.full, run.report.partial, run.report.misses) == (2, 2, 1)

    def test_sampler_that_goes_up_again(self, sd1: Network) -> None:
        """Features of lower noise levels are not used at higher ones."""
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, P(0), F, P(0))
        with Run(sd1.unet, made) as run:
            for i in (0, 1, 2, 3, 1):
                run.evaluate(made.levels[i])
                run(lambda: sd1(sample, conditioning), sample)
        assert (run.report.full, run.report.partial, run.report.misses) == (3, 2, 1)

    def test_several_evaluations_at_one_level(self, sd1: Network) -> None:
        """Heun's second evaluation: the same level, so the same action, and one feature."""
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, F, P(0, "linear"), P(0, "linear"))
        with Run(sd1.unet, made) as run:
            for i in (0, 1, 1, 2, 2, 3, 3):
                run.evaluate(made.levels[i])
                run(lambda: sd1(sample, conditioning), sample)
                assert len(features(run)) <= 2
        assert (run.report.full, run.report.partial, run.report.misses) == (3, 4, 0)

    def test_network_called_twice(self, sd1: Network, caplog: pytest.LogCaptureFixture) -> None:
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, P(0), P(0))

        def twice() -> Tensor:
            return sd1(sample, conditioning) + sd1(sample, conditioning)

        with Run(sd1.unet, made) as run:
            for sigma in made.levels:
                run.evaluate(sigma)
                assert torch.equal(run(twice, sample), twice())
        assert (run.report.full, run.report.misses) == (3, 2)
        assert [r.name for r in caplog.records] == ["flexiffusion"]
        assert "more than once" in caplog.text

    def test_network_never_called(self, sd1: Network, caplog: pytest.LogCaptureFixture) -> None:
        """A host that runs an engine of its own in the place of the network."""
        made = plan(F, P(0), P(0))
        with Run(sd1.unet, made) as run:
            for sigma in made.levels:
                run.evaluate(sigma)
                assert run(lambda: "result", sd1.sample()) == "result"
        assert (run.report.full, run.report.misses) == (3, 2)
        assert [r.message.split(": ")[1] for r in caplog.records] == [
            "the part of the network that partial steps pass by did not run (something replaces it?)"
            "; partial steps run in full"
        ]

    def test_calls_that_another_node_leaves_out(self, sd1: Network, caplog: pytest.LogCaptureFixture) -> None:
        """EasyCache hands out what it remembers: 16 calls were reported where the network ran 7."""
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, P(0), F, P(0), P(0), F)
        left_out, ran = {2, 4, 5}, 0

        def call(i: int) -> Tensor:
            nonlocal ran
            if i in left_out:
                return sample
            ran += 1
            return sd1(sample, conditioning)

        with Run(sd1.unet, made) as run:
            for i, sigma in enumerate(made.levels):
                run.evaluate(sigma)
                result = run(functools.partial(call, i), sample)
                assert (result is sample) == (i in left_out)
        report = run.report
        assert (report.full, report.partial, report.misses, report.skipped) == (2, 1, 1, 3)
        assert ran == report.full + report.partial, "the network runs as often as is said"
        assert "skipped by another node 3" in str(report)
        assert "did not run" not in caplog.text


class TestNotFinite:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("rows", [slice(0, 2), slice(3, 4)])
    def test_feature_is_dropped(self, some_network: Network, value: float, rows: slice, caplog: Any) -> None:
        network = some_network
        sample, conditioning = network.sample(rows=4), network.conditioning(4)
        made = plan(F, P(0), P(0), F, P(0))
        last = find_layout(network.unet).deep(0)[-1]
        poison = [True]

        def hook(module: nn.Module, args: Any) -> None:
            if poison.pop(0) if poison else False:
                args[0][rows] = value

        inner = next(m for m in last.modules() if isinstance(m, nn.Conv2d))
        handle = inner.register_forward_pre_hook(hook)
        try:
            with Run(network.unet, made) as run:
                for sigma in made.levels:
                    run.evaluate(sigma)
                    result = run(lambda: network(sample, conditioning), sample, ("cond", "uncond"))
            assert result.isfinite().all()
        finally:
            handle.remove()
        assert (run.report.full, run.report.partial, run.report.misses) == (3, 2, 1)
        assert [(r.name, r.levelno) for r in caplog.records] == [("flexiffusion", logging.WARNING)]
        assert "not finite" in caplog.text

    def test_older_feature_lowers_the_order(self, sd1: Network) -> None:
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, F, P(0, "linear"))
        with Run(sd1.unet, made) as run:
            for i, sigma in enumerate(made.levels):
                run.evaluate(sigma)
                result = run(lambda: sd1(sample, conditioning), sample)
                if i == 0:
                    features(run)[0].fill_(math.nan)
                    for chunk in run._cache.values():
                        chunk.histories[0][0].finite = False
        assert torch.equal(result, sd1(sample, conditioning))
        assert (run.report.partial, run.report.misses) == (1, 0)
