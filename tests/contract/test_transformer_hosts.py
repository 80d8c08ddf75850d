"""What hosts and users do to transformers: ControlNet, skip-layer guidance, LoRA, hooks, longer prompts; through `Run`
where it is about what a run makes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest
import torch
from plans import F, P
from test_transformers import BOUND, SOME, captured, difference
from torch import Tensor, nn
from transformer_networks import ENTRIES, Inputs, Transformer, build, dictionaries, rows_of, spread

from flexiffusion.cut import skipping
from flexiffusion.outputs import tensors
from flexiffusion.plan import Plan
from flexiffusion.run import Report, Run

Call = tuple[Inputs, Sequence[Hashable]]
Control = Callable[[Transformer, Inputs], Inputs]


def plan(*actions: Any) -> Plan:
    return Plan(tuple(1.0 - i / len(actions) for i in range(len(actions))), actions, nulls=0)


def ran(transformer: Transformer, made: Plan, *evaluations: Sequence[Call]) -> tuple[list[Tensor], Report]:
    """The results of the calls of every evaluation, through a run."""
    results = []
    with Run(transformer.network, made, noise="flow") as run:
        for level, calls in zip(made.levels, evaluations, strict=True):
            run.evaluate(level)
            for inputs, chunks in calls:
                call = lambda inputs=inputs: transformer(inputs)  # noqa: E731
                results.append(run(call, transformer.sample(inputs), chunks))
    return results, run.report


def middle(transformer: Transformer) -> int:
    return spread(transformer)[len(spread(transformer)) // 2]


def scale_in_place(module: nn.Module, arguments: Any, output: Any) -> None:
    """A hook that writes into what a block returns."""
    for tensor in output if isinstance(output, tuple) else (output,):
        if tensor is not None:
            tensor.mul_(1.1)


@pytest.fixture(params=SOME)
def some(request: pytest.FixtureRequest) -> Transformer:
    return build(request.param)


@pytest.fixture
def sd3() -> Transformer:
    return build("SD3Transformer2DModel")


class TestBatches:
    @pytest.mark.parametrize("name", [n for n in ENTRIES if not ENTRIES[n].ragged])
    def test_chunks_come_joint_split_and_swapped(self, name: str) -> None:
        transformer = build(name)
        joint = transformer.inputs(rows=2)
        split = [rows_of(joint, slice(row, row + 1), 2) for row in range(2)]
        both, apart = [(joint, ("a", "b"))], [(split[1], ("b",)), (split[0], ("a",))]
        made = plan(F, P(-1, "linear"), F, P(-1, "linear"), F, P(middle(transformer)))
        results, report = ran(transformer, made, both, apart, apart, both, both, apart)
        for result, inputs in zip(
            results, [joint, *split[::-1], *split[::-1], joint, joint, *split[::-1]], strict=True
        ):
            assert difference(result, transformer(inputs)) < 1e-3
        assert (report.full, report.partial, report.misses) == (4, 5, 0)

    def test_all_full_is_bitwise_the_untouched_network(self, some: Transformer) -> None:
        inputs = [some.at(some.inputs(seed=i), 1 - i / 4) for i in range(3)]
        calls = [[(given, ("a", "b"))] for given in inputs]
        # the plan's partial steps come later: everything is captured for them
        made = plan(F, F, F, P(-1, "quadratic"), P(middle(some)))
        results, report = ran(some, made, *calls, calls[-1], calls[-1])
        assert all(torch.equal(r, some(given)) for r, given in zip(results, inputs, strict=False))
        assert (report.full, report.partial, report.misses) == (3, 2, 0)


class TestLengths:
    """A feature is as long as the prompt and the reference pictures it was made with."""

    @pytest.mark.parametrize("name", [n for n in ENTRIES if not ENTRIES[n].fixed_text])
    def test_longer_text_runs_in_full(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        transformer = build(name)
        short, long = transformer.inputs(), transformer.inputs(tokens=40)
        long |= transformer.noise(short)
        for branch in (-1, middle(transformer)):
            for first, second in ((short, long), (long, short)):
                results, report = ran(transformer, plan(F, P(branch)), [(first, (0,))], [(second, (0,))])
                assert torch.equal(results[1], transformer(second))
                assert (report.full, report.partial, report.misses) == (2, 0, 1)
        assert all("other sizes inside (a longer prompt?)" in record.message for record in caplog.records)

    def test_more_reference_tokens_run_in_full(self) -> None:
        transformer = build("Flux3Transformer2DModel")
        inputs = transformer.inputs()
        more = {"image_cond_hidden_states": torch.randn(2, 12, 4), "image_cond_ids": torch.ones(12, 4)}
        results, report = ran(transformer, plan(F, P(-1)), [(inputs, (0,))], [(inputs | more, (0,))])
        assert torch.equal(results[1], transformer(inputs | more))
        assert report.misses == 1

    def test_history_of_another_length_is_not_extrapolated(self) -> None:
        transformer = build("FluxTransformer2DModel")
        short, long = transformer.inputs(), transformer.inputs(tokens=9)
        made = plan(F, F, P(-1, "linear"))
        results, report = ran(transformer, made, *([(given, (0,))] for given in (short, long, long)))
        assert torch.equal(results[2], transformer(long))
        assert (report.partial, report.misses) == (1, 0)


class TestSkipLayerGuidance:
    """Hosts leave blocks out of their own accord: diffusers' SD3 by `skip_layers`."""

    @pytest.mark.parametrize("branch", [-1, 0, 2, 4])
    @pytest.mark.parametrize("layers", [[0], [1], [2], [3, 4], [0, 1, 2]])
    def test_left_out_in_both_calls(self, sd3: Transformer, branch: int, layers: list[int]) -> None:
        inputs = sd3.inputs() | {"skip_layers": layers}
        results, report = ran(sd3, plan(F, P(branch)), [(inputs, (0,))], [(inputs, (0,))])
        assert difference(results[1], sd3(inputs)) < BOUND
        # where the block that the feature is added to is left out there is no feature
        assert (report.full, report.partial, report.misses) == ((2, 0, 1) if branch in layers else (1, 1, 0))

    @pytest.mark.parametrize("branch", [-1, 0, 4])
    def test_last_block_left_out_runs_in_full(self, sd3: Transformer, branch: int) -> None:
        plain = sd3.inputs()
        left = plain | {"skip_layers": [5]}
        for first, second in ((left, left), (plain, left), (left, plain)):
            results, report = ran(sd3, plan(F, P(branch)), [(first, (0,))], [(second, (0,))])
            assert torch.equal(results[1], sd3(second))
            assert (report.full, report.partial, report.misses) == (2, 0, 1)

    def test_base_left_out_of_the_partial_call_only(self, sd3: Transformer, caplog: pytest.LogCaptureFixture) -> None:
        plain = sd3.inputs()
        left = plain | {"skip_layers": [2]}
        results, report = ran(sd3, plan(F, P(2)), [(plain, (0,))], [(left, (0,))])
        assert torch.equal(results[1], sd3(left))
        assert (report.full, report.partial, report.misses) == (2, 0, 1)
        assert "skip-layer guidance" in caplog.text

    def test_first_skipped_block_left_out_of_a_longer_call(self, sd3: Transformer) -> None:
        """The sizes are compared at the first skipped block that is called at all."""
        plain, longer = sd3.inputs(), sd3.inputs(tokens=9) | {"skip_layers": [0, 1]}
        results, report = ran(sd3, plan(F, P(-1)), [(plain, (0,))], [(longer, (0,))])
        assert torch.equal(results[1], sd3(longer))
        assert (report.full, report.partial, report.misses) == (2, 0, 1)

    def test_guidance_pass_beside_the_plain_ones(self, sd3: Transformer) -> None:
        """One evaluation: both prompts joint, then the positive one again without layer 3."""
        joint = sd3.inputs(rows=2)
        extra = rows_of(joint, slice(0, 1), 2) | {"skip_layers": [3]}
        calls = [(joint, ("cond", "uncond")), (extra, ("cond",))]
        results, report = ran(sd3, plan(F, P(-1), P(-1)), calls, calls, calls)
        assert torch.equal(results[4], sd3(joint)) and torch.equal(results[5], sd3(extra))
        assert (report.full, report.partial, report.misses) == (2, 4, 0)


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

    def test_feature_that_is_not_finite(self, some: Transformer, caplog: pytest.LogCaptureFixture) -> None:
        inputs = some.inputs()
        last = captured(some, inputs)[1].units[-1]
        calls = iter([True])

        def once(module: nn.Module, arguments: Any, output: Any) -> Any:
            return _spoiled(output) if next(calls, False) else output

        original = last.forward
        last.forward = lambda *a, **k: once(last, a, original(*a, **k))  # type: ignore[method-assign]
        try:
            made = plan(F, P(-1), P(-1), F, P(-1))
            results, report = ran(some, made, *([(inputs, (0,))] for _ in range(5)))
        finally:
            del last.forward
        expected = some(inputs)
        assert [bool(torch.equal(result, expected)) for result in results] == [False, True, True, True, True]
        assert (report.full, report.partial, report.misses) == (3, 2, 1)
        assert any(r.levelno == logging.WARNING and "not finite" in r.message for r in caplog.records)


def _adapted(original: Any, down: Tensor, up: Tensor) -> Any:
    return lambda x: original(x) + x @ down.T @ up.T


def _spoiled(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(None if tensor is None else tensor * float("inf") for tensor in output)
    return output * float("inf")


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
