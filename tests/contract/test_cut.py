"""The contract of `cut`, for every network of networks.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from calls import assert_partial_after_full_is_the_same, branches, first_tensor, full, reader
from networks import Network, dictionaries
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from flexiffusion.cut import capturing, skipping
from flexiffusion.layouts import find_layout


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that are really computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


class Stop(BaseException):
    """An interrupt, as hosts raise it: no Exception."""


class TestCut:
    def test_full_call_is_untouched(self, network: Network, untouched: Any) -> None:
        untouched(network)
        sample, conditioning = network.sample(), network.conditioning(2)
        assert torch.equal(full(network, sample, conditioning)[0], network(sample, conditioning))

    def test_partial_after_full_is_bitwise_the_same(self, every_network: Network, untouched: Any) -> None:
        untouched(every_network)
        assert_partial_after_full_is_the_same(every_network, every_network.sizes[1])

    @pytest.mark.slow
    def test_partial_after_full_is_bitwise_the_same_at_every_size(self, network: Network) -> None:
        for size in network.sizes:
            assert_partial_after_full_is_the_same(network, size)

    @pytest.mark.parametrize("form", ["bfloat16", "channels last", "inference mode", "grad mode"])
    def test_forms_of_tensors(self, some_network: Network, form: str) -> None:
        unet = copy.deepcopy(some_network.unet)
        network = replace(some_network, unet=unet)
        sample, conditioning = network.sample(), network.conditioning(2)
        mode = torch.no_grad
        if form == "bfloat16":
            unet.to(torch.bfloat16)
            sample = sample.bfloat16()
            conditioning = {name: value.bfloat16() for name, value in conditioning.items()}
        elif form == "channels last":
            unet.to(memory_format=torch.channels_last)
            sample = sample.to(memory_format=torch.channels_last)
        elif form == "inference mode":
            mode = torch.inference_mode
        elif form == "grad mode":
            unet.requires_grad_(True)
            mode = torch.enable_grad
        layout = find_layout(unet)
        with mode(), capturing(layout, branches(layout)) as capture:
            expected = network(sample, conditioning)
        assert not any(t.requires_grad for feature in capture.features.values() for t in feature.streams)
        # outside of the mode of the full call: hosts enter it for every call anew
        for branch in branches(layout):
            with skipping(layout, branch, capture.features[branch], capture.shapes):
                assert torch.equal(network(sample, conditioning), expected), branch

    def test_fresh_feature_is_handed_out_itself(self, some_network: Network) -> None:
        network = some_network
        sample, conditioning = network.sample(), network.conditioning(2)
        expected, layout, capture = full(network, sample, conditioning)
        for branch in branches(layout):
            delivered: list[Tensor] = []
            hook = layout.deep(branch)[-1].register_forward_hook(
                lambda module, args, output, delivered=delivered: delivered.append(first_tensor(output))
            )
            for fresh in (False, True):
                feature = capture.features[branch]
                with skipping(layout, branch, feature, capture.shapes, fresh):
                    assert torch.equal(network(sample, conditioning), expected)
                assert (delivered.pop() is feature.streams[0]) == fresh
            hook.remove()

    def test_every_feature_matters(self, network: Network) -> None:
        sample, conditioning = network.sample(), network.conditioning(2)
        expected, layout, capture = full(network, sample, conditioning)
        for branch in branches(layout):
            with skipping(layout, branch, capture.features[branch].map(lambda t: t * 1.5), capture.shapes):
                assert not torch.equal(network(sample, conditioning), expected), branch

    def test_partial_call_sees_its_own_input_and_timestep(self, network: Network) -> None:
        conditioning = network.conditioning(2)
        before, layout, capture = full(network, network.sample(), conditioning)
        for branch in range(layout.branches):
            with skipping(layout, branch, capture.features[branch], capture.shapes):
                assert not torch.equal(network(network.sample(seed=1), conditioning), before)
            with skipping(layout, branch, capture.features[branch], capture.shapes):
                assert not torch.equal(network(network.sample(), conditioning, 400), before)

    def test_other_batch_than_the_full_call(self, network: Network) -> None:
        sample, conditioning = network.sample(rows=1), network.conditioning(1)
        _, layout, capture = full(network, torch.cat([sample] * 4), _repeated(conditioning, 4))
        expected, _, single = full(network, sample, conditioning)
        returned: list[torch.Size] = []
        hooks = [
            unit.register_forward_hook(lambda m, a, output: returned.append(first_tensor(output).shape))
            for unit in layout.units
        ]
        network(sample, conditioning)
        sizes = returned.copy()
        for branch in branches(layout):
            returned.clear()
            with skipping(layout, branch, single.features[branch], capture.shapes):
                assert torch.equal(network(sample, conditioning), expected)
            assert returned == sizes
        for hook in hooks:
            hook.remove()

    def test_work_shrinks_with_the_branch(self, network: Network) -> None:
        sample, conditioning = network.sample(), network.conditioning(2)
        _, layout, capture = full(network, sample, conditioning)
        counts = []
        for branch in branches(layout):
            with skipping(layout, branch, capture.features[branch], capture.shapes), Convolutions() as convolutions:
                network(sample, conditioning)
            counts.append(convolutions.count)
        with Convolutions() as convolutions:
            network(sample, conditioning)
        assert counts[0] == 1
        assert [*counts, convolutions.count] == sorted({*counts, convolutions.count})

    @pytest.mark.parametrize(
        "some_network",
        ["ddpm-cifar10", "compvis-three-levels", pytest.param("sd1", marks=pytest.mark.slow)],
        indirect=True,
    )
    def test_multiply_adds_grow_with_the_branch(self, some_network: Network) -> None:
        network = some_network
        meta = replace(network, unet=copy.deepcopy(network.unet).to("meta"))
        sample, conditioning = network.sample().to("meta"), _moved(network.conditioning(2))
        with FlopCounterMode(display=False) as counter:
            _, layout, capture = full(meta, sample, conditioning)
        flops = []
        for branch in branches(layout):
            with FlopCounterMode(display=False) as partial, skipping(
                layout, branch, capture.features[branch], capture.shapes
            ):  # fmt: skip
                meta(sample, conditioning)
            flops.append(partial.get_total_flops())
        flops.append(counter.get_total_flops())
        assert flops[0] > 0
        assert flops == sorted(set(flops))

    def test_only_asked_branches_are_kept(self, network: Network) -> None:
        layout = find_layout(network.unet)
        sample, conditioning = network.sample(), network.conditioning(2)
        with capturing(layout, {1, 3}, parts=2) as capture:
            network(sample, conditioning)
        assert capture.slices.keys() == {1, 3}
        assert capture.shapes.outputs.keys() == set(layout.deep(1))
        for slices in capture.slices.values():
            # each slice has memory of its own, so that it can be freed alone
            parts = [stream for part in slices for stream in part.streams]
            assert len({part.untyped_storage().data_ptr() for part in parts}) == 2
            assert all(part.untyped_storage().nbytes() == part.numel() * 4 for part in parts)

    def test_no_branches_touch_nothing(self, network: Network) -> None:
        before = dictionaries(network.unet)
        with capturing(find_layout(network.unet), ()) as capture:
            assert dictionaries(network.unet) == before
        assert capture.problem is None

    def test_modules_are_restored_after_an_error(self, network: Network, untouched: Any) -> None:
        untouched(network)
        sample, conditioning = network.sample(), network.conditioning(2)
        expected, layout, capture = full(network, sample, conditioning)
        before = dictionaries(network.unet)
        head = reader(network, layout, -1)

        def fail(*_: Any) -> None:
            raise Stop

        for branch in (-1, layout.branches - 1):
            for inside in (
                capturing(layout, {branch}),
                skipping(layout, branch, capture.features[branch], capture.shapes),
            ):
                hook = head.register_forward_pre_hook(fail)
                with pytest.raises(Stop), inside as left:
                    network(sample, conditioning)
                hook.remove()
                # whoever keeps the exception keeps its frames, but no features with them
                assert isinstance(left, skipping) or (left.slices, left.shapes.outputs) == ({}, {})
                assert dictionaries(network.unet) == before
        assert torch.equal(network(sample, conditioning), expected)

    def test_wrappers_of_others_stay(self, network: Network) -> None:
        """A `forward` that another extension has put on a unit runs wherever the unit runs, and is there afterwards."""
        sample, conditioning = network.sample(), network.conditioning(2)
        layout = find_layout(network.unet)
        calls: list[nn.Module] = []

        def wrap(unit: nn.Module) -> Callable[..., Any]:
            original = unit.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                calls.append(unit)
                return original(*args, **kwargs)

            return forward

        wrappers = {unit: wrap(unit) for unit in layout.units}
        for unit, wrapper in wrappers.items():
            unit.forward = wrapper
        try:
            before = dictionaries(network.unet)
            expected, _, capture = full(network, sample, conditioning)
            assert calls == list(layout.units)
            for branch in branches(layout):
                calls.clear()
                with skipping(layout, branch, capture.features[branch], capture.shapes):
                    assert torch.equal(network(sample, conditioning), expected)
                deep = set(layout.deep(branch))
                assert calls == [unit for unit in layout.units if unit not in deep]
            assert dictionaries(network.unet) == before
        finally:
            for unit in wrappers:
                del unit.forward

    def test_a_wrapper_that_comes_during_a_call_stays(self, network: Network) -> None:
        """Rule 6: it is another extension's to take away, and calls through to the unit when ours has gone."""
        sample, conditioning = network.sample(), network.conditioning(2)
        expected, layout, capture = full(network, sample, conditioning)
        unit = layout.deep(0)[-1]
        for inside in (capturing(layout, {0}), skipping(layout, 0, capture.features[0], capture.shapes)):
            with inside:
                ours = unit.forward
                unit.forward = wrapper = lambda *args, ours=ours, **kwargs: ours(*args, **kwargs)
                network(sample, conditioning)
            try:
                assert unit.__dict__["forward"] is wrapper
                assert torch.equal(network(sample, conditioning), expected)
            finally:
                del unit.forward

    def test_writes_in_place_do_not_leak(self, network: Network) -> None:
        """FreeU, ControlNet and T2I adapters write into the hidden states that a block hands on."""
        sample, conditioning = network.sample(), network.conditioning(2)
        layout = find_layout(network.unet)
        ends = [block[-1] for block in (*layout.inputs, layout.middle, *layout.outputs) if block]
        hooks = [unit.register_forward_hook(lambda m, a, output: _scale(first_tensor(output))) for unit in ends]
        try:
            expected, _, capture = full(network, sample, conditioning)
            kept = {branch: feature.map(torch.clone) for branch, feature in capture.features.items()}
            for branch in branches(layout):
                for _ in range(2):
                    with skipping(layout, branch, capture.features[branch], capture.shapes):
                        assert torch.equal(network(sample, conditioning), expected), branch
            assert all(torch.equal(kept[b].streams[0], capture.features[b].streams[0]) for b in kept)
        finally:
            for hook in hooks:
                hook.remove()

    def test_foreign_hooks_on_skipped_units_stay_in_step(self, network: Network) -> None:
        sample, conditioning = network.sample(), network.conditioning(2)
        expected, layout, capture = full(network, sample, conditioning)
        called: list[nn.Module] = []
        hooks = [unit.register_forward_hook(lambda module, *_: called.append(module)) for unit in layout.units]
        with skipping(layout, 0, capture.features[0], capture.shapes):
            assert torch.equal(network(sample, conditioning), expected)
        for hook in hooks:
            hook.remove()
        assert called == list(layout.units)


def _scale(tensor: Tensor) -> None:
    tensor[:, ::2].mul_(1.3)


def _repeated(value: Any, times: int) -> Any:
    if isinstance(value, dict):
        return {name: _repeated(item, times) for name, item in value.items()}
    return torch.cat([value] * times)


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _moved(item) for name, item in value.items()}
    return value.to("meta")
