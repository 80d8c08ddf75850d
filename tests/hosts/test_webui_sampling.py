"""The WebUI extension's run engine on an LDM U-Net: users' complaints that do not need the host's UI."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import webui_stand_in as stand_in
from contract.networks import dictionaries
from drawn_schedules import own_solver
from ldm_unet import timestep_embedding
from often import often
from torch import Tensor
from webui_stand_in import (
    BRANCHES,
    LISTS,
    Counter,
    Interrupted,
    SamplerObject,
    WebUI,
    own_levels,
    segments,
    sigma_of,
    small_network,
)

from flexiffusion.metadata import ModelInfo, Provenance, Sampling
from flexiffusion.plan import plan_for

# midpoint evaluates as heun does, plms reads its list as ddim does
SOME_LISTS = often(LISTS, (stand_in.euler, stand_in.heun, stand_in.ddim))
MIXED = segments("FPP FPN FPNN")  # 10 steps: 3 full, 4 partial, 3 null
TURNS = own_levels((14.6, "F"), (6.0, "P"), (3.0, "F"), (1.5, "P"), (0.7, "F"), (0.3, "P"), (0.1, "F"))


@pytest.fixture(params=["a1111", "forge"])
def host(request: pytest.FixtureRequest) -> WebUI:
    return WebUI(forge=request.param == "forge")


def expected_counts(sampler: SamplerObject, schedule: Any, steps: int) -> tuple[int, int, int]:
    """Full, partial and null, from the plan and the levels that the denoiser was really asked."""
    whole = sampler.get_timesteps(None, steps) if sampler.timesteps else sampler.get_sigmas(None, steps)
    levels = [sigma_of(float(t)) for t in whole.flip(0)[:-1]] if sampler.timesteps else whole.tolist()
    plan = plan_for(schedule, levels)
    kinds = [plan.actions[plan.index_at(level)].kind for level in sampler.model_wrap_cfg.asked]
    return kinds.count("full"), kinds.count("partial"), plan.nulls


class TestSamplers:
    """Row 13: the executed counts equal the plan, or the run says why not, and before it samples."""

    @pytest.mark.parametrize("func", SOME_LISTS, ids=lambda func: func.__name__)
    def test_all_full_is_the_plain_way(self, host: WebUI, func: Any) -> None:
        plain, before = host.run(None, func, steps=10)
        ours, after = host.run(segments("F F F F F F F F F F"), func, steps=10)
        assert torch.equal(plain, ours)
        assert before.model_wrap_cfg.asked == after.model_wrap_cfg.asked
        assert before.model_wrap_cfg.steps_seen == after.model_wrap_cfg.steps_seen

    @pytest.mark.parametrize("func", SOME_LISTS, ids=lambda func: func.__name__)
    def test_counts_equal_the_plan(self, host: WebUI, func: Any) -> None:
        with Counter(host.unet) as counter:
            latent, sampler = host.run(MIXED, func, steps=10)
        (outcome,) = host.outcomes
        report = outcome.report
        assert (report.full, report.partial, report.null) == expected_counts(sampler, MIXED, 10)
        assert (counter.calls, counter.full) == (report.full + report.partial, report.full)
        assert report.misses == 0 and report.null > 0 and report.partial > 0
        assert latent.isfinite().all()
        if func in (stand_in.euler,):
            assert (report.full, report.partial, report.null) == (3, 4, 3)

    @pytest.mark.parametrize("func", SOME_LISTS, ids=lambda func: func.__name__)
    def test_own_levels_replace_the_list_below_its_start(self, host: WebUI, func: Any) -> None:
        _, sampler = host.run(TURNS, func, steps=10)
        # lists in timesteps begin nearer to the second step than to the first, and take its place
        own = [step.sigma for step in TURNS.plan.steps[2 if sampler.timesteps else 1 :]]
        # timesteps are whole numbers: up to half a step beside the level that was asked for
        asked = sorted(set(sampler.model_wrap_cfg.asked), reverse=True)
        for level in own:
            assert min(abs(level - found) / level for found in asked) < (0.08 if sampler.timesteps else 1e-6)
        report = host.outcomes[0].report
        if func in (stand_in.euler, stand_in.ddim):
            assert len(asked) == 1 + len(own)
            assert (report.full, report.partial, report.null) == (4, len(own) - 3, 3)

    def test_a_sampler_that_only_counts_its_timesteps_keeps_its_own_levels(self, host: WebUI) -> None:
        plain, before = host.run(None, stand_in.unipc, steps=10)
        with Counter(host.unet) as counter:
            _, sampler = host.run(MIXED, stand_in.unipc, steps=10)
        assert sampler.model_wrap_cfg.asked == before.model_wrap_cfg.asked
        report = host.outcomes[0].report
        assert (report.full, report.partial, report.null) == (3, 7, 0)
        assert (counter.calls, counter.full) == (10, 3)
        assert any("null steps are partial" in warning for warning in host.warnings)
        full, _ = host.run(segments("F F F F F F F F F F"), stand_in.unipc, steps=10)
        assert torch.equal(plain, full)

    @pytest.mark.parametrize(
        "func, schedule",
        [
            (stand_in.dpm_fast, MIXED),
            (stand_in.restart_sampler, MIXED),
            (stand_in.sample_ode_bosh3, MIXED),
            (stand_in.unipc, TURNS),
        ],
        ids=lambda value: getattr(value, "__name__", getattr(value, "name", "")),
    )
    def test_others_run_the_plain_way_and_say_so(self, host: WebUI, func: Any, schedule: Any) -> None:
        plain, _ = host.run(None, func, steps=10)
        ours, _ = host.run(schedule, func, steps=10)
        assert torch.equal(plain, ours)
        assert host.outcomes == []
        assert len(host.warnings) == 1 and "plain way" in host.warnings[0]

    @pytest.mark.parametrize("func", [stand_in.euler, stand_in.heun], ids=lambda func: func.__name__)
    def test_one_that_brings_its_solver_runs_it_whatever_was_chosen(self, host: WebUI, func: Any) -> None:
        expected, _ = host.run(TURNS, stand_in.euler, steps=10)
        host.warnings.clear()
        with Counter(host.unet) as counter:
            ours, sampler = host.run(replace(TURNS, plan=own_solver(TURNS.plan)), func, steps=10)
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
        assert (counter.calls, counter.full) == (7, 4)
        assert [w for w in host.warnings if "brings its own solver: sampler" in w and "is not used" in w]
        # the host counts two evaluations a step for a sampler of second order: prompt editing reads that
        scale = 2 if func is stand_in.heun else 1
        assert [step % scale for step in sampler.model_wrap_cfg.steps_seen] == [0] * 7

    def test_weights_reach_back(self, host: WebUI) -> None:
        rows = [(1.0,), *[(1.4, -0.4)] * (len(TURNS.plan.steps) - 1)]
        weighted = type(TURNS.plan)(
            tuple(
                type(TURNS.plan.steps[0])(step.sigma, step.action, row)
                for step, row in zip(TURNS.plan.steps, rows, strict=True)
            )
        )
        plain, _ = host.run(TURNS, stand_in.euler, steps=10)
        ours, _ = host.run(replace(TURNS, plan=weighted), stand_in.euler, steps=10)
        assert ours.isfinite().all() and not torch.equal(plain, ours)

    def test_one_that_brings_its_solver_is_not_run_over_timesteps(self, host: WebUI) -> None:
        """DDIM and PLMS of AUTOMATIC1111 see samples of another scale, at whole timesteps."""
        own = replace(TURNS, plan=own_solver(TURNS.plan))
        plain, _ = host.run(None, stand_in.ddim, steps=10)
        ours, _ = host.run(own, stand_in.ddim, steps=10)
        assert torch.equal(plain, ours)
        assert len(host.warnings) == 1 and "brings its own solver" in host.warnings[0]

    def test_the_count_of_steps_is_where_it_would_be(self, host: WebUI) -> None:
        """Prompt editing and refiners by steps read it."""
        _, sampler = host.run(MIXED, stand_in.euler, steps=10)
        assert sampler.model_wrap_cfg.steps_seen == sampler.progress == [0, 1, 2, 3, 4, 6, 7]
        _, sampler = host.run(MIXED, stand_in.heun, steps=10)
        assert sampler.model_wrap_cfg.steps_seen == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14]
        _, sampler = host.run(MIXED, stand_in.plms, steps=10)
        assert sampler.model_wrap_cfg.steps_seen == [0, 0, 1, 2, 3, 5, 6]  # 10 timesteps are 9 steps

    def test_no_steps_at_all(self, host: WebUI) -> None:
        host.run(MIXED, stand_in.ddim, steps=10, denoise=0.0)
        assert "no step" in host.warnings[0]


class TestCalls:
    """Rows 3, 4: what is one evaluation may be one network call or several, of any rows."""

    @pytest.mark.parametrize("conds", [1, 2])
    def test_joint_and_split_calls_agree(self, conds: int) -> None:
        joint, split, forge = WebUI(), WebUI(), WebUI(forge=True)
        split.order = "split"
        latents = []
        for each in (joint, split, forge):
            each.conds = conds
            latents.append(each.run(MIXED, steps=10, x=each.noise(2))[0])
        assert [each.outcomes[0].report.misses for each in (joint, split, forge)] == [0, 0, 0]
        assert split.outcomes[0].report.full == 3 * (conds + 1)
        for latent in latents[1:]:
            torch.testing.assert_close(latent, latents[0], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("order", ["joint", "split", "forge"])
    def test_unconds_left_out_late(self, order: str) -> None:
        host = WebUI(forge=order == "forge")
        host.order, host.drop_below = order, 1.0
        with_ours, _ = host.run(segments("FP FP FP FP FP", branch=BRANCHES - 1), steps=10)
        assert host.outcomes[0].report.misses == 0
        # the deepest branch is nearly the full network, so a swapped conditioning would show
        plain, _ = host.run(None, steps=10)
        swapped = WebUI(forge=order == "forge")
        swapped.order, swapped.drop_below = order, 1.0
        swapped._contexts = swapped._contexts.flip(0)
        other, _ = swapped.run(None, steps=10)
        assert (with_ours - plain).norm() < 0.3 * (other - plain).norm()

    @pytest.mark.parametrize("func", [stand_in.euler, stand_in.ddim])
    def test_a_batch_of_four_is_four_pictures(self, host: WebUI, func: Any) -> None:
        batch, _ = host.run(MIXED, func, steps=10, x=host.noise(4))
        for i in range(4):
            single, _ = host.run(MIXED, func, steps=10, x=host.noise(1, seed=i))
            torch.testing.assert_close(batch[i : i + 1], single, rtol=1e-4, atol=1e-4)

    def test_and_of_different_lengths_goes_row_by_row(self) -> None:
        """Two pictures, three conds: rows that no number of pictures divides."""
        from webui_extension.sampling import Conditionings

        conditionings = Conditionings()
        conditionings.begin(2)
        chunks = conditionings.of(torch.zeros(5, 4, 8, 8), {})
        assert chunks == ((1, 0), (1, 1), (1, 2), (1, 3), (1, 4))


class TestNothingStays:
    """Rows 5 to 8 and the paragraph below the table."""

    def test_sizes_in_turn(self, host: WebUI) -> None:
        first, second = host.noise(1, (8, 8)), host.noise(1, (16, 8), seed=3)
        latents = [host.run(MIXED, steps=10, x=x)[0] for x in (first, second, first)]
        assert torch.equal(latents[0], latents[2])
        assert torch.equal(latents[1], WebUI().run(MIXED, steps=10, x=second)[0]) or host.order == "forge"
        assert len({(o.report.full, o.report.partial, o.report.misses) for o in host.outcomes}) == 1

    def test_many_runs_are_one_run(self, host: WebUI) -> None:
        first, _ = host.run(MIXED, steps=10)
        for _ in range(8):
            host.run(MIXED, steps=10, x=host.noise(1, seed=9))
        again, _ = host.run(MIXED, steps=10)
        assert torch.equal(first, again)

    @pytest.mark.parametrize("failure", [None, RuntimeError, Interrupted])
    @pytest.mark.parametrize("schedule", [MIXED, TURNS], ids=["segments", "steps"])
    def test_every_object_is_as_it_was(self, host: WebUI, failure: Any, schedule: Any) -> None:
        before = dictionaries(host.unet)
        sampler = SamplerObject(host, stand_in.euler)
        attributes = dict(vars(sampler))
        denoiser = dict(vars(sampler.model_wrap_cfg))
        evaluations = 0

        def fail(_: Any) -> None:
            nonlocal evaluations
            evaluations += 1
            if evaluations == 4 and failure is not None:
                raise failure

        host.before_evaluation = fail
        host.attach(sampler, schedule)
        if failure is None:
            sampler.sample(_p(10), host.noise())
        else:
            with pytest.raises(failure):
                sampler.sample(_p(10), host.noise())
        assert dictionaries(host.unet) == before
        assert dict(vars(sampler)) == attributes
        after = dict(vars(sampler.model_wrap_cfg))
        for name in ("step",):
            denoiser.pop(name), after.pop(name)
        assert after == denoiser
        assert len(host.outcomes) == 1  # what was run is told after a failure too
        host.before_evaluation = None
        assert torch.equal(host.run(schedule, steps=10)[0], WebUI(host.order == "forge").run(schedule, steps=10)[0])

    def test_attaching_twice_is_attaching_once(self, host: WebUI) -> None:
        """Forge calls the script twice before a hires pass; img2img keeps one sampler for all its batches."""
        once, _ = host.run(MIXED, steps=10)
        sampler = SamplerObject(host, stand_in.euler)
        original = sampler.func
        host.attach(sampler, MIXED)
        host.attach(sampler, MIXED)
        assert torch.equal(sampler.sample(_p(10), host.noise()), once)
        assert sampler.func is original and len(host.outcomes) == 2
        host.attach(sampler, MIXED)
        assert torch.equal(sampler.sample(_p(10), host.noise()), once)

    def test_a_later_wrapper_of_the_function_does_not_nest_two_schedules(self, host: WebUI) -> None:
        import functools

        sampler = SamplerObject(host, stand_in.euler)
        host.attach(sampler, MIXED)
        inner = sampler.func

        @functools.wraps(inner)
        def theirs(*args: Any, **kwargs: Any) -> Any:
            return inner(*args, **kwargs)

        sampler.func = theirs
        host.attach(sampler, MIXED)
        ours = sampler.sample(_p(10), host.noise())
        assert len(host.outcomes) == 1
        assert torch.equal(ours, host.run(MIXED, steps=10)[0])

    def test_features_are_freed(self, host: WebUI) -> None:
        sampler = SamplerObject(host, stand_in.euler)
        attached = host.attach(sampler, MIXED)
        runs = []
        host.before_evaluation = lambda _: runs.append(attached._run)
        sampler.sample(_p(10), host.noise())
        assert host.outcomes[0].report.cache_bytes > 0
        assert runs[-1] is not None and not runs[-1]._cache
        assert attached._run is None


class TestOthers:
    """Rows 1, 2, 9, 10, 11, 12: whoever else changes the network."""

    def test_a_forward_that_walks_the_blocks_itself_still_runs(self, host: WebUI) -> None:
        """ControlNet (Mikubill) replaces `forward`, walks the blocks and adds a residual to every skip."""
        seen: list[int] = []

        def controlled(x: Tensor, timesteps: Tensor, context: Tensor, **more: Any) -> Tensor:
            unet = host.unet
            seen.append(len(x))
            emb = unet.time_embed(timestep_embedding(timesteps, unet.model_channels))
            skips, h = [], x
            for i, block in enumerate(unet.input_blocks):
                h = block(h, emb, context)
                skips.append(h + 0.01 * (i + 1))
            h = unet.middle_block(h, emb, context) + 0.2
            for block in unet.output_blocks:
                h = block(torch.cat([h, skips.pop()], 1), emb, context)
            return unet.out(h)

        without, _ = host.run(None, steps=10)
        host.unet.forward = controlled
        try:
            plain, _ = host.run(None, steps=10)
            full, _ = host.run(segments("F F F F F F F F F F"), steps=10)
            del seen[:]
            ours, _ = host.run(segments("FP FP FP FP FP", branch=BRANCHES - 1), steps=10)
            assert host.unet.forward is controlled
        finally:
            del host.unet.forward
        report = host.outcomes[-1].report
        assert torch.equal(plain, full) and not torch.equal(plain, without)
        assert len(seen) == report.full + report.partial == 10
        assert not torch.equal(ours, host.run(segments("FP FP FP FP FP", branch=BRANCHES - 1), steps=10)[0])

    def test_a_wrapper_that_comes_later_runs_and_stays(self, host: WebUI) -> None:
        calls = []

        def wrap_once(_: Any) -> None:
            if calls or "forward" not in vars(host.unet):
                return
            calls.append("set")
            inner = host.unet.forward
            host.unet.forward = lambda *args, **kwargs: (calls.append("run"), inner(*args, **kwargs))[1]

        expected, _ = host.run(MIXED, steps=10)
        host.before_evaluation = wrap_once
        latent, _ = host.run(MIXED, steps=10)
        try:
            assert torch.equal(latent, expected) and calls.count("run") == 6
            host.before_evaluation = None
            plain, _ = host.run(None, steps=10)
            assert calls.count("run") == 16  # theirs stays until they take it away, and passes through what was ours
        finally:
            del host.unet.forward
        assert torch.equal(plain, host.run(None, steps=10)[0])

    def test_arguments_arrive_untouched(self, host: WebUI) -> None:
        seen: list[Any] = []
        original = type(host.unet).forward

        def noting(*args: Any, **kwargs: Any) -> Tensor:
            seen.append((len(args), sorted(kwargs)))
            return original(host.unet, *args, **kwargs)

        host.unet.forward = noting
        try:
            host.run(None, steps=10)
            plain = seen[:]
            del seen[:]
            host.run(segments("FP FP FP FP FP"), steps=10)
        finally:
            del host.unet.forward
        assert seen == plain

    def test_changed_weights_change_the_picture(self, host: WebUI) -> None:
        before, _ = host.run(MIXED, steps=10)
        weight = host.unet.middle_block[0].in_layers[2].weight
        weight.add_(0.05)
        after, _ = host.run(MIXED, steps=10)
        assert not torch.equal(before, after)
        assert torch.equal(after, host.run(MIXED, steps=10)[0])

    @pytest.mark.slow
    def test_a_compiled_network(self) -> None:
        host = WebUI()
        expected, _ = host.run(MIXED, steps=10)
        torch._dynamo.reset()
        host.unet = host.sd_model.model.diffusion_model = torch.compile(host.unet, backend="eager")
        latent, _ = host.run(MIXED, steps=10)
        torch.testing.assert_close(latent, expected, rtol=1e-3, atol=1e-3)
        assert host.outcomes[0].counts == host.outcomes[1].counts
        torch._dynamo.reset()


class TestRefiner:
    def test_another_network_takes_over(self, host: WebUI) -> None:
        """The switch comes inside the denoiser; the new network's first call is in full, whatever the plan says."""
        other = small_network(seed=1)
        second = stand_in.SdModel(other, host.order == "forge", "refiner")
        before = (dictionaries(host.unet), dictionaries(other))
        evaluations = []

        def switch(denoiser: Any) -> None:
            evaluations.append(1)
            if len(evaluations) == 5:
                host.sd_model, host.unet = second, other

        first_unet = host.unet
        host.before_evaluation = switch
        with Counter(host.unet) as first, Counter(other) as later:
            host.run(segments("FPPPPP FPPP"), steps=10)
        report = host.outcomes[0].report
        assert (first.calls, first.full) == (4, 1)
        assert (later.calls, later.full) == (6, 2)
        assert (report.full, report.partial, report.misses) == (3, 7, 1)
        assert (dictionaries(first_unet), dictionaries(other)) == before

    def test_other_weights_in_the_same_network(self, host: WebUI) -> None:
        evaluations = []

        def switch(denoiser: Any) -> None:
            evaluations.append(1)
            if len(evaluations) == 5:
                host.sd_model.sd_checkpoint_info = "refiner"

        host.before_evaluation = switch
        host.run(segments("FPPPPP FPPP"), steps=10)
        assert host.outcomes[0].counts == "full 3, partial 7, null 0, misses 1"

    def test_loading_the_refiner_is_not_sampling_time(self, host: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, loading, evaluations = time.perf_counter, [0.0], []
        monkeypatch.setattr("time.perf_counter", lambda: clock() + loading[0])

        def switch(denoiser: Any) -> None:
            evaluations.append(1)
            if len(evaluations) == 5:
                loading[0] = 1000.0
                host.sd_model.sd_checkpoint_info = "refiner"

        host.before_evaluation = switch
        host.run(segments("FPPPPP FPPP"), steps=10)
        assert 0 < host.outcomes[0].report.seconds < 1000

    @pytest.mark.parametrize("pattern, missed", [("FPP FPP FPNN", True), ("FPP FPP FPNP", False)])
    def test_a_refiner_that_never_comes_is_said(self, host: WebUI, pattern: str, missed: bool) -> None:
        """The host switches at the first step past 0.85 of them; the last one that runs is the 8th of 10."""
        sampler = SamplerObject(host, stand_in.euler)
        p = SimpleNamespace(steps=10, refiner_checkpoint_info="refiner", extra_generation_params={})
        sampler.model_wrap_cfg.p = p

        def switch(denoiser: Any) -> None:
            if denoiser.step / 10 >= 0.85:
                host.sd_model.sd_checkpoint_info = "refiner"
                p.extra_generation_params["Refiner"] = "refiner"

        host.before_evaluation = switch
        host.attach(sampler, segments(pattern))
        sampler.sample(p, host.noise())
        said = [warning for warning in host.warnings if "the refiner did not take over" in warning]
        assert len(said) == missed
        assert not missed or "the last 2 of 10 steps are null" in said[0]

    def test_a_network_that_does_not_fit_runs_in_full(self, host: WebUI) -> None:
        other = small_network(levels=1)
        evaluations = []

        def switch(denoiser: Any) -> None:
            evaluations.append(1)
            if len(evaluations) == 5:
                host.sd_model = stand_in.SdModel(other, host.order == "forge", "refiner")
                host.unet = other

        host.before_evaluation = switch
        host.run(segments("FPPPPP FPPP"), steps=10)
        assert host.outcomes[0].counts == "full 7, partial 3, null 0, misses 0"
        assert any("in full from here on" in warning for warning in host.warnings)


class TestStarts:
    """Row 15: img2img, inpaint and hires take the matching tail; the first executed step is full."""

    @pytest.mark.parametrize("func", SOME_LISTS, ids=lambda func: func.__name__)
    def test_the_tail(self, host: WebUI, func: Any) -> None:
        # of 20 steps the last 9 (timesteps: 8): the tail of the four segments, not the four squeezed into it
        schedule = segments("FPPPP FPPPP FPPPP FPPPP")
        with Counter(host.unet) as counter:
            host.run(schedule, func, steps=20, denoise=0.4)
        assert not host.warnings, "the interval is the rule, whatever the number of steps (20 timesteps are 19)"
        report = host.outcomes[0].report
        assert report.misses == 0
        if func is stand_in.euler:
            assert (report.full, report.partial) == (2, 7)
        assert (counter.calls, counter.full) == (report.full + report.partial, report.full)

    @pytest.mark.parametrize("steps, denoise", [(8, None), (20, 0.3), (20, 0.5), (10, 0.35)])
    @pytest.mark.parametrize("func", SOME_LISTS, ids=lambda func: func.__name__)
    def test_no_more_calls_than_without_it(self, host: WebUI, func: Any, steps: int, denoise: float | None) -> None:
        """Denoising strength 0.3 of 20 steps made 17 calls where the plain way makes 7."""
        turns = own_levels(*((14.6 * 0.8**i, "FP"[i % 2]) for i in range(30)))
        with Counter(host.unet) as plain:
            host.run(None, func, steps, denoise=denoise)
        host.warnings.clear()
        with Counter(host.unet) as ours:
            host.run(turns, func, steps, denoise=denoise)
        assert 0 < ours.calls <= plain.calls
        if "steps are too few" not in host.warnings[0]:
            assert "thinned to" in host.warnings[0]
            assert ours.full < plain.full

    def test_nulls_and_own_levels_in_the_tail(self, host: WebUI) -> None:
        _, sampler = host.run(segments("FPPNN FPPNN FPPNN FPPNN"), steps=20, denoise=0.4)
        assert host.outcomes[-1].counts == "full 2, partial 3, null 4, misses 0"
        start = sampler.model_wrap_cfg.asked[0]
        _, sampler = host.run(TURNS, steps=20, denoise=0.4)
        assert sampler.model_wrap_cfg.asked[0] == start
        # it begins near 0.7 and takes its place
        assert sampler.model_wrap_cfg.asked[1:] == pytest.approx([0.3, 0.1], rel=1e-6)

    def test_img2img_of_a_sampler_with_its_own_levels(self, host: WebUI) -> None:
        host.run(segments("FPPPP FPPPP FPPPP FPPPP"), stand_in.unipc, steps=20, denoise=0.6)
        report = host.outcomes[0].report
        assert report.full + report.partial == 13 and report.full == 3 and report.misses == 0

    def test_a_list_that_somebody_changed_is_stretched_over(self, host: WebUI) -> None:
        sampler = SamplerObject(host, stand_in.euler)
        host.attach(sampler, segments("FPPPP FPPP FPPPP FPPPPP"))
        inner = sampler.func
        sampler.func = lambda model, x, sigmas, **more: inner(model, x, sigmas=sigmas * 0.9, **more)
        sampler.func.__signature__ = __import__("inspect").signature(stand_in.euler)
        sampler.sample(_p(20), host.noise(), denoise=0.4)
        assert "stretched" in host.warnings[0]


class TestWords:
    """Rows 14, 17, 18, 19."""

    def test_few_steps_run_the_plain_way(self, host: WebUI) -> None:
        plain, _ = host.run(None, steps=4)
        ours, _ = host.run(MIXED, steps=4)
        assert torch.equal(plain, ours)
        assert "4 steps are too few" in host.warnings[0]

    def test_another_number_of_steps_is_said(self, host: WebUI) -> None:
        host.run(MIXED, steps=20)
        assert "made for 10 steps" in host.warnings[0]

    @pytest.mark.parametrize("model", [ModelInfo("sdxl", 9), ModelInfo("sd15", 9)])
    def test_a_wrong_family_is_refused(self, host: WebUI, model: ModelInfo) -> None:
        plain, _ = host.run(None, steps=10)
        ours, _ = host.run(segments("FP FP FP FP FP", model=model), steps=10)
        assert torch.equal(plain, ours)
        assert host.outcomes == []
        assert "made for" in host.warnings[0] and "4 branches" in host.warnings[0]

    def test_a_dropped_layer_that_is_not_there_is_refused(self, host: WebUI) -> None:
        from flexiffusion.schedule import Action, Schedule, Step, StepsPlan

        plan = StepsPlan((Step(9.0, Action("full")), Step(5.0, Action("partial", 1, drop=("middle_block.9",)))))
        schedule = Schedule("drops", ModelInfo("tiny", BRANCHES), Sampling(None, None, 10, None, None, None), plan)
        plain, _ = host.run(None, steps=10)
        assert torch.equal(plain, host.run(schedule, steps=10)[0])
        assert "dropped unit middle_block.9" in host.warnings[0]

    def test_dropped_layers(self, host: WebUI) -> None:
        """What is dropped does not run, at the steps that drop it; the counts say so; nothing stays changed."""
        from flexiffusion.layouts import find_layout
        from flexiffusion.schedule import Action, Schedule, Step, StepsPlan

        name = "middle_block.1"
        rows = [(14.0, ()), (9.0, (name,)), (5.0, ()), (2.0, (name,)), (0.5, ())]
        plan = StepsPlan(tuple(Step(level, Action("full", drop=drop)) for level, drop in rows))
        schedule = Schedule("drops", ModelInfo("tiny", BRANCHES), Sampling(None, None, 10, None, None, None), plan)
        unit = find_layout(host.unet).droppable[name]
        ran: list[int] = []
        inner = next(m for m in unit.modules() if not list(m.children()))
        hook = inner.register_forward_hook(lambda *_: ran.append(1))
        dropped, _ = host.run(schedule, steps=10)
        hook.remove()
        assert "forward" not in vars(unit)
        report = host.outcomes[-1].report
        assert report.dropped > 0 and len(ran) + report.dropped == report.full
        assert f"dropped units {report.dropped}" in host.outcomes[-1].counts
        whole = StepsPlan(tuple(Step(level, Action("full")) for level, _ in rows))
        assert not torch.equal(dropped, host.run(replace(schedule, plan=whole), steps=10)[0])

    def test_another_checkpoint_is_said(self) -> None:
        host = WebUI(sha256="b" * 64)
        host.run(segments("FP FP FP FP FP", model=ModelInfo("tiny", BRANCHES, "a" * 64)), steps=10)
        assert "aaaaaaaaaa" in host.warnings[0] and "bbbbbbbbbb" in host.warnings[0]
        host.run(segments("FP FP FP FP FP", model=ModelInfo("tiny", BRANCHES, "b" * 64)), steps=10)
        assert len(host.warnings) == 1

    def test_the_line_tells_what_was_run(self, host: WebUI) -> None:
        with Counter(host.unet) as counter:
            host.run(MIXED, steps=10)
        line = host.outcomes[0].line
        assert f"full {counter.full}, partial {counter.calls - counter.full}, null 3, misses 0" in line
        assert "x" in line.rpartition("about ")[2]

    def test_no_effect_is_a_warning(self, host: WebUI, caplog: pytest.LogCaptureFixture) -> None:
        """A network that is run by something else (TensorRT): its units are never called."""
        host.unet.forward = lambda x, *args, **kwargs: x * 0.1
        try:
            with caplog.at_level(logging.WARNING, "flexiffusion"):
                host.run(segments("FP FP FP FP FP"), steps=10)
        finally:
            del host.unet.forward
        assert host.outcomes[0].counts == "full 10, partial 0, null 0, misses 5"
        assert any("not one step could run in part" in warning for warning in host.warnings)
        assert "did not run" in caplog.text

    def test_a_schedule_that_has_shrunk_to_full_steps_is_a_warning(self, host: WebUI) -> None:
        host.run(segments("FP " * 9 + "FN"), steps=10)
        assert host.outcomes[0].counts == "full 10, partial 0, null 0, misses 0"
        assert "nothing was saved" in host.warnings[-1]
        del host.warnings[:]
        host.run(segments("F " * 10), steps=10)
        assert host.warnings == []

    def test_flow_levels_and_sigmas_are_not_taken_for_each_other(self) -> None:
        """Forge Neo's rectified-flow SDXL: the schedule of another kind of levels is refused, the picture is plain."""
        host = WebUI(forge=True)
        flow = Sampling(None, None, 10, None, None, "flow")
        used = segments("FP FP FP FP FP")
        kinds = {"epsilon": used, "const": replace(used, plan=replace(used.plan, noise="flow"), sampling=flow)}
        wrapped = host.sd_model.forge_objects.unet.model
        plain, _ = host.run(None, steps=10)
        for kind in kinds:
            wrapped.predictor = SimpleNamespace(prediction_type=kind)
            for made, schedule in kinds.items():
                del host.warnings[:], host.outcomes[:]
                result, _ = host.run(schedule, steps=10)
                assert torch.equal(result, plain) == (made != kind)
                assert bool(host.outcomes) == (made == kind)
                assert made == kind or "is sampled over" in host.warnings[0]

    def test_a_network_without_blocks_runs_null_steps_only(self) -> None:
        host = WebUI()

        class Transformer(torch.nn.Module):
            def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
                return 0.1 * x

        host.unet = host.sd_model.model.diffusion_model = Transformer()
        host.run(segments("FPN FPN FPNN", model=ModelInfo("another", BRANCHES)), steps=10)
        assert host.outcomes[0].counts == "full 6, partial 0, null 4, misses 0"
        assert "only null steps act" in host.warnings[0]
        host.run(segments("FPN FPN FPNN", model=ModelInfo("sd15", BRANCHES)), steps=10)
        assert len(host.outcomes) == 1 and "not a network that can be cut" in host.warnings[-1]


def test_by_noise_level_needs_recorded_levels(host: WebUI) -> None:
    host.run(MIXED, steps=10, mapping="level")
    assert "records no noise levels" in host.warnings[0]
    levels = tuple(float(level) for level in SamplerObject(host, stand_in.euler).get_sigmas(None, 10)[:-1])
    schedule = segments("FPP FPN FPNN", levels=levels, provenance=Provenance("searched"))
    host.run(schedule, steps=10, mapping="level")
    assert host.outcomes[-1].counts == "full 3, partial 4, null 3, misses 0"


def _p(steps: int) -> Any:
    return SimpleNamespace(steps=steps)
