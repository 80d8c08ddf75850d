"""Blocks of transformers that a step leaves out: what is left of one is learned from a call, and is its identity."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from plans import F, P, plan
from torch import Tensor, nn
from transformer_networks import ENTRIES, Transformer, build, dictionaries, own_ways

from flexiffusion.dropping import dropping, learning
from flexiffusion.errors import ModelMismatch
from flexiffusion.layouts import find_layout
from flexiffusion.layouts.transformer import names_of
from flexiffusion.run import Run
from flexiffusion.schedule import Action

# Their loops look at a block's number, or at what an early block returned, so that no network without the block exists
# to compare with.
NUMBERED = {
    "ChromaTransformer2DModel",
    "HiDreamImageTransformer2DModel",
    "HunyuanDiT2DModel",
    "LTX2VideoTransformer3DModel",
    "WanVACETransformer3DModel",
}


def without(network: nn.Module, number: int) -> nn.Module:
    """A copy that has one block less."""
    made = copy.deepcopy(network)
    for name in names_of(made):
        blocks = getattr(made, name)
        if number < len(blocks):
            del blocks[number]
            return made
        number -= len(blocks)
    raise IndexError(number)


@pytest.mark.parametrize("name", own_ways(name for name in ENTRIES if name not in NUMBERED))
def test_a_dropped_block_is_as_if_it_was_not_there(name: str) -> None:
    transformer = build(name)
    inputs, layout = transformer.inputs(), find_layout(transformer.network)
    before = dictionaries(transformer.network)
    with learning(layout.units) as left:
        expected = transformer(inputs)
    assert torch.equal(expected, transformer(inputs))
    for number in (1, layout.branches - 1):
        with dropping([layout.units[number]], left):
            result = transformer(inputs)
        other = Transformer(**{**vars(transformer), "network": without(transformer.network, number)})
        assert torch.equal(result, other(inputs)), number
        assert not torch.equal(result, expected)
    assert dictionaries(transformer.network) == before


@pytest.fixture(scope="module")
def flux() -> Transformer:
    return build("FluxTransformer2DModel")


def drops(*numbers: int) -> Action:
    return Action("full", drop=tuple(f"blocks.{number}" for number in numbers))


def through(run: Run, transformer: Transformer, inputs: Any, sigma: float) -> Tensor:
    run.evaluate(sigma)
    return run(lambda: transformer(inputs), transformer.sample(inputs))


class TestRun:
    def test_the_first_evaluation_drops_nothing(self, flux: Transformer) -> None:
        inputs, made = flux.inputs(), plan(drops(1, 2), drops(1, 2), P(-1, "linear"))
        layout = find_layout(flux.network)
        with learning(layout.units) as left, torch.no_grad():
            expected = flux(inputs)
        with dropping(layout.units[1:3], left):
            dropped = flux(inputs)
        with Run(flux.network, made, "flow") as run:
            results = [through(run, flux, inputs, sigma) for sigma in made.levels]
        assert torch.equal(results[0], expected) and torch.equal(results[1], dropped)
        assert (run.report.dropped, run.report.partial, run.report.misses) == (2, 1, 0)

    def test_a_run_that_goes_on_has_learned(self, flux: Transformer) -> None:
        """Else a shared prefix would change what is drawn."""
        inputs, made = flux.inputs(), plan(F, F, drops(3), drops(3))
        with Run(flux.network, made, "flow") as run:
            for sigma in made.levels[:2]:
                through(run, flux, inputs, sigma)
            features = run.features()
            expected = [through(run, flux, inputs, sigma) for sigma in made.levels[2:]]
        with Run(flux.network, made, "flow") as later:
            later.go_on(features)
            results = [through(later, flux, inputs, sigma) for sigma in made.levels[2:]]
        assert all(map(torch.equal, results, expected))
        assert later.report.dropped == 2

    def test_a_block_that_is_not_there(self, flux: Transformer) -> None:
        with pytest.raises(ModelMismatch, match=r"dropped unit blocks\.99: this transformer network has none"):
            Run(flux.network, plan(F, drops(99)), "flow")


class Pooling(nn.Module):
    """A trunk whose third block halves the tokens."""

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, ::2] * 1.0

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), self.Half(), nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_a_block_that_returns_another_size_runs_where_it_should_be_dropped() -> None:
    network, sample, made = Pooling(), torch.randn(2, 6, 4), plan(F, drops(1, 2))
    with Run(network, made, "flow") as run, torch.no_grad():
        for sigma in made.levels:
            run.evaluate(sigma)
            result = run(lambda: network(sample), sample)
        assert result.shape == (2, 3, 4)
    assert run.report.dropped == 1
