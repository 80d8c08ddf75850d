"""VACE's blocks beside the trunk: a step of the output head alone skips them, where their hints reach nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanVACETransformer3DModel
from torch import nn
from transformer_inputs import TEXT, Inputs, drawn, video, wan_config

from flexiffusion.cut import capturing, skipping
from flexiffusion.layouts import find_layout
from flexsearch.models.costs import counted

BOUND = 1e-5
# Behind which of the six blocks hints are added, a branch, and how many of the three VACE blocks still run.
CASES = [
    ([0, 2, 4], -1, 0),
    ([0, 2, 4], 0, 3),
    ([0, 2, 4], 4, 3),
    ([0, 2, 5], -1, 3),  # the last hint is added behind what a partial step delivers
    ([0, 2, 5], 1, 3),
]


def network(layers: list[int]) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return WanVACETransformer3DModel(**wan_config(vace_layers=layers, vace_in_channels=6)).eval()


def inputs(seed: int = 0) -> Inputs:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        found: Inputs = {
            **video(2), "timestep": torch.tensor([500, 500]), "encoder_hidden_states": drawn(2, 5, TEXT),
            "control_hidden_states": drawn(2, 6, 3, 8, 8),
        }  # fmt: skip
    return found


@torch.no_grad()
def called(transformer: nn.Module, given: Inputs) -> torch.Tensor:
    output: torch.Tensor = transformer(**given, return_dict=False)[0]
    return output


@pytest.mark.parametrize(("layers", "branch", "running"), CASES)
def test_hints_that_nothing_reads_are_not_made(layers: list[int], branch: int, running: int) -> None:
    transformer, given = network(layers), inputs()
    layout = find_layout(transformer)
    with capturing(layout, {branch}, rows=2) as capture:
        expected = called(transformer, given)
    assert capture.problem is None
    ran: list[int] = []
    hooks = [
        next(part for part in block.modules() if isinstance(part, nn.Linear)).register_forward_hook(
            lambda *_, number=number: ran.append(number)
        )
        for number, block in enumerate(transformer.vace_blocks)
    ]
    with skipping(layout, branch, capture.features[branch], capture.shapes) as context:
        result = called(transformer, given)
    for hook in hooks:
        hook.remove()
    assert context.delivered and context.problem is None
    assert sorted(set(ran)) == list(range(running))
    assert float((result - expected).abs().max() / expected.abs().max()) <= (BOUND if branch >= 0 else 0)


def test_hints_of_blocks_that_run_are_the_steps_own() -> None:
    transformer, given = network([0, 2, 4]), inputs()
    layout = find_layout(transformer)
    with capturing(layout, {1}, rows=2) as capture:
        expected = called(transformer, given)
    other = given | {"control_hidden_states": inputs(seed=1)["control_hidden_states"]}
    with skipping(layout, 1, capture.features[1], capture.shapes):
        result = called(transformer, other)
    assert float((result - expected).abs().max() / expected.abs().max()) > 1e-4


def test_what_a_partial_step_costs_without_them() -> None:
    transformer, given = network([0, 2, 4]), inputs()
    table = counted(transformer, lambda: called(transformer, given))
    with_last = network([0, 2, 5])
    beside = counted(with_last, lambda: called(with_last, given)).partial[-1] - table.partial[-1]
    assert 0.2 < beside / table.full < 0.4  # three of nine blocks


def test_as_comfyui_lists_them() -> None:
    """Its network has no configuration, but a mapping from the trunk's blocks to VACE's."""

    class Network(nn.Module):
        def __init__(self, mapping: Any) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))
            self.vace_blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
            self.vace_layers_mapping = mapping

    found = Network({0: 0, 4: 1})
    layout = find_layout(found)
    assert layout.units == tuple(found.blocks) and layout.deep(-1) == (*found.vace_blocks, *found.blocks)
    assert layout.deep(2) == tuple(found.blocks[3:])
    odd = Network({0: 0})  # of two blocks one is told where its hint goes: nothing is known of them
    assert find_layout(odd).deep(-1) == tuple(odd.blocks)
