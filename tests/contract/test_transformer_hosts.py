"""What hosts and users do to transformers: ControlNet, LoRA, hooks, blocks that write into their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from main_transformers import ENTRIES
from test_transformers import BOUND, captured, difference
from torch import Tensor, nn
from transformer_inputs import Inputs
from transformer_networks import SOME, Transformer, build, dictionaries, spread

from flexiffusion.cut import skipping
from flexiffusion.outputs import tensors

Control = Callable[[Transformer, Inputs], Inputs]


def scale_in_place(module: nn.Module, arguments: Any, output: Any) -> None:
    """A hook that writes into what a block returns."""
    for tensor in output if isinstance(output, tuple) else (output,):
        if tensor is not None:
            tensor.mul_(1.1)


@pytest.fixture(params=SOME)
def some(request: pytest.FixtureRequest) -> Transformer:
    return build(request.param)


def _like(transformer: Transformer, inputs: Inputs, block: int, stream: int) -> Tensor:
    """Noise of the size of what a block returns."""
    _, layout, capture = captured(transformer, inputs)
    shape = list(tensors(capture.shapes.outputs[layout.units[block]]))[stream]
    return 0.3 * torch.randn(shape.size)


def _flux_control(transformer: Transformer, inputs: Inputs) -> Inputs:
    image = [_like(transformer, inputs, 0, 1) for _ in range(3)]
    return {"controlnet_block_samples": image, "controlnet_single_block_samples": [x.clone() for x in image]}


def _several(name: str, count: int, stream: int, kind: Callable[[Any], Any] = list) -> Control:
    """Residuals for one of the streams that the first block returns."""
    return lambda transformer, inputs: {name: kind([_like(transformer, inputs, 0, stream) for _ in range(count)])}


CONTROLS: dict[str, Control] = {
    "FluxTransformer2DModel": _flux_control,
    "ChromaTransformer2DModel": _flux_control,
    "BriaTransformer2DModel": _several("controlnet_block_samples", 3, 1),
    "SD3Transformer2DModel": _several("block_controlnet_hidden_states", 3, 1),
    "QwenImageTransformer2DModel": _several("controlnet_block_samples", 3, 1),
    "SanaTransformer2DModel": _several("controlnet_block_samples", 4, 0, tuple),
    "SanaVideoTransformer3DModel": _several("controlnet_block_samples", 4, 0, tuple),
    "ZImageTransformer2DModel": lambda transformer, inputs: {
        "controlnet_block_samples": {i: _like(transformer, inputs, 0, 0) for i in (0, 2, 5)}
    },
    "WanVACETransformer3DModel": lambda *_: {"control_hidden_states": torch.randn(2, 6, 3, 8, 8)},
    "HunyuanDiT2DModel": _several("controlnet_block_samples", 2, 0),
}


def _fresh(inputs: Inputs) -> Inputs:
    """HunyuanDiT empties the list that it is given."""
    return {name: list(value) if isinstance(value, list) else value for name, value in inputs.items()}


class TestControl:
    @pytest.mark.parametrize("name", CONTROLS)
    def test_residuals_are_added_once(self, name: str) -> None:
        transformer = build(name)
        inputs = transformer.inputs()
        control = CONTROLS[name](transformer, inputs)
        before = dictionaries(transformer.network)
        expected, layout, capture = captured(transformer, _fresh(inputs | control))
        assert difference(expected, transformer(inputs)) > 1e-3
        for branch in spread(transformer):
            with skipping(layout, branch, capture.features[branch], capture.shapes) as context:
                result = transformer(_fresh(inputs | control))
            assert context.delivered and context.problem is None
            assert difference(result, expected) < BOUND, branch
            assert branch >= 0 or torch.equal(result, expected)
        assert dictionaries(transformer.network) == before

    @pytest.mark.parametrize(
        "name", ["FluxTransformer2DModel", "ZImageTransformer2DModel", "WanVACETransformer3DModel"]
    )
    def test_partial_call_sees_its_own_control(self, name: str) -> None:
        """Of the blocks that it runs, and of the last one, behind which it is added anew."""
        transformer = build(name)
        inputs = transformer.inputs()
        first, second = (CONTROLS[name](transformer, inputs) for _ in range(2))
        expected, layout, capture = captured(transformer, inputs | first)
        for branch in (-1, 1, transformer.blocks - 2):
            with skipping(layout, branch, capture.features[branch], capture.shapes):
                assert difference(transformer(inputs | second), expected) > 1e-3, branch


class TestWriters:
    def test_what_blocks_return_is_written_into(self, some: Transformer) -> None:
        inputs = some.inputs()
        units = captured(some, inputs)[1].units
        hooks = [unit.register_forward_hook(scale_in_place) for unit in units]
        try:
            plain = some(inputs)
            expected, layout, capture = captured(some, inputs)
            assert torch.equal(expected, plain)
            for branch in spread(some):
                with skipping(layout, branch, capture.features[branch], capture.shapes):
                    result = some(inputs)
                assert difference(result, expected) < BOUND, branch
                assert branch >= 0 or torch.equal(result, expected)
        finally:
            for hook in hooks:
                hook.remove()

    @pytest.mark.parametrize("streams", [1, 2])
    def test_blocks_write_into_their_arguments(self, streams: int) -> None:
        """ComfyUI's Flux, Chroma and LTXV: `img += ...`, and the same tensor is returned."""
        network = InPlace(streams)
        x = torch.randn(2, 5, 4)
        transformer = Transformer("InPlace", network, ENTRIES["WanTransformer3DModel"])
        inputs = {"hidden_states": x}
        plain = transformer(inputs)
        expected, layout, capture = captured(transformer, inputs)
        assert torch.equal(expected, plain)
        for branch in range(-1, layout.branches):
            for _ in range(2):  # the remembered feature is not written into
                with skipping(layout, branch, capture.features[branch], capture.shapes):
                    result = transformer(inputs)
                assert difference(result, expected) < BOUND, branch
                assert branch >= 0 or torch.equal(result, expected)

    def test_lora_that_wraps_layers(self, some: Transformer) -> None:
        """As peft and hosts do without patching weights: the forward of a linear layer is wrapped."""
        inputs = some.inputs()
        without = some(inputs)
        layers = [m for m in some.network.modules() if isinstance(m, nn.Linear) and m.in_features == 32]
        for layer in layers:
            down, up = torch.randn(2, 32) * 0.1, torch.randn(layer.out_features, 2) * 0.1
            layer.forward = _adapted(layer.forward, down, up)  # type: ignore[method-assign]
        try:
            before = dictionaries(some.network)
            expected, layout, capture = captured(some, inputs)
            assert difference(expected, without) > 1e-3
            for branch in spread(some):
                with skipping(layout, branch, capture.features[branch], capture.shapes):
                    result = some(inputs)
                assert difference(result, expected) < BOUND, branch
                assert branch >= 0 or torch.equal(result, expected)
            assert dictionaries(some.network) == before
        finally:
            for layer in layers:
                del layer.forward


def _adapted(original: Any, down: Tensor, up: Tensor) -> Any:
    return lambda x: original(x) + x @ down.T @ up.T


class InPlaceBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, *streams: Tensor) -> Any:
        mean = torch.stack([stream.mean(1, keepdim=True) for stream in streams]).sum(0)
        for stream in streams:
            stream += torch.tanh((stream + mean) @ self.weight)
        return streams if len(streams) > 1 else streams[0]


class InPlace(nn.Module):
    """Six blocks that write into their arguments; with two streams the last three take both joint, text first."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.double_blocks = nn.ModuleList(InPlaceBlock() for _ in range(3))
        self.single_blocks = nn.ModuleList(InPlaceBlock() for _ in range(3))
        self.streams = streams
        self.requires_grad_(False)

    def forward(self, hidden_states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        image = hidden_states.clone()
        streams: Any = (image[:, :2] * 2, image) if self.streams == 2 else (image,)
        for block in self.double_blocks:
            streams = block(*streams)
            streams = streams if isinstance(streams, tuple) else (streams,)
            streams[-1].add_(0.5)  # control, in place
        joint = torch.cat(streams, 1)
        for block in self.single_blocks:
            joint = block(joint)
            joint[:, -5:] += 0.5
        return (joint[:, -5:],)
