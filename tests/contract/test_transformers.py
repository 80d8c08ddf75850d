"""The contract of `cut` on diffusers' transformers: all of main_transformers.py and newer_transformers.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from main_transformers import ENTRIES
from newer_transformers import NEWER
from torch import Tensor, nn
from transformer_inputs import Inputs
from transformer_networks import SOME, Transformer, build, converted, dictionaries, made, own_ways, rows_of, spread

from flexiffusion.cut import Capture, capturing, skipping
from flexiffusion.errors import ModelMismatch
from flexiffusion.feature import joined
from flexiffusion.layouts import Layout, find_layout
from flexiffusion.layouts.transformer import names_of
from flexiffusion.outputs import tensors

BOUND = 1e-5
"""Of the largest difference to the full call, over the largest value: rounding of `base + (last - base)`."""

BATCH_BOUND = 1e-3
"""The same where a batch is cut up: matrices of another size are rounded otherwise (Kandinsky 5 computes in half)."""

BF16_BOUND = 0.05


@pytest.fixture(scope="module", params=[*ENTRIES, *NEWER])
def every(request: pytest.FixtureRequest) -> Transformer:
    """For the two main checks."""
    return build(request.param)


@pytest.fixture(scope="module", params=own_ways([*ENTRIES, *NEWER]))
def transformer(request: pytest.FixtureRequest) -> Transformer:
    return build(request.param)


@pytest.fixture(scope="module", params=SOME)
def some(request: pytest.FixtureRequest) -> Transformer:
    """For what does not depend on the class's details."""
    return build(request.param)


@pytest.fixture(autouse=True)
def _untouched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves every module as it was, failing ones too."""
    name = next((n for n in ("every", "transformer", "some") if n in request.fixturenames), None)
    network = request.getfixturevalue(name).network if name else None
    before = dictionaries(network) if network is not None else []
    yield
    assert network is None or dictionaries(network) == before


def captured(transformer: Transformer, inputs: Inputs) -> tuple[Tensor, Layout, Capture]:
    """A full call that captures what every branch asks for that the class serves."""
    layout = find_layout(transformer.network)
    branches = set(range(-1, layout.branches)) - set(transformer.unlike)
    with capturing(layout, branches, rows=transformer.sample(inputs).shape[0]) as capture:
        result = transformer(inputs)
    assert capture.problem is None
    assert set(capture.slices) == branches
    return result, layout, capture


def difference(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).abs().max() / expected.abs().max())


class Calls:
    """Counts the calls of blocks' own layers while it is entered."""

    def __init__(self, blocks: Any) -> None:
        self.inside = {layer: i for i, block in enumerate(blocks) for layer in block.modules() if layer is not block}
        # DiT's output head reads the time embedding of its first block
        head = getattr(getattr(blocks[0], "norm1", None), "emb", None)
        for layer in [] if head is None else head.modules():
            del self.inside[layer]
        self.blocks: list[int] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Calls:
        for layer, i in self.inside.items():
            self._hooks.append(layer.register_forward_hook(lambda *_, i=i: self.blocks.append(i)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


class TestTransformers:
    def test_blocks_in_execution_order(self, every: Transformer) -> None:
        layout = find_layout(every.network)
        called: list[nn.Module] = []
        hooks = [unit.register_forward_hook(lambda module, *_: called.append(module)) for unit in layout.units]
        every(every.inputs())
        for hook in hooks:
            hook.remove()
        assert tuple(called) == layout.units
        assert layout.lists == every.lists
        assert layout.branches == every.blocks - 1 >= 5

    def test_full_call_is_untouched(self, transformer: Transformer) -> None:
        inputs = transformer.inputs()
        assert torch.equal(captured(transformer, inputs)[0], transformer(inputs))

    def test_partial_after_full_is_the_same(self, every: Transformer) -> None:
        """Bitwise at -1; else to the rounding of a sum and a difference."""
        inputs = every.inputs()
        expected, layout, capture = captured(every, inputs)
        for branch in spread(every):
            with (
                Calls(layout.units) as calls,
                skipping(layout, branch, capture.features[branch], capture.shapes) as context,
            ):
                result = every(inputs)
            assert context.delivered and context.problem is None
            # blocks 0 to b do their work, the skipped ones none
            assert set(calls.blocks) == set(range(branch + 1))
            if branch == -1:
                assert torch.equal(result, expected)
            else:
                assert difference(result, expected) < BOUND, branch

    @pytest.mark.parametrize("name", [name for name, entry in (ENTRIES | NEWER).items() if entry.unlike])
    def test_branches_that_cannot_be_served_say_why(self, name: str) -> None:
        transformer = build(name)
        layout = find_layout(transformer.network)
        for branch in transformer.unlike:
            with capturing(layout, {branch}, rows=2) as capture:
                transformer(transformer.inputs())
            assert capture.slices == {}
            assert capture.problem is not None and "cannot be compared" in capture.problem

    def test_every_feature_matters(self, transformer: Transformer) -> None:
        inputs = transformer.inputs()
        expected, layout, capture = captured(transformer, inputs)
        for branch in spread(transformer):
            # neither scaled nor shifted: the head begins with a norm
            with skipping(layout, branch, capture.features[branch].map(lambda t: t.roll(1, -1)), capture.shapes):
                assert difference(transformer(inputs), expected) > 1e-3, branch

    def test_partial_call_sees_its_own_input_and_timestep(self, transformer: Transformer) -> None:
        inputs = transformer.inputs()
        expected, layout, capture = captured(transformer, inputs)
        for branch in spread(transformer):
            others = []
            if branch >= 0 or not transformer.entry.timeless_head:
                others.append(transformer.at(inputs, 0.8))
            if branch >= 0:
                others.append(inputs | transformer.noise(transformer.inputs(seed=1)))
            for other in others:
                with skipping(layout, branch, capture.features[branch], capture.shapes) as context:
                    result = transformer(other)
                assert context.delivered
                assert difference(result, expected) > 1e-4, branch

    def test_feature_of_another_batch(self, transformer: Transformer) -> None:
        """Captured joint and replayed split, and the reverse."""
        joint = transformer.inputs(rows=2)
        split = [rows_of(joint, slice(row, row + 1), 2) for row in range(2)]
        together, layout, capture = captured(transformer, joint)
        apart = [captured(transformer, inputs) for inputs in split]
        for branch in spread(transformer):
            slices = capture.features[branch].parts(2)
            for feature, inputs, (expected, _, _) in zip(slices, split, apart, strict=True):
                with skipping(layout, branch, feature, capture.shapes) as context:
                    result = transformer(inputs)
                if transformer.entry.ragged and context.problem is not None:
                    assert torch.equal(result, expected)  # in full
                    continue
                assert context.delivered and context.problem is None
                assert difference(result, expected) < BATCH_BOUND, branch
            features = [single.features[branch] for _, _, single in apart]
            if transformer.entry.ragged:
                continue
            with skipping(layout, branch, joined(features), apart[0][2].shapes) as context:
                result = transformer(joint)
            assert context.delivered and context.problem is None
            assert difference(result, together) < BATCH_BOUND, branch

    def test_modules_are_restored_after_an_error(self, transformer: Transformer) -> None:
        inputs = transformer.inputs()
        _, layout, capture = captured(transformer, inputs)
        before = dictionaries(transformer.network)

        def fail(*_: Any) -> None:
            raise Stop

        for branch in (-1, transformer.blocks - 2):
            for context in (
                capturing(layout, {branch}),
                skipping(layout, branch, capture.features[branch], capture.shapes),
            ):
                hook = layout.units[-1].register_forward_hook(fail)
                with pytest.raises(Stop), context:
                    transformer(inputs)
                hook.remove()
                assert dictionaries(transformer.network) == before

    @pytest.mark.parametrize("form", ["bfloat16", "inference mode", "grad mode"])
    def test_forms_of_tensors(self, some: Transformer, form: str) -> None:
        transformer, mode = some, torch.no_grad
        inputs = transformer.inputs()
        if form == "bfloat16":
            transformer = made(some.name)
            transformer.network.to(torch.bfloat16)
            inputs = converted(inputs, torch.bfloat16)
        elif form == "inference mode":
            mode = torch.inference_mode
        else:
            transformer = made(some.name)
            transformer.network.requires_grad_(True)
            mode = torch.enable_grad
        with mode():
            expected, layout, capture = captured(transformer, inputs)
        assert not any(t.requires_grad for feature in capture.features.values() for t in feature.streams)
        # outside of the mode of the full call: hosts enter it for every call anew
        for branch in spread(transformer):
            with skipping(layout, branch, capture.features[branch], capture.shapes):
                result = transformer(inputs)
            if branch == -1:
                assert torch.equal(result, expected)
            else:
                assert difference(result, expected) < (BF16_BOUND if form == "bfloat16" else BOUND), branch

    def test_rows_are_the_second_dimension_of_ernie(self) -> None:
        transformer = build("ErnieImageTransformer2DModel")
        layout = find_layout(transformer.network)
        with capturing(layout, {-1}, 2, rows=2) as capture:
            transformer(transformer.inputs(rows=2))
        tokens = 64 + 5
        assert [part.shapes for part in capture.slices[-1]] == [((tokens, 32),)] * 2
        assert [tuple(part.streams[0].shape) for part in capture.slices[-1]] == [(tokens, 1, 32)] * 2

    def test_last_block_without_a_text_stream(self) -> None:
        """SD3: the last block returns (None, image), the others two streams."""
        transformer = build("SD3Transformer2DModel")
        _, layout, capture = captured(transformer, transformer.inputs())
        assert [len(list(tensors(capture.shapes.outputs[unit]))) for unit in layout.units] == [2, 2, 2, 2, 2, 1]


def table() -> str:
    """The table of docs/transformers.md."""
    rows = ["| Class | Lists of blocks | The last block returns | |", "| --- | --- | --- | --- |"]
    for name, entry in (ENTRIES | NEWER).items():
        transformer = build(name)
        _, layout, capture = captured(transformer, transformer.inputs())
        streams = len(list(tensors(capture.shapes.outputs[layout.units[-1]])))
        lists = ", ".join(f"`{part}`" for part in names_of(transformer.network))
        returned = "one tensor" if streams == 1 else f"{streams} tensors"
        rows.append(f"| `{name}` | {lists} | {returned} | {entry.note} |")
    return "\n".join(rows) + "\n"


def test_the_page_of_classes_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "transformers.md"
    assert table() in page.read_text(), "docs/transformers.md: put the text of table() in the place of its table"


class Stop(BaseException):
    """An interrupt, as hosts raise it: no Exception."""


class Blocks(nn.Module):
    """A network that is nothing but its lists."""

    def __init__(self, **lists: nn.Module) -> None:
        super().__init__()
        for name, blocks in lists.items():
            self.add_module(name, blocks)


class TestRefused:
    def refusal(self, network: nn.Module) -> str:
        with pytest.raises(ModelMismatch) as refused:
            find_layout(network)
        return str(refused.value)

    def test_blocks_by_name(self) -> None:
        """Old Cosmos in ComfyUI."""
        blocks = nn.ModuleDict({f"block{i}": nn.Linear(2, 2) for i in range(6)})
        assert "`blocks`, a ModuleDict and no list of blocks" in self.refusal(Blocks(blocks=blocks))

    def test_fewer_than_four_blocks(self) -> None:
        lists = {"double_blocks": nn.ModuleList([nn.Linear(2, 2)]), "single_blocks": nn.ModuleList([nn.Linear(2, 2)])}
        assert "2 blocks in double_blocks and single_blocks" in self.refusal(Blocks(**lists))

    def test_one_block_in_two_places(self) -> None:
        shared = nn.Linear(2, 2)
        blocks = nn.ModuleList([shared, nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), shared])
        assert "one module in two places" in self.refusal(Blocks(layers=blocks))

    def test_no_list_of_a_known_name(self) -> None:
        assert "neither the blocks of a U-Net nor those of a transformer" in self.refusal(
            Blocks(stages=nn.ModuleList([nn.Linear(2, 2) for _ in range(6)]))
        )

    def test_single_stream_blocks_are_not_taken_for_the_whole_trunk(self) -> None:
        blocks = [nn.Linear(2, 2) for _ in range(6)]
        network = Blocks(
            single_transformer_blocks=nn.ModuleList(blocks[3:]), transformer_blocks=nn.ModuleList(blocks[:3])
        )
        assert find_layout(network).units == tuple(blocks)
