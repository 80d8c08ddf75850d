"""The contract of `Run`: what comes out, what is refused, what stays untouched."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import Network, build, dictionaries
from plans import F, P, features, plan, timestep
from torch import Tensor, nn

from flexiffusion.errors import FlexiffusionError, ModelMismatch
from flexiffusion.layouts import find_layout
from flexiffusion.plan import Plan, uses_of
from flexiffusion.predictor import weights
from flexiffusion.run import Report, Run
from flexiffusion.schedule import FULL, PREDICTORS, Action


def of_chunks(network: Network, order: Sequence[str]) -> tuple[Tensor, dict[str, Any]]:
    """The same picture under several conditionings, joined in this order."""
    drawn = {}
    for name in ("cond", "uncond"):
        torch.manual_seed(len(name))
        drawn[name] = network.conditioning(2)
    joined = {key: torch.cat([drawn[name][key] for name in order]) for key in drawn["cond"]}
    return torch.cat([network.sample()] * len(order)), joined


def delivered_by(network: Network, made: Plan) -> tuple[list[Tensor], Report]:
    """What the last deep unit of branch 2 handed on at each level, of another sample each; and the report."""
    conditioning, delivered = network.conditioning(2), []
    last = find_layout(network.unet).deep(2)[-1]
    hook = last.register_forward_hook(lambda m, a, output: delivered.append(output.clone()))
    with Run(network.unet, made) as run:
        for i, sigma in enumerate(made.levels):
            run.evaluate(sigma)
            run(lambda i=i, t=sigma: network(network.sample(seed=i), conditioning, timestep(t)), network.sample())
        report = run.report
    hook.remove()
    return delivered, report


class TestSameResults:
    def test_all_full_is_untouched(self, some_network: Network, untouched: Any) -> None:
        untouched(some_network)
        sample, conditioning = some_network.sample(), some_network.conditioning(2)
        expected = some_network(sample, conditioning)
        with Run(some_network.unet, plan(F, F, F)) as run:
            for sigma in run._plan.levels:
                run.evaluate(sigma)
                assert torch.equal(run(lambda: some_network(sample, conditioning), sample), expected)
            assert features(run) == []
        assert (run.report.full, run.report.partial, run.report.misses, run.report.cache_bytes) == (3, 0, 0, 0)

    def test_partial_after_full_is_bitwise_the_same(self, some_network: Network, untouched: Any) -> None:
        untouched(some_network)
        sample, conditioning = some_network.sample(), some_network.conditioning(2)
        expected = some_network(sample, conditioning)
        count = some_network.branches
        for chunks in ((0,), ("cond", "uncond")):
            made = plan(F, *(P(branch) for branch in range(-1, count)), nulls=3)
            with Run(some_network.unet, made) as run:
                for sigma in made.levels:
                    run.evaluate(sigma)
                    assert torch.equal(run(lambda: some_network(sample, conditioning), sample, chunks), expected)
            report = run.report
            assert (report.full, report.partial, report.null, report.misses) == (1, count + 1, 3, 0)
            assert 0 < report.seconds < 60

    @pytest.mark.parametrize("chunks", [(0,), ("cond", "uncond")])
    @pytest.mark.parametrize("predictor", ["reuse", "linear", "quadratic"])
    def test_writes_in_place_do_not_leak(self, some_network: Network, predictor: Any, chunks: Any) -> None:
        """As FreeU does it: what the last deep unit hands on is scaled where it lies. (Of the same feature at every
        full step these predict that feature; Spectrum's penalty makes it a smaller one.)"""
        network = some_network
        sample, conditioning = network.sample(), network.conditioning(2)
        made = plan(F, F, F, P(1, predictor), P(1, predictor), P(1, predictor))

        def scale(module: nn.Module, args: Any, output: Any) -> None:
            (output if isinstance(output, Tensor) else output[0])[:, ::2].mul_(1.3)

        hook = find_layout(network.unet).deep(1)[-1].register_forward_hook(scale)
        try:
            expected = network(sample, conditioning)
            with Run(network.unet, made) as run:
                for sigma in made.levels:
                    run.evaluate(sigma)
                    result = run(lambda: network(sample, conditioning), sample, chunks)
                    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)
        finally:
            hook.remove()
        assert (run.report.partial, run.report.misses) == (3, 0)

    @pytest.mark.parametrize("some_network", ["sd1", "compvis-three-levels"], indirect=True)
    @pytest.mark.parametrize("predictor", PREDICTORS)
    def test_joint_split_and_swapped_agree(self, some_network: Network, predictor: Any) -> None:
        network = some_network
        made = plan(F, F, F, P(1, predictor), P(1, predictor), F, P(-1, predictor), P(-1, predictor))

        def trajectory(ways: Sequence[Sequence[Sequence[str]]]) -> tuple[list[Tensor], Any]:
            results = []
            with Run(network.unet, made) as run:
                for i, sigma in enumerate(made.levels):
                    run.evaluate(sigma)
                    got: dict[str, Tensor] = {}
                    for order in ways[i % len(ways)]:
                        sample, conditioning = of_chunks(network, order)
                        result = run(
                            lambda s=sample, c=conditioning, t=sigma: network(s, c, timestep(t)), sample, order
                        )
                        got |= dict(zip(order, result.chunk(len(order)), strict=True))
                    results.append(torch.cat([got["cond"], got["uncond"]]))
            assert run.report.misses == 0
            return results, run.report

        joint, report = trajectory([[("cond", "uncond")]])
        assert (report.full, report.partial) == (4, 4)
        # full joint, then split, swapped, split the other way round
        mixed, _ = trajectory([
            [("cond", "uncond")], [("uncond",), ("cond",)], [("uncond", "cond")], [("cond",), ("uncond",)],
            [("uncond", "cond")],
        ])  # fmt: skip
        for a, b in zip(joint, mixed, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        # the chunks differ, so an exchange would be seen
        assert (joint[3][:2] - joint[3][2:]).abs().max() > 1e-3

    def test_predicted_feature_is_what_the_units_return(self, sd1: Network) -> None:
        """The quadratic through three full steps, made here by hand."""
        made = plan(F, F, F, P(2, "quadratic"))
        delivered, _ = delivered_by(sd1, made)
        x = [-2 * math.log(sigma) for sigma in made.levels]
        expected = sum(
            delivered[i] * math.prod((x[3] - x[j]) / (x[i] - x[j]) for j in range(3) if j != i) for i in range(3)
        )
        torch.testing.assert_close(delivered[3], expected, rtol=1e-4, atol=1e-5)

    def test_spectrum_reads_every_full_step_before(self, sd1: Network) -> None:
        """Places are fractions of the run, not noise levels."""
        made = plan(F, P(2, "spectrum"), F, F, P(2, "spectrum"), F, P(2, "spectrum"))
        delivered, report = delivered_by(sd1, made)
        assert (report.full, report.partial, report.misses) == (4, 3, 0)
        for step, fulls in ((4, (0, 2, 3)), (6, (0, 2, 3, 5))):
            factors = weights("spectrum", [full / 6 for full in fulls], step / 6)
            expected = sum(factor * delivered[full] for factor, full in zip(factors, fulls, strict=True))
            torch.testing.assert_close(delivered[step], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(delivered[1], delivered[0])  # one full step only: it is reused

    def test_pieces_of_one_picture_keep_their_own_features(self, sd1: Network) -> None:
        """Tiles: the same conditioning, called several times in one evaluation."""
        tiles = [sd1.sample(seed=i) for i in range(3)]
        conditioning = sd1.conditioning(2)
        made = plan(F, P(0), P(0))

        def trajectory(run: Run, pieces: Sequence[Tensor]) -> list[list[Tensor]]:
            results: list[list[Tensor]] = [[] for _ in pieces]
            for sigma in made.levels:
                run.evaluate(sigma)
                for i, piece in enumerate(pieces):
                    results[i].append(run(lambda p=piece, t=sigma: sd1(p, conditioning, timestep(t)), piece, ["c"]))
            return results

        with Run(sd1.unet, made) as run:
            together = trajectory(run, tiles)
        assert (run.report.partial, run.report.misses) == (6, 0)
        for piece, found in zip(tiles, together, strict=True):
            with Run(sd1.unet, made) as run:
                (alone,) = trajectory(run, [piece])
            assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))

    def test_identity_twice_in_one_batch(self, sd1: Network) -> None:
        sample, conditioning = sd1.sample(rows=4), sd1.conditioning(4)
        made = plan(F, P(0))
        with Run(sd1.unet, made) as run:
            results = []
            for sigma in made.levels:
                run.evaluate(sigma)
                results.append(run(lambda: sd1(sample, conditioning), sample, ["same", "same"]))
        assert torch.equal(*results)
        assert run.report.partial == 1


class TestRefusals:
    def test_order_of_calls(self, sd1: Network) -> None:
        run = Run(sd1.unet, plan(F, P(0)))
        with pytest.raises(FlexiffusionError, match=r"Call `evaluate\(sigma\)` first"):
            run(lambda: 0, sd1.sample())
        for sigma in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(FlexiffusionError, match="positive"):
                run.evaluate(sigma)
        run.close()
        run.close()
        with pytest.raises(FlexiffusionError, match="closed"):
            run.evaluate(1.0)
        assert run.report.seconds == 0

    def test_branch_that_the_network_has_not(self, some_network: Network) -> None:
        with pytest.raises(ModelMismatch, match=f"branches -1 to {some_network.branches - 1}"):
            Run(some_network.unet, plan(F, P(some_network.branches)))

    def test_unknown_network(self) -> None:
        with pytest.raises(ModelMismatch, match="Linear"):
            Run(nn.Linear(1, 1), plan(F, P(0)))

    def test_plan_without_partial_steps_takes_any_network(self) -> None:
        network = nn.Linear(1, 1)
        with Run(network, plan(F, F, nulls=2)) as run:
            run.evaluate(14.0)
            assert run(lambda: 5, torch.zeros(1)) == 5
        with Run(network, Plan((), (), 0)) as run:
            assert run.evaluate(14.0) == FULL
            assert run(lambda: 5, torch.zeros(1)) == 5

    def test_dropped_layers_that_the_network_has_not(self, sd1: Network) -> None:
        for name in ("mid_block", "input_blocks.0.0", "middle_block.9"):
            with pytest.raises(ModelMismatch, match=f"dropped unit {name}"):
                Run(sd1.unet, plan(F, Action("partial", 0, "reuse", (name,))))


class TestSurroundings:
    def test_meta_device(self, some_network: Network) -> None:
        network = replace(some_network, unet=copy.deepcopy(some_network.unet).to("meta"))
        sample = network.sample().to("meta")
        conditioning = {name: value.to("meta") for name, value in network.conditioning(2).items()}
        made = plan(F, F, F, *(P(branch, "quadratic") for branch in (-1, 0, network.branches - 1)))
        with Run(network.unet, made) as run:
            for sigma in made.levels:
                run.evaluate(sigma)
                result = run(lambda: network(sample, conditioning), sample, (0, 1))
        assert result.shape == sample.shape
        assert (run.report.partial, run.report.misses) == (3, 0)

    @pytest.mark.gpu
    def test_cuda(self, some_network: Network) -> None:
        """The finite check that is read behind the computation."""
        network = replace(some_network, unet=copy.deepcopy(some_network.unet).cuda())
        sample = network.sample().cuda()
        conditioning = {name: value.cuda() for name, value in network.conditioning(2).items()}
        expected = network(sample, conditioning)
        made = plan(F, P(0), F, P(1))
        with Run(network.unet, made) as run:
            for sigma in made.levels:
                run.evaluate(sigma)
                torch.testing.assert_close(run(lambda: network(sample, conditioning), sample), expected)
            for chunk in run._cache.values():
                assert all(entry.finite for entries in chunk.histories.values() for entry in entries)
        assert (run.report.partial, run.report.misses) == (2, 0)

    def test_random_state_and_modules_stay(self, sd1: Network) -> None:
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        state, before = torch.get_rng_state(), dictionaries(sd1.unet)
        made = plan(F, P(0, "linear"), F, P(0, "linear"))
        with Run(sd1.unet, made) as run:
            for sigma in made.levels:
                run.evaluate(sigma)
                run(lambda: sd1(sample, conditioning), sample)
                assert dictionaries(sd1.unet) == before
        assert torch.equal(torch.get_rng_state(), state)

    def test_captured_branches_are_those_that_later_steps_need(self) -> None:
        made = plan(F, F, P(0, "quadratic"), F, P(1, "linear"), P(-1), F, F, P(3, "quadratic"), F)
        uses, _ = uses_of(made.actions)
        # The quadratic one at 2 has two full steps before it; the linear one at 4 needs two, the last one three.
        expected = {0: {0}, 1: {0, 1}, 3: {1, -1, 3}, 6: {3}, 7: {3}, 9: set[int]()}
        assert {step: set(uses[step]) for step in expected} == expected

    def test_report_reads_well(self, sd1: Network) -> None:
        run = Run(sd1.unet, plan(F, P(0), nulls=4))
        assert str(run.report) == "full 0, partial 0, null 4, misses 0, 0.00 s, cache 0.0 MiB"
        assert run.report.speedup(6) is None

    def test_speedup_by_its_own_full_steps(self, sd1: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [0.0]
        monkeypatch.setattr("flexiffusion.run.time.perf_counter", lambda: clock[0])
        made = plan(F, F, P(0), F, nulls=2)
        with Run(sd1.unet, made) as run:
            # the first one warms up; a step at two evaluations counts twice
            for level, seconds in zip(made.levels, (9.0, 4.0, 1.0, 2.0), strict=True):
                for _ in range(2):
                    run.evaluate(level)
                    run(lambda: sd1(sd1.sample(), sd1.conditioning(2)), sd1.sample())
                    clock[0] += seconds / 2
        report = run.report
        assert (report.evaluations, report.levels, report.seconds) == (8, 4, 16.0)
        assert report.full_seconds == 2.0  # of 4.5, 2, 2, 1, 1 without the first
        assert report.speedup(6) == 6 * 2 * 2.0 / 16


@pytest.mark.slow
def test_compiled_network() -> None:
    """torch.compile: right results, right counts, one graph for each kind of step."""
    network = build("class-conditional")
    graphs = [0]

    def backend(module: Any, inputs: Any) -> Any:
        graphs[0] += 1
        return module.forward

    compiled = replace(network, unet=torch.compile(network.unet, backend=backend))
    conditioning = network.conditioning(2)
    made = plan(F, P(0), P(0), F, P(0), P(0))

    def trajectory(called: Network) -> list[Tensor]:
        results = []
        with Run(called.unet, made) as run:
            for i, sigma in enumerate(made.levels):
                sample = network.sample(seed=i)
                run.evaluate(sigma)
                results.append(run(lambda s=sample: called(s, conditioning), sample))
        assert (run.report.full, run.report.partial, run.report.misses) == (2, 4, 0)
        return results

    expected = trajectory(network)
    for _ in range(2):
        for a, b in zip(trajectory(compiled), expected, strict=True):
            torch.testing.assert_close(a, b)
    assert graphs[0] == 2
