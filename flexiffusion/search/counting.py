"""What a full and a partial call cost of a network that a host has loaded, whatever its layers are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..cost import CostTable
from ..noise import initial_scale
from ..plan import Plan
from ..run import Run
from ..schedule import FULL, Action
from .denoiser import Denoiser

LEAST = 1e-4  # of a full call: what a partial one is taken to cost where none of its layers has a matrix


@contextmanager
def multiply_adds(network: nn.Module) -> Iterator[list[float]]:
    """A list that grows by the multiply-adds of every layer with a matrix that runs in the block, on whatever thread.
    Those of attention's products are not among them."""
    counted: list[float] = []

    def count(layer: Any, _: Any, output: Any) -> None:
        weight = layer.weight
        read = getattr(layer, "in_features", None) or math.prod(weight.shape[1:])  # quantised weights are packed
        if isinstance(output, Tensor):
            counted.append(float(output.numel() * read))

    layers = [layer for layer in network.modules() if getattr(getattr(layer, "weight", None), "ndim", 0) > 1]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def counted_costs(
    denoiser: Denoiser, noise: Tensor, places: Sequence[int], branches: Sequence[int]
) -> CostTable | None:
    """Multiply-adds of a full call and of the partial ones of these branches, for the first image, whose noise
    (1, ...) is given. None where nothing can be counted: a compiled network shows nothing of its layers.

    It takes two network calls for each branch, at the first two of the places.
    """
    kind = denoiser.levels.kind
    state = noise.to(denoiser.device) * initial_scale(denoiser.levels.sigma(places[0]), kind)
    full, partials = 0.0, {}
    for branch in branches:
        plan = Plan(denoiser.levels.sigmas(places[:2]), (FULL, Action("partial", branch)), 0)
        spent = []
        with Run(denoiser.network, plan, kind) as run:
            for place, level in zip(places, plan.levels, strict=False):
                run.evaluate(level)
                with multiply_adds(denoiser.network) as counted:
                    denoiser(state, place, slice(0, 1), run)
                spent.append(sum(counted))
        full, partials[branch] = spent
    if not full:
        return None
    return CostTable("macs", full, {branch: max(macs, full * LEAST) for branch, macs in partials.items()})
