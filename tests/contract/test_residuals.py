"""What others add to a network stays aligned: ControlNet, T2I adapters, FreeU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from calls import branches, full
from ldm_unet import timestep_embedding
from networks import Network, build
from torch import Tensor, nn

from flexiffusion.cut import capturing, skipping
from flexiffusion.layouts import Layout, find_layout


class TestResiduals:
    """ControlNet: executed blocks get on a partial call what they get on a full one."""

    @pytest.fixture(params=["sd1", "sd2", "sdxl", "ldm-text"])
    def network(self, request: pytest.FixtureRequest) -> Network:
        return build(request.param)

    @pytest.mark.parametrize("size", [pytest.param((8, 16), marks=pytest.mark.slow), (9, 13)])
    def test_controlnet(self, network: Network, size: Any) -> None:
        sample, conditioning = network.sample(size=size), network.conditioning(2)
        layout = find_layout(network.unet)
        with capturing(layout, {-1}) as capture:
            network(sample, conditioning)
        shapes = [capture.shapes.outputs[block[-1]] for block in (*layout.inputs, layout.middle)]
        sizes = [(shape if hasattr(shape, "size") else shape.items[0][1]).size for shape in shapes]
        # distinct constants: an exchanged residual would be seen
        *down, middle = [torch.full(size, 0.05 * (i + 1)) for i, size in enumerate(sizes)]

        def residuals(scale: Callable[[int], float]) -> dict[str, Any]:
            return {
                "down_block_additional_residuals": tuple(r * scale(i) for i, r in enumerate(down)),
                "mid_block_additional_residual": middle * scale(len(down)),
            }

        plain = residuals(lambda i: 1)
        expected, _, capture = full(network, sample, conditioning, **plain)
        assert not torch.equal(expected, network(sample, conditioning))
        plain_full = _inputs_of(network, layout, sample, conditioning, plain)
        for branch in branches(layout):
            # other residuals at the shallow skips alone: the deep part of a full call is the same, so it is comparable
            other = residuals(lambda i, branch=branch: 3 if i <= branch else 1)
            other_full = _inputs_of(network, layout, sample, conditioning, other)
            for chosen, (full_inputs, full_result) in ((plain, plain_full), (other, other_full)):
                with skipping(layout, branch, capture.features[branch], capture.shapes):
                    inputs, result = _inputs_of(network, layout, sample, conditioning, chosen)
                assert torch.equal(result, full_result)
                for unit in set(layout.units) - set(layout.deep(branch)):
                    assert torch.equal(inputs[unit], full_inputs[unit])

    def test_adapters_write_in_place(self, network: Network) -> None:
        """T2I-Adapter: `sample += residual` after every level, the list is emptied by the network."""
        sample, conditioning = network.sample(), network.conditioning(2)
        layout = find_layout(network.unet)
        sizes: list[torch.Size] = []
        hooks = [
            block.register_forward_hook(lambda m, a, output: sizes.append(output[1][-1].shape))
            if isinstance(getattr(block, "attentions", None), type(None))
            else block.attentions[-1].register_forward_hook(lambda m, a, output: sizes.append(output[0].shape))
            for block in network.unet.down_blocks
        ]
        network(sample, conditioning)
        for hook in hooks:
            hook.remove()

        def residuals() -> dict[str, Any]:
            return {"down_intrablock_additional_residuals": [torch.full(size, 0.1) for size in sizes]}

        expected, _, capture = full(network, sample, conditioning, **residuals())
        assert not torch.equal(expected, network(sample, conditioning))
        for branch in branches(layout):
            more = residuals()
            with skipping(layout, branch, capture.features[branch], capture.shapes):
                assert torch.equal(network(sample, conditioning, **more), expected), branch
            assert more == {"down_intrablock_additional_residuals": []}

    def test_freeu(self, network: Network) -> None:
        sample, conditioning = network.sample(), network.conditioning(2)
        plain = network(sample, conditioning)
        network.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
        try:
            expected, layout, capture = full(network, sample, conditioning)
            assert not torch.equal(expected, plain)
            for branch in branches(layout):
                for _ in range(2):
                    with skipping(layout, branch, capture.features[branch], capture.shapes):
                        assert torch.equal(network(sample, conditioning), expected), branch
        finally:
            network.unet.disable_freeu()
        assert torch.equal(network(sample, conditioning), plain)


def test_controlnet_that_runs_the_blocks_itself() -> None:
    """The original ControlNet and its WebUI extension swap the network's forward and loop over the blocks."""
    network = build("compvis-sd1")
    sample, conditioning = network.sample(), network.conditioning(2)
    unet: Any = network.unet
    layout = find_layout(unet)
    with capturing(layout, {-1}) as capture:
        network(sample, conditioning)
    sizes = []
    for block in (*layout.inputs, layout.middle):
        sizes.append(capture.shapes.outputs[block[-1]].size)
    seen: list[tuple[str, float]] = []

    def forward(x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        control = [torch.full(size, 0.05 * (i + 1)) for i, size in enumerate(sizes)]
        emb = unet.time_embed(timestep_embedding(timesteps, unet.model_channels))
        h, skips = x, []
        for module in unet.input_blocks:
            h = module(h, emb, context)
            skips.append(h)
        h = unet.middle_block(h, emb, context)
        h += control.pop()
        for module in unet.output_blocks:
            residual = control.pop()
            seen.append(("out", residual.flatten()[0].item()))
            h = module(torch.cat([h, skips.pop() + residual], dim=1), emb, context)
        return unet.out(h)

    plain = network(sample, conditioning)
    unet.forward = forward
    try:
        expected, _, capture = full(network, sample, conditioning)
        assert not torch.equal(expected, plain)
        for branch in branches(layout):
            for _ in range(2):
                with skipping(layout, branch, capture.features[branch], capture.shapes):
                    assert torch.equal(network(sample, conditioning), expected), branch
    finally:
        del unet.forward
    assert seen == seen[:12] * (len(seen) // 12)


def _inputs_of(
    network: Network, layout: Layout, sample: Tensor, conditioning: Any, more: dict[str, Any]
) -> tuple[dict[nn.Module, Tensor], Tensor]:
    inputs: dict[nn.Module, Tensor] = {}
    hooks = [
        unit.register_forward_pre_hook(lambda module, args: inputs.__setitem__(module, args[0].clone()))
        for unit in layout.units
    ]
    result = network(sample, conditioning, **more)
    for hook in hooks:
        hook.remove()
    return inputs, result
