"""The ComfyUI engine on the stand-in and, with COMFYUI_PATH, on the host's own sampling; rows are users' complaints."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_hosts import Calls, ComfyUI, StandIn, conditionings, karras, noise_for
from networks import CONTEXT, TOKENS
from pack import part
from torch import Tensor, nn

engine = part("comfy_nodes.apply")
S = part("flexiffusion.schedule")
errors = part("flexiffusion.errors")
presets = part("flexiffusion.presets")

T = 8
LEVELS = karras(T)
LARGE = (32, 32)  # where pictures are compared that rounding may part
CLOSE = {"rtol": 1e-3, "atol": 1e-3}  # of joint against split calls, whose matrix products are summed in another order


@pytest.fixture(
    scope="module", params=["stand-in", pytest.param("comfyui", marks=pytest.mark.host)], ids=["stand-in", "comfyui"]
)
def host(request: pytest.FixtureRequest) -> Any:
    if request.param == "stand-in":
        return StandIn()
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip("COMFYUI_PATH names no checkout of ComfyUI")
    return ComfyUI()


@pytest.fixture(autouse=True)
def _untouched(host: Any) -> Iterator[None]:
    """Row 8: whatever a test does, no module of the network has another attribute, forward or hook afterwards."""
    modules = [(module, vars(module).get("forward"), len(module._forward_hooks)) for module in host.unet().modules()]
    yield
    assert [(m, vars(m).get("forward"), len(m._forward_hooks)) for m in host.unet().modules()] == modules


def schedule(plan: Any, **more: Any) -> Any:
    total = plan.total_steps if isinstance(plan, S.SegmentsPlan) else T
    facts = {
        "name": "made",
        "model": S.ModelInfo("tiny", 12),
        "sampling": S.Sampling(None, None, total, None, None, None),
        "plan": plan,
    }
    return S.Schedule(**(facts | more))


def segments(*parts: tuple[int, int], branch: int = 1, predictor: str = "reuse", **more: Any) -> Any:
    return schedule(S.SegmentsPlan(tuple(S.Segment(n, k, branch, predictor) for n, k in parts)), **more)


def steps(*rows: tuple[float, str], **more: Any) -> Any:
    actions = {"F": S.FULL, "P": S.Action("partial", 0, "linear")}
    return schedule(S.StepsPlan(tuple(S.Step(level, actions[kind]) for level, kind in rows)), **more)


HALF = segments(*[(2, 2)] * 4)  # FPFPFPFP
WITH_NULLS = segments((4, 3), (4, 2))  # FPPN FPNN


def run(
    host: Any, used: Any, model: Any = None, mapping: str = "position", **sampling: Any
) -> tuple[Tensor, Calls, Any]:
    """One sampling with the schedule: the latent, the network calls, the outcome."""
    outcomes: list[Any] = []
    calls = Calls()
    applied = engine.apply(model or host.model(), used, mapping, (), outcomes.append)
    result = host.sample(applied, sampling.pop("sigmas", LEVELS), calls=calls, **sampling)
    (outcome,) = outcomes
    return result, calls, outcome


def solved(*rows: tuple[float, str, tuple[float, ...]]) -> Any:
    """Steps with a solver of their own."""
    actions = {"F": S.FULL, "P": S.Action("partial", 0, "linear")}
    return schedule(S.StepsPlan(tuple(S.Step(level, actions[kind], weights) for level, kind, weights in rows)))


OWN_LEVELS = [14.6146, 8.0, 4.0, 2.0, 1.0, 0.4]
EULER = solved(*((level, "F", (1.0,)) for level in OWN_LEVELS))


class TestOwnSolver:
    """A schedule with weights: its solver runs in the place of the chosen sampler's loop."""

    def test_it_runs_whatever_sampler_was_chosen(self, host: Any) -> None:
        expected = host.sample(host.model(), [*OWN_LEVELS, 0.0], sampler="euler")
        for sampler in ("euler", "heun"):
            result, calls, outcome = run(host, EULER, sampler=sampler)
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
            assert (calls.full, calls.partial) == (6, 0)
            assert f"made brings its own solver: sampler {sampler} is not used" in outcome.notes

    def test_weights_reach_back(self, host: Any) -> None:
        rows = [(1.0,), (1.3, -0.3), (1.2, -0.4, 0.2), (1.1, -0.1), (1.0,), (0.9, 0.1)]
        own = solved(*zip(OWN_LEVELS, "FFPFPF", rows, strict=True))
        result, calls, outcome = run(host, own)
        assert calls.deep == [True, True, False, True, False, True] and outcome.report.misses == 0
        plain, _, _ = run(host, solved(*zip(OWN_LEVELS, "FFPFPF", [(1.0,)] * 6, strict=True)))
        assert not torch.equal(result, plain)

    def test_dpmpp_2ms_weights_are_the_hosts_dpmpp_2m(self, host: Any) -> None:
        if host.name == "stand-in":
            pytest.skip("the stand-in has no such sampler")
        rows = part("flexiffusion.solver").dpmpp_2m_weights(OWN_LEVELS)
        result, _, _ = run(host, solved(*zip(OWN_LEVELS, "FFFFFF", rows, strict=True)))
        expected = host.sample(host.model(), [*OWN_LEVELS, 0.0], sampler="dpmpp_2m")
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-3)

    def test_a_tail_begins_with_the_usual_solver(self, host: Any) -> None:
        """img2img: what was predicted above the first level is not there, so weights that read it are no use."""
        rows = [(1.0,), (1.5, -0.5), (1.5, -0.5), (1.0,), (1.5, -0.5), (1.0,)]
        own, tail = solved(*zip(OWN_LEVELS, "FFFFFF", rows, strict=True)), [7.0, 5.0, 3.0, 2.5, 1.5, 0.7, 0.3, 0.0]
        result, calls, outcome = run(host, own, sigmas=tail)
        assert calls.full == 5
        assert "made: 2 of 5 steps are taken by DPM-Solver++ 2M" in " ".join(outcome.notes)
        assert result.isfinite().all()

    def test_a_sampler_without_a_place_for_it_is_refused_before_sampling(self, host: Any) -> None:
        _, plan = engine.thin(EULER, [*OWN_LEVELS, 0.0])
        with pytest.raises(errors.ScheduleError, match="its own solver, but the sampler, a object, has no place"):
            part("comfy_nodes.samplers").with_own_solver(object(), plan, "made")


class TestAuto:
    """One speed-up; the schedule is chosen at the start of every sampling."""

    SIGMAS = karras(20)

    def auto(self, speedup: float = 2.0, *found: Any) -> Any:
        return part("comfy_nodes.auto").Auto(speedup, lambda: [presets.Preset(Path(), one) for one in found])

    def searched(self, host: Any, fingerprint: Any = None, **more: Any) -> Any:
        """Every second level of the host's list in full, with Euler's weights; 2x."""
        facts = part("flexiffusion.metadata")
        own = solved(*((level, "F", (1.0,)) for level in self.SIGMAS[:-1:2]))
        info = replace(part("comfy_nodes.auto").model_info(host.unet()), fingerprint=fingerprint)
        sampling = S.Sampling("euler", None, 20, 4.0, None, None)
        return replace(
            own, name="found", model=info, sampling=sampling, provenance=facts.Provenance("searched"), **more
        )

    def test_without_a_searched_schedule_the_rule_runs(self, host: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "flexiffusion")
        result, calls, outcome = run(host, self.auto(), sigmas=self.SIGMAS)
        assert (calls.full, calls.partial) == (10, 10) and calls.deep[0] and calls.deep[-1]
        assert outcome.schedule == "rule-2x" and outcome.report.misses == 0
        assert outcome.notes[0].startswith("Auto: the rule for 2x") and outcome.notes[0] in caplog.text
        assert result.isfinite().all()

    def test_a_schedule_of_this_checkpoint_is_found_by_its_fingerprint(self, host: Any) -> None:
        own = part("flexiffusion.fingerprint").fingerprint_of(host.unet())
        _, calls, outcome = run(host, self.auto(2.0, self.searched(host, own)), sigmas=self.SIGMAS)
        assert (outcome.schedule, calls.full, calls.partial) == ("found", 10, 0)
        assert outcome.notes[0] == "Auto: found, searched for this checkpoint, 2.00x"
        other = tuple(number / 2 for number in own)
        assert run(host, self.auto(2.0, self.searched(host, other)), sigmas=self.SIGMAS)[2].schedule == "rule-2x"

    def test_speed_up_one_and_few_steps_are_bitwise_the_host_alone(self, host: Any) -> None:
        for speedup, sigmas in ((1.0, self.SIGMAS), (2.0, karras(8))):
            result, calls, outcome = run(host, self.auto(speedup), sigmas=sigmas)
            assert torch.equal(result, host.sample(host.model(), sigmas))
            assert calls.partial == 0 and outcome.schedule is None
        assert "nothing to gain here: 8 steps" in outcome.notes[0]

    def test_a_list_without_guidance_and_with_few_steps_looks_distilled(self, host: Any) -> None:
        _, calls, outcome = run(host, self.auto(), sigmas=karras(12), cfg=1.0)
        assert calls.partial == 0 and "distilled" in outcome.notes[0]

    def test_one_model_serves_lists_of_all_lengths(self, host: Any) -> None:
        outcomes: list[Any] = []
        applied = engine.apply(host.model(), self.auto(3.0), listener=outcomes.append)
        for count in (20, 30, 12):
            host.sample(applied, karras(count))
        assert [(one.report.full, one.report.partial) for one in outcomes] == [(6, 14), (10, 20), (4, 8)]

    def test_img2img_lays_the_rule_over_what_is_left(self, host: Any) -> None:
        _, calls, outcome = run(host, self.auto(), sigmas=karras(30)[12:])
        assert (calls.full, calls.partial, outcome.report.misses) == (9, 9, 0) and calls.deep[0]

    def test_a_speed_up_out_of_range_is_refused_before_sampling(self, host: Any) -> None:
        with pytest.raises(errors.ScheduleError, match="1 to 4"):
            run(host, self.auto(5.0), sigmas=self.SIGMAS)


class TestCounts:
    def test_all_full_is_bitwise_the_host_alone(self, host: Any) -> None:
        plain = host.sample(host.model(), LEVELS)
        for used in (None, segments(*[(1, 1)] * T)):
            result, calls, outcome = run(host, used)
            assert torch.equal(result, plain)
            assert (outcome.report.full, calls.full, calls.partial) == (T, T, 0)
        assert any("no effect" in note for note in outcome.notes), "row 19: zero effect is a warning"

    def test_executed_is_what_is_planned_and_reported(self, host: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "flexiffusion")
        result, calls, outcome = run(host, HALF)
        assert calls.deep == [True, False] * 4
        report = outcome.report
        assert (report.full, report.partial, report.null, report.misses) == (4, 4, 0, 0)
        assert "full 4, partial 4, null 0, misses 0, " in caplog.text and "estimated " in caplog.text
        assert not torch.equal(result, host.sample(host.model(), LEVELS))

    def test_null_steps_are_the_same_list_typed_by_hand(self, host: Any) -> None:
        only_nulls = segments(*[(2, 1)] * 4)
        result, calls, outcome = run(host, only_nulls)
        assert torch.equal(result, host.sample(host.model(), [*LEVELS[:-1:2], 0.0]))
        assert (calls.full, calls.partial, outcome.report.null) == (4, 0, 4)

    def test_full_partial_and_null(self, host: Any) -> None:
        _, calls, outcome = run(host, WITH_NULLS)
        assert calls.deep == [True, False, False, True, False]
        assert (outcome.report.null, outcome.steps) == (3, T)

    def test_a_steps_plan_brings_its_own_levels(self, host: Any) -> None:
        own = steps((14.6, "F"), (6.0, "F"), (3.0, "P"), (1.0, "F"), (0.4, "P"))
        seen: list[float] = []
        model = host.model()
        model.add_wrapper_with_key(
            "predict_noise",
            "test",
            lambda executor, x, sigma, *a, **k: (seen.append(float(sigma[0])), executor(x, sigma, *a, **k))[1],
        )
        _, calls, _ = run(host, own, model)
        assert seen == pytest.approx([LEVELS[0], 6.0, 3.0, 1.0, 0.4])
        assert calls.deep == [True, True, False, True, False]

    def test_a_sampler_that_adds_noise_first_runs_each_step_as_planned(self, host: Any) -> None:
        """s_churn evaluates above the listed levels: each step did what the one before it was to do."""
        _, calls, outcome = run(host, HALF, sampler="churned", noise=noise_for(size=LARGE))
        assert calls.deep == [True, False] * 4 and outcome.report.misses == 0

    def test_a_steps_plan_drops_units(self, host: Any) -> None:
        """Calls run what is left, joint and split ones alike; the report counts, and no module stays changed."""
        drop = ("input_blocks.4.0", "middle_block.1", "output_blocks.11.0")
        rows = [(14.6, ()), (6.0, drop), (3.0, drop[:1]), (1.0, ()), (0.4, drop[2:])]
        plan = S.StepsPlan(tuple(S.Step(level, S.Action("full", drop=names)) for level, names in rows))
        ran: list[list[str]] = []
        units = {name: host.unet().get_submodule(name) for name in drop}
        hooks = [
            next(m for m in unit.modules() if not list(m.children())).register_forward_hook(
                lambda *_, name=name: ran[-1].append(name)
            )
            for name, unit in units.items()
        ]
        hooks.append(host.unet().register_forward_pre_hook(lambda *_: ran.append([])))
        try:
            result, _, outcome = run(host, schedule(plan), noise=noise_for(1, LARGE))
        finally:
            for hook in hooks:
                hook.remove()
        assert ran == [[name for name in drop if name not in dropped] for _, dropped in rows]
        assert (outcome.report.full, outcome.report.dropped) == (5, 5)
        assert "dropped units 5" in str(outcome)
        assert not any("no effect" in note for note in outcome.notes)
        split, _, apart = run(host, schedule(plan), noise=noise_for(1, LARGE), joint=lambda sigma: False)
        torch.testing.assert_close(split, result, **CLOSE)
        assert apart.report.dropped == 10
        whole = schedule(S.StepsPlan(tuple(S.Step(level, S.FULL) for level, _ in rows)))
        assert not torch.allclose(run(host, whole, noise=noise_for(1, LARGE))[0], result)

    @pytest.mark.parametrize("predictor", ["reuse", "linear", "quadratic"])
    def test_features_are_few_and_freed(self, host: Any, predictor: str) -> None:
        """Row 16: at most one tensor a chunk for reuse, two for linear, three for quadratic; none after the end."""
        kept: list[Any] = []

        def watch(executor: Any, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = executor(x, sigma, *args, **kwargs)
            live = executor.class_obj.model_options["transformer_options"]["flexiffusion"].run_of(host.unet())
            kept.append([len(entries) for chunk in live._cache.values() for entries in chunk.histories.values()])
            features.extend(
                weakref.ref(e.feature.streams[0])
                for c in live._cache.values()
                for es in c.histories.values()
                for e in es
            )
            return result

        features: list[Any] = []
        model = host.model()
        model.add_wrapper_with_key("predict_noise", "test", watch)
        used = segments(*[(2, 2)] * 4, predictor=predictor)
        outcomes: list[Any] = []
        host.sample(engine.apply(host.model(), used, "position", (), outcomes.append), LEVELS)
        applied = engine.apply(model, used)
        # the test's wrapper must be inside of ours, which makes the run
        applied.remove_wrappers_with_key("predict_noise", "test")
        applied.add_wrapper_with_key("predict_noise", "test", watch)
        host.sample(applied, LEVELS)
        most = {"reuse": 1, "linear": 2, "quadratic": 3}[predictor]
        assert max(count for counts in kept for count in counts) == most
        assert max(len(counts) for counts in kept) == 2, "one for cond, one for uncond"
        gc.collect()
        assert features and all(feature() is None for feature in features)
        assert outcomes[0].report.cache_bytes > 0


class TestBatches:
    def test_batch_of_four_is_four_of_one(self, host: Any) -> None:
        together = run(host, WITH_NULLS, noise=noise_for(4, LARGE))[0]
        for row in range(4):
            alone = run(host, WITH_NULLS, noise=noise_for(1, LARGE, row))[0]
            torch.testing.assert_close(together[row : row + 1], alone, **CLOSE)

    def test_joint_split_or_mixed_calls_give_one_picture(self, host: Any) -> None:
        """Row 4: free memory decides at every call."""
        joint = run(host, HALF, noise=noise_for(1, LARGE))[0]
        for policy in (lambda sigma: False, lambda sigma: sigma > 2, lambda sigma: sigma < 2):
            result, calls, outcome = run(host, HALF, joint=policy, noise=noise_for(1, LARGE))
            assert outcome.report.misses == 0 and outcome.report.full > 4
            torch.testing.assert_close(result, joint, **CLOSE)
            assert len(calls.deep) == outcome.report.full + outcome.report.partial

    def test_several_conditionings_on_one_side(self, host: Any) -> None:
        more = [conditionings()[0], conditionings(9)[0]]
        for policy in (lambda sigma: True, lambda sigma: False):
            _, _, outcome = run(host, HALF, positive=more, joint=policy)
            assert outcome.report.misses == 0 and outcome.report.partial > 0

    def test_odd_sizes(self, host: Any) -> None:
        size = (8, 24) if host.name == "stand-in" else (9, 13)  # LDM takes multiples of 8 only
        plain = host.sample(host.model(), LEVELS, noise=noise_for(size=size))
        assert torch.equal(run(host, segments(*[(1, 1)] * T), noise=noise_for(size=size))[0], plain)
        assert run(host, HALF, noise=noise_for(size=size))[2].report.misses == 0


class TestRepeated:
    def test_another_size_between_changes_nothing(self, host: Any) -> None:
        """Rows 5 and 6: A, B, A on one patched MODEL; each equals a fresh one."""
        model = engine.apply(host.model(), HALF)
        first = host.sample(model, LEVELS)
        other = host.sample(model, LEVELS, noise=noise_for(2, (24, 8), 5))
        assert torch.equal(host.sample(model, LEVELS), first)
        assert torch.equal(run(host, HALF, noise=noise_for(2, (24, 8), 5))[0], other)

    def test_every_sampling_of_one_model_counts_the_same(self, host: Any) -> None:
        """Row 7."""
        outcomes: list[Any] = []
        model = engine.apply(host.model(), WITH_NULLS, "position", (), outcomes.append)
        for _ in range(3):
            host.sample(model, LEVELS)
        counts = {(o.report.full, o.report.partial, o.report.null, o.report.misses) for o in outcomes}
        assert counts == {(2, 3, 3, 0)} and len(outcomes) == 3

    def test_the_given_model_is_not_touched_and_the_last_schedule_counts(self, host: Any) -> None:
        model = host.model()
        plain = host.sample(model, LEVELS)
        once = run(host, HALF)[0]
        twice = engine.apply(engine.apply(engine.apply(model, WITH_NULLS), HALF), HALF)
        assert torch.equal(host.sample(twice, LEVELS), once)
        assert torch.equal(host.sample(model, LEVELS), plain)

    @pytest.mark.parametrize(
        ("kind", "at"),
        [(RuntimeError, 4), (KeyboardInterrupt, 1)]
        + [
            pytest.param(kind, at, marks=pytest.mark.slow)
            for kind, at in [(RuntimeError, 0), (RuntimeError, 1), (KeyboardInterrupt, 0), (KeyboardInterrupt, 4)]
        ],
    )
    def test_a_broken_run_leaves_nothing(self, host: Any, kind: type[BaseException], at: int) -> None:
        """Row 8: also when the exception comes from the middle of a forward."""
        model = engine.apply(host.model(), HALF)
        first = host.sample(model, LEVELS)
        left = [at]

        def fail(*_: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise kind("interrupted")

        hook = host.unet().out.register_forward_hook(fail)
        try:
            with pytest.raises(kind):
                host.sample(model, LEVELS)
        finally:
            hook.remove()
        assert torch.equal(host.sample(model, LEVELS), first)


class TestTwoDevices:
    """MultiGPU CFG Split: the host calls a copy of the network for each side, from threads of its own."""

    def test_both_copies_follow_the_schedule_and_are_left_as_they_were(self, host: Any) -> None:
        model, second = host.split()
        before = [vars(module).get("forward") for module in second.modules()]
        expected = run(host, HALF, noise=noise_for(size=LARGE))[0]
        counts = Calls()
        for _ in range(2):
            with counts.watching(second):
                result, calls, outcome = run(host, HALF, model=model, noise=noise_for(size=LARGE))
            assert (calls.deep, counts.deep) == ([True, False] * 4, [True, False] * 4)
            counts.deep.clear()
            torch.testing.assert_close(result, expected, **CLOSE)
            assert (outcome.report.full, outcome.report.partial, outcome.report.misses) == (8, 8, 0)
            assert [vars(module).get("forward") for module in second.modules()] == before

    def test_all_full_is_bitwise_the_host_alone(self, host: Any) -> None:
        model, _ = host.split()
        full = segments(*[(1, 1)] * T)
        assert torch.equal(run(host, full, model=model)[0], host.sample(host.split()[0], LEVELS))

    def test_a_fault_on_one_device_leaves_both_as_they_were(self, host: Any) -> None:
        model, second = host.split()
        before = [vars(module).get("forward") for module in second.modules()]
        calls = 0

        def fails(module: nn.Module, args: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise RuntimeError("a device was lost")

        hook = second.middle_block[0].register_forward_pre_hook(fails)  # type: ignore[index, union-attr]
        with pytest.raises(RuntimeError, match="a device was lost"):
            run(host, HALF, model=model)
        hook.remove()
        assert [vars(module).get("forward") for module in second.modules()] == before
        assert run(host, HALF, model=model)[2].report.misses == 0


class TestNeighbours:
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_wrappers_of_others_all_run(self, host: Any, when: str) -> None:
        """Row 9."""
        ran: list[str] = []

        def foreign(kind: str) -> Any:
            def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
                ran.append(kind)
                return executor(*args, **kwargs)

            return wrapper

        expected = run(host, HALF)[0]
        model = host.model()
        kinds = ("outer_sample", "predict_noise", "apply_model", "diffusion_model")
        if when == "after":
            model = engine.apply(model, HALF)
        for kind in kinds:
            model.add_wrapper_with_key(kind, "another pack", foreign(kind))
        if when == "before":
            model = engine.apply(model, HALF)
        assert torch.equal(host.sample(model, LEVELS), expected)
        assert [ran.count(kind) for kind in kinds] == [1, T, T, T]

    def test_patches_of_others_act_in_every_block_that_runs(self, host: Any) -> None:
        """Row 10: in-place writers (FreeU) and attention patches (IP-Adapter, PAG) see what they see without us."""
        if host.name != "comfyui":
            pytest.skip("the host's own patches")
        seen: list[list[Any]] = []

        def attention(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Any:
            seen[-1].append((*extra["block"], extra["block_index"]))
            return q, k, v * 1.1

        def in_place(h: Tensor, skip: Tensor, options: dict[str, Any]) -> Any:
            h[:, : h.shape[1] // 2] *= 1.3
            return h, skip

        def begin(executor: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append([])
            return executor(*args, **kwargs)

        model = host.model()
        model.set_model_attn1_patch(attention)
        model.set_model_output_block_patch(in_place)
        model.add_wrapper_with_key("diffusion_model", "test", begin)
        alone = host.sample(model, LEVELS)
        whole = seen[0]
        seen.clear()
        assert torch.equal(run(host, segments(*[(1, 1)] * T), model)[0], alone)
        seen.clear()
        _, calls, outcome = run(host, HALF, model)
        assert calls.deep == [True, False] * 4 and outcome.report.misses == 0
        runs = {("input", 0), ("input", 1), ("output", 10), ("output", 11)}  # of branch 1
        outer = [block for block in whole if block[:2] in runs]
        assert outer and seen == [whole, outer] * 4

    def test_a_cache_on_the_same_model_is_named(self, host: Any) -> None:
        class EasyCacheHolder:
            pass

        model = host.model()
        model.model_options["transformer_options"]["easycache"] = EasyCacheHolder()
        outcome = run(host, HALF, model)[2]
        assert any(note.startswith("EasyCache is on the same model") for note in outcome.notes)

    def test_a_pack_that_skips_calls_is_survived(self, host: Any) -> None:
        def skip(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return torch.zeros_like(x)

        model = host.model()
        model.add_wrapper_with_key("diffusion_model", "another pack", skip)
        result, calls, outcome = run(host, HALF, model)
        assert torch.isfinite(result).all() and calls.full == 0
        assert outcome.report.partial == 0 and "nothing was saved" in outcome.notes[-1]

    @pytest.mark.slow
    def test_compiled(self, host: Any) -> None:
        """Row 12: what the host's own TorchCompileModel does, with the eager backend: the same counts and picture."""
        torch._dynamo.reset()
        graphs: list[Any] = []

        def backend(graph: Any, _: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(host.unet(), backend=backend)

        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            model = executor.class_obj
            before = model.diffusion_model
            try:
                model.diffusion_model = compiled
                return executor(*args, **kwargs)
            finally:
                model.diffusion_model = before

        noise = noise_for(1, LARGE)
        expected = run(host, HALF, noise=noise)[0]
        model = host.model()
        model.add_wrapper_with_key("apply_model", "compile", wrapper)
        outcomes: list[Any] = []
        result = host.sample(engine.apply(model, HALF, "position", (), outcomes.append), LEVELS, noise=noise)
        torch.testing.assert_close(result, expected, **CLOSE)
        assert (outcomes[0].report.full, outcomes[0].report.partial, outcomes[0].report.misses) == (4, 4, 0)
        assert graphs


class TestWhatIsSaid:
    def test_few_steps(self, host: Any) -> None:
        """Row 17."""
        few = karras(4)
        result, calls, outcome = run(host, HALF, sigmas=few)
        assert torch.equal(result, host.sample(host.model(), few)) and calls.partial == 0
        assert any("nothing to gain at 4 steps" in note for note in outcome.notes)

    def test_more_steps_than_the_user_asked_for(self, host: Any) -> None:
        """Thinned to the asked number, and said before sampling: 18 calls ran where the sampler alone makes 8."""
        own = steps(*[(14.6146 * 0.75**i, "FP"[i % 2]) for i in range(18)])
        _, calls, outcome = run(host, own)
        assert (calls.full, calls.partial) == (4, 4)
        assert any("made has 18 steps here and 8 were asked for: it is thinned to 8" in note for note in outcome.notes)

    def test_as_many_full_steps_as_the_sampler_alone_would_run(self, host: Any) -> None:
        own = steps(*[(14.6146 * 0.5**i, "F") for i in range(8)])
        outcome = run(host, own)[2]
        assert any("runs 8 full steps, the sampler without it 8: nothing is gained" in note for note in outcome.notes)

    def test_rising_levels(self, host: Any) -> None:
        rising = [0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 14.0]
        result, calls, outcome = run(host, HALF, sigmas=rising)
        assert torch.equal(result, host.sample(host.model(), rising)) and calls.partial == 0
        assert any("not below the one before it" in note for note in outcome.notes)

    def test_a_sampler_that_evaluates_more_often(self, host: Any) -> None:
        """Row 13: Heun's method evaluates twice a step; it is said before, and the levels still decide."""
        _, calls, outcome = run(host, HALF, sampler="heun")
        assert any("sampler heun evaluates the network more than once a step" in note for note in outcome.notes)
        report = outcome.report
        assert (report.full + report.partial, report.misses) == (2 * T - 1, 0) == (len(calls.deep), 0)
        assert (report.full, report.partial) == (calls.full, calls.partial) == (7, 8)

    def test_a_sampler_that_is_not_known_is_counted_afterwards(self, host: Any, monkeypatch: Any) -> None:
        """Notes told of samplers that were not known what did not happen."""
        samplers = part("comfy_nodes.samplers")
        monkeypatch.setattr(samplers, "_ONE_EACH", set())
        monkeypatch.setattr(samplers, "_SEVERAL_EACH", set())
        assert run(host, HALF)[2].notes == ()
        (note,) = run(host, HALF, sampler="heun")[2].notes
        assert note.startswith("sampler heun evaluated the network 15 times over 8 noise levels")

    def test_a_sampler_that_measures_its_own_error_runs_without_the_schedule(
        self, host: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """dpm_adaptive may run more steps with partial calls than alone; a schedule never costs more."""
        monkeypatch.setattr(part("comfy_nodes.samplers"), "_ADAPTIVE", {"euler"})
        result, calls, outcome = run(host, WITH_NULLS)
        assert torch.equal(result, host.sample(host.model(), LEVELS)) and calls.partial == 0
        assert outcome.notes[0].startswith("made: sampler euler sets its own steps")

    def test_use_outside_of_what_it_was_made_for(self, host: Any) -> None:
        """Row 14."""
        made = S.Sampling("dpmpp_2m", "karras", T, 7.0, (512, 512), "v_prediction")
        metric = S.Metric("relative_fid", 3.1, 256)
        outcome = run(host, segments(*[(2, 2)] * 4, sampling=made, metrics=(metric,)))[2]
        (note,) = outcome.notes
        for number in (
            "dpmpp_2m",
            "512 x 512",
            "relative_fid 3.1 over 256",
            "sampler euler",
            "cfg 4",
            "128 x 128",
            "epsilon",
        ):
            assert number in note
        assert str(outcome) in engine.report_text(HALF, [outcome]) and note in engine.report_text(HALF, [outcome])

    def test_another_family_is_refused_with_those_that_fit(self, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Row 18."""
        families = part("flexiffusion.families").FAMILIES
        monkeypatch.setitem(families, "sd21", replace(families["sd21"], width=CONTEXT))
        with pytest.raises(errors.ModelMismatch, match=r"sd21-deepcache-2, .*sd21-turns-6"):
            engine.apply(host.model(), HALF, "position", presets.find([presets.bundled_folder()])[0])
        with pytest.raises(errors.ModelMismatch, match="9 branches"):
            engine.apply(host.model(), segments((10, 2), model=S.ModelInfo("sdxl", 9)))

    def test_a_checkpoint_that_cannot_be_told(self, host: Any) -> None:
        outcome = run(host, segments(*[(2, 2)] * 4, model=S.ModelInfo("tiny", 12, "ab" * 32)))[2]
        assert any("abababababab" in note for note in outcome.notes)

    def test_dropped_layers_that_are_not_there_are_refused_before_sampling(self, host: Any) -> None:
        dropping = schedule(S.StepsPlan((S.Step(9.0, S.FULL), S.Step(1.0, S.Action("full", drop=("a",))))))
        with pytest.raises(errors.ModelMismatch, match="dropped unit a"):
            engine.apply(host.model(), dropping)

    def test_late_conditioning_is_one_miss(self, host: Any) -> None:
        """A size that changes in mid-run stands for any conditioning that comes late: one miss, then partial again."""
        if host.name != "comfyui":
            pytest.skip("the host's own time ranges")
        import node_helpers
        from comfy.samplers import CFGGuider, sampler_object

        cond, uncond = conditionings()
        late = node_helpers.conditioning_set_values([[cond, {}]], {"start_percent": 0.3, "end_percent": 1.0})
        early = node_helpers.conditioning_set_values(
            [[conditionings(8)[0], {}]], {"start_percent": 0.0, "end_percent": 0.3}
        )
        outcomes: list[Any] = []
        used = segments((4, 4), (4, 4))
        guider = CFGGuider(engine.apply(host.model(), used, "position", (), outcomes.append))
        guider.set_conds(early + late, [[uncond, {}]])
        guider.set_cfg(4.0)
        noise = noise_for()
        guider.sample(noise, torch.zeros_like(noise), sampler_object("euler"), torch.tensor(LEVELS), disable_pbar=True)
        assert outcomes[0].report.misses == 1
        assert not any("the prompt changes" in note for note in outcomes[0].notes), "one step of six is no matter"

    def test_alternating_conditioning_is_said_before(self, host: Any) -> None:
        """Prompts such as [cat|dog] change at every step: nothing was ever saved, and nobody said so before."""
        if host.name != "comfyui":
            pytest.skip("the host's own time ranges")
        import node_helpers
        from comfy.samplers import CFGGuider, sampler_object

        sampling = host.model().get_model_object("model_sampling")
        percents = [min(range(1001), key=lambda p: abs(float(sampling.percent_to_sigma(p / 1000)) - level)) / 1000
                    for level in LEVELS[:-1]]  # fmt: skip
        edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(percents)), 1.0]
        sides = [conditionings(seed)[0] for seed in (3, 8)]
        positive = [
            entry
            for i, (start, end) in enumerate(itertools.pairwise(edges))
            for entry in node_helpers.conditioning_set_values(
                [[sides[i % 2], {}]], {"start_percent": start, "end_percent": end}
            )
        ]
        outcomes: list[Any] = []
        guider = CFGGuider(engine.apply(host.model(), HALF, "position", (), outcomes.append))
        guider.set_conds(positive, [[conditionings()[1], {}]])
        guider.set_cfg(4.0)
        noise = noise_for()
        guider.sample(noise, torch.zeros_like(noise), sampler_object("euler"), torch.tensor(LEVELS), disable_pbar=True)
        assert (outcomes[0].report.partial, outcomes[0].report.misses) == (0, 4)
        assert outcomes[0].notes[0].startswith("the prompt changes during the run: 4 of 4 partial steps")

    def test_calls_that_easycache_leaves_out_are_not_counted(self, host: Any) -> None:
        """The report said 16 calls where the network ran 7."""
        if host.name != "comfyui":
            pytest.skip("the host's own EasyCache")
        from comfy_extras.nodes_easycache import EasyCacheNode

        model = EasyCacheNode.execute(host.model(), 5.0, 0.0, 1.0, False).args[0]
        _, calls, outcome = run(host, HALF, model=model)
        report = outcome.report
        # for the hooks that count, a call that is left out is one in which the middle block does not run
        assert report.skipped == 6 and (report.full, report.partial + report.skipped) == (calls.full, calls.partial)


class TestParts:
    def test_a_tail_starts_in_full(self, host: Any) -> None:
        """Row 15: denoise 0.4 of a schedule with its own levels; the first executed step is full."""
        own = steps((14.6, "F"), (8.0, "P"), (4.0, "F"), (2.0, "P"), (1.0, "F"), (0.5, "P"), (0.2, "F"))
        tail = karras(6, high=3.0)
        _, calls, outcome = run(host, own, sigmas=tail, latent=torch.ones(1, 4, 16, 16))
        assert calls.deep == [True, False, True, False, True]  # 3, 2, 1, 0.5, 0.2
        assert outcome.report.misses == 0

    def test_slices_by_noise_level_are_the_parts_of_the_whole(self, host: Any) -> None:
        """KSampler (Advanced) in two slices: by level each does what the whole run does there."""
        levels = karras(12)
        used = segments((4, 4), (3, 3), (5, 5), levels=tuple(levels[:-1]))
        _, whole, _ = run(host, used, sigmas=levels)
        _, first, said = run(host, used, sigmas=levels[:7], mapping="level")
        _, second, _ = run(host, used, sigmas=levels[6:], mapping="level")
        assert not any("other noise levels" in note for note in said.notes), "a slice is never the whole list"
        assert whole.deep[:6] == first.deep
        assert second.deep[0] and whole.deep[7:] == second.deep[1:]

    def test_by_level_without_recorded_levels(self, host: Any) -> None:
        halves = segments((4, 4), (4, 1))  # partial in the first half of time, then one full
        _, calls, _ = run(host, halves, mapping="level")
        assert calls.deep[0] and calls.partial > 0
        assert len(calls.deep) < T, "the second half has null steps"

    def test_a_slice_of_a_steps_plan_ends_where_the_slice_ends(self, host: Any) -> None:
        own = steps(*[(14.0 * 0.6**i, "FP"[i % 2]) for i in range(12)])
        end = LEVELS[6]
        levels, plan = engine.thin(own, LEVELS[:7])
        assert levels[-1] == end and all(level > end for level in plan.levels)

    def test_sigmas_thinned_before_are_taken_as_they_are(self, host: Any) -> None:
        thinned, _ = engine.thin(WITH_NULLS, LEVELS)
        assert len(thinned) == 6  # five and the picture
        once = run(host, WITH_NULLS)[0]
        result, calls, outcome = run(host, WITH_NULLS, sigmas=thinned)
        assert torch.equal(result, once) and calls.deep == [True, False, False, True, False]
        assert any("no null steps left" in note for note in outcome.notes)
        own = steps(*[(14.0 * 0.6**i, "FP"[i % 2]) for i in range(12)])
        assert engine.thin(own, engine.thin(own, LEVELS)[0])[0] == engine.thin(own, LEVELS)[0]


class Transformer(nn.Module):
    """A network without skips, as DiT models are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x.movedim(1, -1)).movedim(-1, 1)


class TestTransformers:
    @pytest.fixture
    def model(self) -> Any:
        from comfy_hosts import BaseModel, Patcher

        return Patcher(BaseModel(Transformer()))

    def sample(self, model: Any) -> None:
        from comfy_hosts import Guider, sample_euler

        guider = Guider(
            model, ([torch.zeros(1, TOKENS, CONTEXT)], [torch.zeros(1, TOKENS, CONTEXT)]), 4.0, lambda _: True
        )
        with torch.no_grad():
            guider.sample(
                noise_for(),
                torch.zeros(1, 4, 16, 16),
                SimpleNamespace(sampler_function=sample_euler),
                torch.tensor(LEVELS),
            )

    def test_only_null_steps_act_and_it_is_said(self, model: Any) -> None:
        outcomes: list[Any] = []
        self.sample(engine.apply(model, WITH_NULLS, "position", (), outcomes.append))
        (outcome,) = outcomes
        assert (outcome.report.full, outcome.report.partial, outcome.report.null) == (5, 0, 3)
        assert model.model.diffusion_model.calls == 5
        assert any(
            "Transformer is not a network that can be cut; only null steps act" in note for note in outcome.notes
        )

    def test_levels_of_a_unet_mean_nothing_to_it(self, model: Any) -> None:
        outcomes: list[Any] = []
        self.sample(engine.apply(model, steps((14.0, "F"), (2.0, "P")), "position", (), outcomes.append))
        assert outcomes[0].report.full == T and "every step runs in full" in outcomes[0].notes[0]
