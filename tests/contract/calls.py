"""What the tests of the cut share: a full call that captures everything, what comes after it, and where to look."""

from __future__ import annotations

from typing import Any

import torch
from networks import Network
from torch import Tensor, nn

from flexiffusion.cut import Capture, capturing, skipping
from flexiffusion.layouts import Layout, find_layout


def first_tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else first_tensor(output[0])


def reader(network: Network, layout: Layout, branch: int) -> nn.Module:
    """The module whose first input holds the feature of this branch: a unit of an output block, or the output head."""
    if branch >= 0:
        return layout.outputs[len(layout.outputs) - 1 - branch][0]
    return network.unet.out[0] if network.kind == "ldm" else network.unet.conv_norm_out


def branches(layout: Layout) -> range:
    return range(-1, layout.branches)


def full(network: Network, sample: Tensor, conditioning: Any, **more: Any) -> tuple[Tensor, Layout, Capture]:
    layout = find_layout(network.unet)
    with capturing(layout, branches(layout)) as capture:
        result = network(sample, conditioning, **more)
    assert capture.problem is None
    return result, layout, capture


def assert_partial_after_full_is_the_same(network: Network, size: tuple[int, int]) -> None:
    sample, conditioning = network.sample(size=size), network.conditioning(2)
    expected, layout, capture = full(network, sample, conditioning)
    for branch in branches(layout):
        with skipping(layout, branch, capture.features[branch], capture.shapes):
            assert torch.equal(network(sample, conditioning), expected), (size, branch)
