"""The networks of main_transformers.py and newer_transformers.py, with random weights, and how they are called."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import diffusers
import networks
import pytest
import torch
from main_transformers import ENTRIES
from newer_transformers import NEWER
from torch import Tensor, nn
from transformer_inputs import TOKENS, Entry, Inputs

TIMES = ("timestep", "timesteps", "t")  # how classes call it

SOME = [
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "ZImageTransformer2DModel",
    "WanTransformer3DModel",
    "ErnieImageTransformer2DModel",
]


def own_ways(names: Iterable[str]) -> list[Any]:
    """The names as parameters of what is no main check. Classes that have nothing of their own in the tables (no note,
    no flag) are like one of `SOME`: they are slow tests, as are all of newer_transformers.py but those that cannot
    serve every branch."""

    def is_like_another(name: str) -> bool:
        entry = (ENTRIES | NEWER)[name]
        own = entry.note or entry.fixed_text or entry.ragged or entry.timeless_head
        return not entry.unlike and name not in SOME and (name in NEWER or not own)

    return [pytest.param(name, marks=pytest.mark.slow if is_like_another(name) else ()) for name in names]


@dataclass(frozen=True)
class Transformer:
    """One network of the table with what a test must know to call it."""

    name: str
    network: nn.Module
    entry: Entry

    @property
    def lists(self) -> tuple[int, ...]:
        return self.entry.lists

    @property
    def unlike(self) -> tuple[int, ...]:
        return self.entry.unlike

    @property
    def blocks(self) -> int:
        return sum(self.lists)

    def inputs(self, rows: int = 2, tokens: int = TOKENS, seed: int = 0) -> Inputs:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return self.entry.draw(rows, tokens)

    def sample(self, inputs: Inputs) -> Tensor:
        """What a host gives as the network's input."""
        sample = inputs.get("hidden_states", inputs.get("x"))
        return torch.stack(sample) if isinstance(sample, list) else sample

    def noise(self, inputs: Inputs) -> Inputs:
        """The network's input alone."""
        return {name: inputs[name] for name in ("hidden_states", "x") if name in inputs}

    def at(self, inputs: Inputs, factor: float) -> Inputs:
        """The same inputs at another time."""
        return inputs | {name: inputs[name] * factor for name in TIMES if name in inputs}

    def __call__(self, inputs: Inputs, **more: Any) -> Tensor:
        """What the network returns, as one tensor of all that it returns. # (B, ...)"""
        with torch.no_grad():
            output = self.network(**inputs, **more, return_dict=False)
        return torch.cat([tensor.flatten(1) for tensor in _batched(output)], 1)


def _batched(output: Any) -> list[Tensor]:
    """The outputs of a network (a picture, a picture and sound, a list of one picture for each row), batch first."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, list):
        return [torch.stack(output)]
    return [tensor for item in output for tensor in _batched(item)]


OWN_CACHES = {"freqs", "pos_freqs", "neg_freqs", "_freqs_cache"}
"""Attributes that rotary embeddings of some classes set anew in a call."""


def dictionaries(network: nn.Module) -> list[Any]:
    """Every module's attributes, hooks and forward, without those that the classes themselves set in a call."""
    return [
        (module, [item for item in attributes if item[0] not in OWN_CACHES], forward)
        for module, attributes, forward in networks.dictionaries(network)
    ]


def rows_of(inputs: Any, chosen: slice, rows: int) -> Any:
    """Some of the rows of a batch: tensors and lists are cut where they have one item for each row."""
    if isinstance(inputs, dict):
        return {name: rows_of(value, chosen, rows) for name, value in inputs.items()}
    if isinstance(inputs, Tensor):
        for dimension in range(min(2, inputs.dim())):
            if inputs.shape[dimension] == rows:
                return inputs[(slice(None),) * dimension + (chosen,)]
        return inputs
    if isinstance(inputs, list) and inputs:
        return inputs[chosen] if len(inputs) == rows else [rows_of(item, chosen, rows) for item in inputs]
    return inputs


def converted(inputs: Any, dtype: torch.dtype) -> Any:
    """The same inputs in another floating dtype."""
    if isinstance(inputs, dict):
        return {name: converted(value, dtype) for name, value in inputs.items()}
    if isinstance(inputs, Tensor) and inputs.is_floating_point():
        return inputs.to(dtype)
    return [converted(item, dtype) for item in inputs] if isinstance(inputs, list) else inputs


def spread(transformer: Transformer) -> list[int]:
    """Branches to test: none, the first, the middle, both sides of the border between the lists, the last."""
    border, blocks = transformer.lists[0], transformer.blocks
    chosen = {-1, 0, 1, blocks // 2, border - 2, border - 1, border, blocks - 2}
    return sorted(b for b in chosen if b <= blocks - 2 and b not in transformer.unlike)


@functools.cache
def build(name: str) -> Transformer:
    """One network of the table."""
    return made(name)


def made(name: str, **config: Any) -> Transformer:
    """A new network of the table, with another configuration where one is given.

    Every weight of it is random: classes start some at zero, or leave them as memory was.
    """
    entry = (ENTRIES | NEWER)[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = getattr(diffusers, name)(**(entry.config | config)).eval().requires_grad_(False)
        for weight_name, weight in network.named_parameters():
            norm = weight.dim() == 1 and weight_name.endswith("weight")
            weight.normal_(std=0.1 if weight.dim() < 2 else (weight.numel() / weight.shape[0]) ** -0.5)
            weight.add_(float(norm))
    return Transformer(name, network, entry)
