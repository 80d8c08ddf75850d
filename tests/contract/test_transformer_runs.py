"""What a `Run` makes of transformers: batches that are cut up, longer prompts, blocks that hosts leave out."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any

import pytest
import torch
from main_transformers import ENTRIES
from plans import F, P
from test_transformers import BOUND, captured, difference
from torch import Tensor, nn
from transformer_inputs import Inputs
from transformer_networks import SOME, Transformer, build, made, own_ways, rows_of, spread

from flexiffusion.plan import Plan
from flexiffusion.run import Report, Run

Call = tuple[Inputs, Sequence[Hashable]]


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


@pytest.fixture(params=SOME)
def some(request: pytest.FixtureRequest) -> Transformer:
    return build(request.param)


@pytest.fixture
def sd3() -> Transformer:
    return build("SD3Transformer2DModel")


class TestBatches:
    @pytest.mark.parametrize("name", own_ways(n for n in ENTRIES if not ENTRIES[n].ragged))
    def test_chunks_come_joint_split_and_swapped(self, name: str) -> None:
        transformer = build(name)
        joint = transformer.inputs(rows=2)
        split = [rows_of(joint, slice(row, row + 1), 2) for row in range(2)]
        both, apart = [(joint, ("a", "b"))], [(split[1], ("b",)), (split[0], ("a",))]
        planned = plan(F, P(-1, "linear"), F, P(-1, "linear"), F, P(middle(transformer)))
        results, report = ran(transformer, planned, both, apart, apart, both, both, apart)
        for result, inputs in zip(
            results, [joint, *split[::-1], *split[::-1], joint, joint, *split[::-1]], strict=True
        ):
            assert difference(result, transformer(inputs)) < 1e-3
        assert (report.full, report.partial, report.misses) == (4, 5, 0)

    def test_time_that_has_two_rows_for_each(self) -> None:
        """Qwen-Image-Edit 2511: the blocks get the time of the noise and time 0 for the references, 2 B rows."""
        transformer = made("QwenImageTransformer2DModel", zero_cond_t=True)
        joint = transformer.inputs(rows=2)
        joint |= {"hidden_states": torch.randn(2, 16 + 9, 4), "img_shapes": [[(1, 4, 4), (1, 3, 3)]] * 2}
        split = [(rows_of(joint, slice(row, row + 1), 2), (row,)) for row in range(2)]
        for branch in (-1, 2):
            results, report = ran(transformer, plan(F, P(branch)), [(joint, (0, 1))], split)
            for result, (inputs, _) in zip(results[1:], split, strict=True):
                assert difference(result, transformer(inputs)) < 1e-3
            assert (report.full, report.partial, report.misses) == (1, 2, 0)

    def test_text_of_other_lengths_joint_and_split(self) -> None:
        """Lumina 2 pads a joint call to its longer text and masks it: split calls are shorter, or have no mask."""
        transformer = build("Lumina2Transformer2DModel")
        joint = transformer.inputs(rows=2)
        joint["encoder_attention_mask"][1, 3:] = 0
        split = [(rows_of(joint, slice(row, row + 1), 2), (row,)) for row in range(2)]
        results, report = ran(transformer, plan(F, P(-1)), [(joint, (0, 1))], split)
        assert all(torch.equal(r, transformer(inputs)) for r, (inputs, _) in zip(results[1:], split, strict=True))
        assert (report.full, report.partial, report.misses) == (3, 0, 2)

    def test_all_full_is_bitwise_the_untouched_network(self, some: Transformer) -> None:
        inputs = [some.at(some.inputs(seed=i), 1 - i / 4) for i in range(3)]
        calls = [[(given, ("a", "b"))] for given in inputs]
        # the plan's partial steps come later: everything is captured for them
        planned = plan(F, F, F, P(-1, "quadratic"), P(middle(some)))
        results, report = ran(some, planned, *calls, calls[-1], calls[-1])
        assert all(torch.equal(r, some(given)) for r, given in zip(results, inputs, strict=False))
        assert (report.full, report.partial, report.misses) == (3, 2, 0)


class TestLengths:
    """A feature is as long as the prompt and the reference pictures it was made with."""

    @pytest.mark.parametrize("name", own_ways(n for n in ENTRIES if not ENTRIES[n].fixed_text))
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
        planned = plan(F, F, P(-1, "linear"))
        results, report = ran(transformer, planned, *([(given, (0,))] for given in (short, long, long)))
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


class TestFinite:
    def test_feature_that_is_not_finite(self, some: Transformer, caplog: pytest.LogCaptureFixture) -> None:
        inputs = some.inputs()
        last = captured(some, inputs)[1].units[-1]
        calls = iter([True])

        def once(module: nn.Module, arguments: Any, output: Any) -> Any:
            return _spoiled(output) if next(calls, False) else output

        original = last.forward
        last.forward = lambda *a, **k: once(last, a, original(*a, **k))  # type: ignore[method-assign]
        try:
            planned = plan(F, P(-1), P(-1), F, P(-1))
            results, report = ran(some, planned, *([(inputs, (0,))] for _ in range(5)))
        finally:
            del last.forward
        expected = some(inputs)
        assert [bool(torch.equal(result, expected)) for result in results] == [False, True, True, True, True]
        assert (report.full, report.partial, report.misses) == (3, 2, 1)
        assert any(r.levelno == logging.WARNING and "not finite" in r.message for r in caplog.records)


def _spoiled(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(None if tensor is None else tensor * float("inf") for tensor in output)
    return output * float("inf")
