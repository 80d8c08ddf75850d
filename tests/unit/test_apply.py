"""`flexiffusion.apply`: a diffusers pipeline's calls follow a schedule, and nothing else of it is changed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from drawn_schedules import own_solver, segments, steps

import flexiffusion
from flexiffusion.errors import FlexiffusionError, ModelMismatch, ScheduleError
from flexiffusion.fingerprint import fingerprint_of
from flexiffusion.metadata import Provenance
from tests.unet_pipelines import STEPS, build, sample, schedule_for, scheduler

ROOT = Path(__file__).parents[2]
FULLS = "F " * STEPS
TURNS = "FP FP FPN F"  # 4 full, 3 partial, 1 null


@pytest.fixture
def pipe() -> Any:
    return build("sd")


def counts(handle: Any) -> tuple[int, int, int, int]:
    report = handle.report.report
    return report.full, report.partial, report.null, report.misses


def test_importing_loads_no_torch_before_it_is_needed() -> None:
    code = (
        "import sys, flexiffusion as f\n"
        "names = f.__all__; f.Schedule; f.read; f.write; f.presets()\n"
        "assert 'torch' not in sys.modules and not set(names) - set(dir(f))\n"
        "f.apply\nassert 'torch' in sys.modules and 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_all_steps_in_full_give_the_plain_picture(pipe: Any) -> None:
    plain = sample(pipe)
    with flexiffusion.apply(pipe, schedule_for(pipe, segments(FULLS))) as handle:
        assert torch.equal(sample(pipe), plain)
    assert counts(handle) == (STEPS, 0, 0, 0)
    assert "drawn has no effect here: every step runs in full" in handle.report.notes


def test_the_counts_are_those_of_the_plan(pipe: Any) -> None:
    plain = sample(pipe)
    handle = flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))
    picture = sample(pipe)
    assert counts(handle) == (4, 3, 1, 0)
    assert handle.report.steps == STEPS and str(handle.report).startswith("full 4, partial 3, null 1, misses 0, ")
    assert not torch.equal(picture, plain) and torch.isfinite(picture).all()
    assert torch.equal(sample(pipe), picture)  # the second call as the first
    handle.remove()
    assert torch.equal(sample(pipe), plain)


def test_levels_of_its_own_are_put_in(pipe: Any) -> None:
    called = seen_timesteps(pipe)
    plan = steps((14.6146, "F"), (8.0, "P"), (3.0, "F"), (1.0, "P"), (0.3, "F"))
    handle = flexiffusion.apply(pipe, schedule_for(pipe, plan))
    sample(pipe)
    assert counts(handle) == (3, 2, STEPS - 5, 0)
    sigmas = pipe.scheduler.sigmas.tolist()
    assert sigmas[1:] == pytest.approx([8.0, 3.0, 1.0, 0.3, 0.0]) and len(called) == 5


def test_weights_bring_their_own_solver(pipe: Any) -> None:
    """Euler's weights give what diffusers' Euler gives, in samples of either scale."""
    plan = steps(*((level, "F") for level in (14.6146, 8.0, 3.0, 1.0, 0.3)))
    brought = schedule_for(pipe, own_solver(plan))
    pictures = {}
    for name in ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "DDIMScheduler", "PNDMScheduler"):
        pipe.scheduler = scheduler(name)
        before = type(pipe.scheduler).step
        with flexiffusion.apply(pipe, brought) as handle:
            pictures[name] = sample(pipe)
        assert counts(handle)[:2] == (5, 0) or "DPM-Solver++ 2M" in " ".join(handle.report.notes)
        assert f"drawn brings its own solver: that of {name} is not used" in handle.report.notes
        assert type(pipe.scheduler).step is before and "step" not in vars(pipe.scheduler)
    pipe.scheduler = scheduler("EulerDiscreteScheduler")
    with flexiffusion.apply(pipe, schedule_for(pipe, plan)):
        expected = sample(pipe)
    assert torch.allclose(pictures["EulerDiscreteScheduler"], expected, atol=1e-5)


def seen_timesteps(pipe: Any) -> list[float]:
    seen: list[float] = []
    forward = pipe.unet.forward

    def noting(sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(float(timestep))
        return forward(sample, timestep, *args, **kwargs)

    pipe.unet.forward = noting
    return seen


@pytest.mark.parametrize(
    ("name", "strength"),
    [("DPMSolverMultistepScheduler", strength) for strength in (0.3, 0.6, 1.0)]
    + [
        pytest.param(name, strength, marks=() if strength == 0.6 else pytest.mark.slow)
        for name in ("EulerDiscreteScheduler", "HeunDiscreteScheduler")
        for strength in (0.3, 0.6, 1.0)
    ],
)
def test_img2img_takes_the_matching_tail(name: str, strength: float) -> None:
    pipe = build("sd-img2img", scheduler=scheduler(name))
    plain = sample(pipe, "sd-img2img", strength=strength, num_inference_steps=20)
    drawn = "FP FP FP FP FP FP FP FPN FN F"
    full = schedule_for(pipe, segments("F " * 20))
    with flexiffusion.apply(pipe, full):
        assert torch.equal(sample(pipe, "sd-img2img", strength=strength, num_inference_steps=20), plain)
    with flexiffusion.apply(pipe, schedule_for(pipe, segments(drawn))) as handle:
        sample(pipe, "sd-img2img", strength=strength, num_inference_steps=20)
    tail = "".join(drawn.split())[20 - int(20 * strength) :]
    expected = ["F", *tail[1:].replace("N", "")]
    assert handle.report.steps == len(tail) and handle.report.report.null == tail[1:].count("N")
    if name != "HeunDiscreteScheduler":  # which evaluates most levels twice
        assert counts(handle) == (expected.count("F"), expected.count("P"), tail[1:].count("N"), 0)


def test_applied_twice_is_applied_once(pipe: Any) -> None:
    base = type(pipe)
    wanted = schedule_for(pipe, segments(TURNS))
    flexiffusion.apply(pipe, schedule_for(pipe, segments("FPP FPP FP")))
    handle = flexiffusion.apply(pipe, wanted)
    picture = sample(pipe)
    assert counts(handle) == (4, 3, 1, 0) and type(pipe).__mro__[1] is base
    handle.remove()
    handle.remove()
    assert type(pipe) is base
    flexiffusion.apply(pipe, wanted)
    assert torch.equal(sample(pipe), picture)


def test_nothing_but_the_class_is_changed_and_that_is_put_back(pipe: Any) -> None:
    def everything() -> list[Any]:
        objects = [pipe, pipe.scheduler, *pipe.unet.modules()]
        return [dict(vars(item)) for item in objects]

    sample(pipe)
    before, base = everything(), type(pipe)
    handle = flexiffusion.apply(pipe, schedule_for(pipe, segments(FULLS)))
    assert [set(was) ^ set(now) for was, now in zip(before, everything(), strict=True)] == [set()] * len(before)
    assert isinstance(pipe, base) and (type(pipe).__name__, type(pipe).__module__) == (base.__name__, base.__module__)
    sample(pipe)
    assert [set(was) ^ set(now) for was, now in zip(before, everything(), strict=True)] == [set()] * len(before)
    handle.remove()
    assert type(pipe) is base


def test_what_others_have_wrapped_meanwhile_stays(pipe: Any) -> None:
    """As libraries do that patch a pipeline's class."""
    plain = sample(pipe)
    handle = flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))
    original, calls = type(pipe).__call__, []

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(self, *args, **kwargs)

    type(pipe).__call__ = wrapper
    sample(pipe)
    assert calls == [1] and counts(handle) == (4, 3, 1, 0)
    handle.remove()
    assert torch.equal(sample(pipe), plain) and calls == [1, 1]


def test_wrappers_of_the_network_still_run(pipe: Any) -> None:
    handle = flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))
    seen = seen_timesteps(pipe)
    sample(pipe)
    assert len(seen) == 7
    assert counts(handle) == (4, 3, 1, 0)


def test_another_scheduler_needs_no_second_apply(pipe: Any) -> None:
    handle = flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))
    pipe.scheduler = scheduler("EulerDiscreteScheduler")
    sample(pipe)
    assert counts(handle) == (4, 3, 1, 0)


def test_a_scheduler_that_cannot_is_refused_before_anything_is_sampled(pipe: Any) -> None:
    seen = seen_timesteps(pipe)
    handle = flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))
    pipe.scheduler = scheduler("DDIMScheduler")
    with pytest.raises(ModelMismatch, match="null steps, but DDIMScheduler steps over levels of its own only"):
        sample(pipe)
    assert seen == [] and handle.report is None
    with pytest.raises(ModelMismatch, match=r"DPMSolverMultistepScheduler: pipe\.scheduler = X\.from_config"):
        flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))
    pipe.scheduler = diffusers.LCMScheduler()
    with pytest.raises(ModelMismatch, match="LCMScheduler is for models of few steps"):
        flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))
    pipe.scheduler = diffusers.EDMEulerScheduler()
    with pytest.raises(ModelMismatch, match=r"EDMEulerScheduler is not known\. Use one of DDIMScheduler, "):
        flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))


def test_wrong_networks_names_and_objects_are_refused(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelMismatch, match="made for sdxl with 9 branches"):
        flexiffusion.apply(pipe, "sdxl-turns-10")
    with pytest.raises(ScheduleError, match="no preset of this name"):
        flexiffusion.apply(pipe, "none-such")
    with pytest.raises(ScheduleError, match="no such regular file"):
        flexiffusion.apply(pipe, tmp_path / "none.json")
    with pytest.raises(ModelMismatch, match="no diffusers pipeline"):
        flexiffusion.apply(pipe.unet, "sdxl-turns-10")
    assert type(pipe) is diffusers.StableDiffusionPipeline


def test_a_path_and_a_preset_s_name(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flexiffusion.write(tmp_path / "mine.json", schedule_for(pipe, segments(TURNS)))
    monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(tmp_path))
    assert flexiffusion.presets()["mine"].schedule == flexiffusion.read(tmp_path / "mine.json")
    for given in ("mine", tmp_path / "mine.json", str(tmp_path / "mine.json")):
        with flexiffusion.apply(pipe, given) as handle:
            sample(pipe)
        assert counts(handle) == (4, 3, 1, 0)


def test_supported_answers_with_a_reason(pipe: Any) -> None:
    said = flexiffusion.supported(pipe)
    assert said and "UNet2DConditionModel of a family that is not known with 4 branches" in str(said)
    pipe.scheduler = scheduler("DDIMScheduler")
    assert "so only partial steps act on it" in flexiffusion.supported(pipe).reason
    pipe.scheduler = diffusers.LCMScheduler()
    assert not flexiffusion.supported(pipe) and "few steps" in str(flexiffusion.supported(pipe))
    assert not flexiffusion.supported(object())


def test_few_steps_are_sampled_as_ever(pipe: Any) -> None:
    plain = sample(pipe, num_inference_steps=4)
    with flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS))) as handle:
        assert torch.equal(sample(pipe, num_inference_steps=4), plain)
    assert "nothing to gain at 4 steps: every step runs in full" in handle.report.notes


def test_other_settings_than_the_schedule_s_are_told_before_sampling(pipe: Any, caplog: Any) -> None:
    made = schedule_for(pipe, segments(TURNS))
    settings = replace(made.sampling, sampler="euler", cfg=7.0, size=(512, 512), prediction="v_prediction")
    searched = replace(made, sampling=settings, provenance=Provenance("searched"))
    with flexiffusion.apply(pipe, searched) as handle:
        sample(pipe)
    note = "here: sampler dpmpp_2m, cfg 3, 32 x 32 pixels, epsilon model. Its quality was not measured there"
    assert any(note in text for text in handle.report.notes) and note in caplog.text


def test_an_exception_leaves_nothing_behind(pipe: Any) -> None:
    plain = sample(pipe)
    handle = flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))
    picture = sample(pipe)

    def stop(pipe: Any, step: int, *_: Any) -> Any:
        if step == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        sample(pipe, callback_on_step_end=stop)
    assert counts(handle) == (2, 1, 1, 0)
    assert all("forward" not in vars(module) for module in pipe.unet.modules())
    assert torch.equal(sample(pipe), picture)
    handle.remove()
    assert torch.equal(sample(pipe), plain)


def test_a_call_inside_a_call_is_refused(pipe: Any) -> None:
    flexiffusion.apply(pipe, schedule_for(pipe, segments(TURNS)))
    with pytest.raises(FlexiffusionError, match="sampling already"):
        sample(pipe, callback_on_step_end=lambda *_: sample(pipe) and {})
    sample(pipe)


class TestSpeedup:
    """speedup=2: the schedule that was searched for the checkpoint, or the rule."""

    def test_the_rule_where_nothing_was_searched(self, pipe: Any) -> None:
        handle = flexiffusion.apply(pipe, speedup=2)
        sample(pipe, num_inference_steps=20)
        assert counts(handle) == (10, 10, 0, 0) and handle.report.schedule == "rule-2x"
        assert any(note.startswith("Auto: the rule for 2x (no searched schedule") for note in handle.report.notes)
        sample(pipe, num_inference_steps=30)
        assert counts(handle) == (15, 15, 0, 0)

    def test_a_schedule_that_was_searched_for_the_checkpoint(
        self, pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = fingerprint_of(pipe.unet)
        found = schedule_for(pipe, segments("FP FP FP FP FP FP FP FP FP FP"), "found")
        model = replace(found.model, fingerprint=known)
        flexiffusion.write(tmp_path / "found.json", replace(found, model=model, provenance=Provenance("searched")))
        monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(tmp_path))
        with flexiffusion.apply(pipe, speedup=2) as handle:
            sample(pipe, num_inference_steps=20)
        assert handle.report.schedule == "found"
        assert handle.report.notes[0] == "Auto: found, searched for this checkpoint, 2.00x"

    def test_few_steps_are_left_alone(self, pipe: Any) -> None:
        plain = sample(pipe)
        with flexiffusion.apply(pipe, speedup=2) as handle:
            assert torch.equal(sample(pipe), plain)
        assert handle.report.schedule is None and "nothing to gain here: 8 steps are few" in handle.report.notes[0]

    def test_img2img_has_the_rule_over_its_tail(self) -> None:
        pipe = build("sd-img2img")
        with flexiffusion.apply(pipe, speedup=2) as handle:
            sample(pipe, "sd-img2img", strength=0.6, num_inference_steps=30)
        assert handle.report.steps == 18 and counts(handle) == (9, 9, 0, 0)

    def test_what_is_asked_must_be_one_thing_and_possible(self, pipe: Any) -> None:
        with pytest.raises(TypeError, match="either a schedule or speedup="):
            flexiffusion.apply(pipe)
        with pytest.raises(TypeError, match="either a schedule or speedup="):
            flexiffusion.apply(pipe, "mine", speedup=2)
        with pytest.raises(ScheduleError, match="speedup: 9 is outside 1 to 4"):
            flexiffusion.apply(pipe, speedup=9)


def test_a_checkpoint_that_is_not_the_one_of_the_search_is_told(pipe: Any) -> None:
    made = schedule_for(pipe, segments(TURNS))
    own = fingerprint_of(pipe.unet)
    assert own is not None
    other = tuple(min(1.0, number + 0.2) for number in own)
    for fingerprint, told in ((own, False), (other, True)):
        with flexiffusion.apply(pipe, replace(made, model=replace(made.model, fingerprint=fingerprint))) as handle:
            sample(pipe)
        note = "drawn was searched on another checkpoint than this; its quality was not measured here"
        assert (note in handle.report.notes) == told
