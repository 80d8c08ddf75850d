"""What a `Run` holds, for how long, and that nothing is left of it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from networks import Network
from plans import F, P, features, plan, timestep
from torch import Tensor

from flexiffusion.cut import capturing
from flexiffusion.layouts import find_layout
from flexiffusion.run import Run


class TestMemory:
    @pytest.mark.parametrize(("predictor", "tensors"), [("reuse", 1), ("linear", 2), ("quadratic", 3)])
    def test_tensors_for_each_chunk(self, some_network: Network, predictor: Any, tensors: int) -> None:
        network = some_network
        sample, conditioning = network.sample(rows=4), network.conditioning(4)
        made = plan(*[F, F, F, P(1, predictor), P(1, predictor)] * 3)
        with capturing(find_layout(network.unet), {1}) as capture:
            network(sample, conditioning)
        size = sum(part.bytes for part in capture.slices[1])
        with Run(network.unet, made) as run:
            for i, sigma in enumerate(made.levels):
                run.evaluate(sigma)
                run(lambda: network(sample, conditioning), sample, ("cond", "uncond"))
                held = features(run)
                assert len(held) <= 2 * tensors
                # slices of one joint tensor would hold all of it
                assert all(f.untyped_storage().nbytes() == f.numel() * 4 for f in held)
                if made.actions[i].kind == "partial":
                    assert len(held) == 2 * tensors
        assert run.report.cache_bytes == tensors * size
        assert run.report.misses == 0

    def test_freed_as_soon_as_no_later_step_needs_it(self, sd1: Network) -> None:
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, P(0), F, F, P(0, "linear"), F, F)
        held = []
        with Run(sd1.unet, made) as run:
            for sigma in made.levels:
                run.evaluate(sigma)
                run(lambda: sd1(sample, conditioning), sample)
                held.append(len(features(run)))
        assert held == [1, 1, 1, 2, 2, 0, 0]

    def test_branches_of_several_segments(self, sd1: Network) -> None:
        """Only what the plan asks for; another branch at the same full step is one tensor more."""
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, P(0), P(3), F, P(-1), F)
        held = []
        with Run(sd1.unet, made) as run:
            for sigma in made.levels:
                run.evaluate(sigma)
                run(lambda: sd1(sample, conditioning), sample)
                held.append(len(features(run)))
        assert held == [2, 2, 1, 1, 1, 0]
        assert run.report.partial == 3

    @pytest.mark.parametrize("at", [None, 1, 2, 3])
    def test_all_is_freed_at_the_end(self, some_network: Network, at: int | None, untouched: Any) -> None:
        """Also after an interrupt in a full or partial call, while somebody still keeps the exception."""
        network = some_network
        untouched(network)
        sample, conditioning = network.sample(), network.conditioning(2)
        made = plan(F, F, P(0, "linear"), P(0))
        kept: list[BaseException] = []
        references: list[weakref.ref[Tensor]] = []

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        head = network.unet.out[0] if network.kind == "ldm" else network.unet.conv_norm_out
        run = Run(network.unet, made)
        hooks = []
        try:
            with run:
                for i, sigma in enumerate(made.levels):
                    run.evaluate(sigma)
                    if i == at:
                        hooks.append(head.register_forward_pre_hook(interrupt))
                    references += [weakref.ref(feature) for feature in features(run)]
                    run(lambda: network(sample, conditioning), sample)
                    references += [weakref.ref(feature) for feature in features(run)]
        except KeyboardInterrupt as error:
            kept.append(error)
        for hook in hooks:
            hook.remove()
        assert len(kept) == (at is not None)
        assert references
        gc.collect()
        assert [reference() for reference in references] == [None] * len(references)
        assert run.report.cache_bytes > 0
        assert run.report == run.report  # the clock has stopped

    def test_interrupted_run_leaves_the_next_one_alone(self, sd1: Network) -> None:
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        made = plan(F, P(0), P(0))

        def sampling(stop: int | None) -> list[Tensor]:
            results = []
            with Run(sd1.unet, made) as run:
                for i, sigma in enumerate(made.levels):
                    run.evaluate(sigma)
                    if i == stop:
                        raise KeyboardInterrupt
                    results.append(run(lambda t=sigma: sd1(sample, conditioning, timestep(t)), sample))
            return results

        expected = sampling(None)
        with pytest.raises(KeyboardInterrupt):
            sampling(1)
        assert all(torch.equal(a, b) for a, b in zip(sampling(None), expected, strict=True))
