"""`flexiffusion.apply` on every kind of pipeline: plain where all is full, counts of the plan, any guidance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from drawn_schedules import segments
from often import often
from torch import Tensor, nn

import flexiffusion
from flexiffusion.plan import plan_for
from flexiffusion.schedule import Schedule, SegmentsPlan
from flexiffusion.scheduler import listed, noise_of
from flexsearch.models.quiet import quiet_models
from tests import pipeline_folders, unet_pipelines
from tests.unet_pipelines import STEPS

DRAWN = "FP FPP FP F"
TRANSFORMERS = tuple(pipeline_folders.PIPELINES)
# Of the transformer pipelines: what they are called with for guidance of two calls, or of one.
GUIDANCE: dict[str, dict[str, Any]] = {
    "flux": {"true_cfg_scale": 3.0, "negative_prompt": ""},
    "flux-guided": {"guidance_scale": 3.0},
    "qwen-image": {"true_cfg_scale": 3.0, "negative_prompt": ""},
    "z-image": {"guidance_scale": 2.0},
}
CALLS = {"flux": 2, "qwen-image": 2, "lumina2": 2, "wan": 2, "chroma": 2}
OFTEN = ("sd", "sd-inpaint", "sd-pag", "sdxl-controlnet", "ddpm", "ldm", "flux-guided", "qwen-image", "z-image", "wan")
SIZES = {"ltx": (32, 64), "sana": (32, 64)}  # width and height in pixels


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    quiet_models()

    @functools.cache
    def made(name: str) -> Any:
        if name in unet_pipelines.PIPELINES:
            return unet_pipelines.build(name)
        folder = pipeline_folders.write_transformer_pipeline(tmp_path_factory.mktemp("pipeline") / name, name)
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return made


def sampled(pipe: Any, name: str, **more: Any) -> Tensor:
    if name in unet_pipelines.PIPELINES:
        return unet_pipelines.sample(pipe, name, **more)
    width, height = SIZES.get(name, (32, 48))
    given = {
        "prompt": "a red heart", "num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(0),
        "output_type": "latent", "width": width, "height": height, **GUIDANCE.get(name, {"guidance_scale": 3.0}),
    }  # fmt: skip
    if name == "wan":
        given["num_frames"] = 5
    if name == "sana":
        given["use_resolution_binning"] = False
    if name in ("pixart-sigma",):
        given["use_resolution_binning"] = False
    made = pipe(**{**given, **more})
    return torch.as_tensor(getattr(made, "images", getattr(made, "frames", None)))


def schedule_for(pipe: Any, plan: SegmentsPlan) -> Schedule:
    noise = noise_of(pipe.scheduler)
    return unet_pipelines.schedule_for(pipe, SegmentsPlan(plan.segments, plan.layout, noise))


def network_of(pipe: Any) -> nn.Module:
    return getattr(pipe, "unet", None) or pipe.transformer


@pytest.mark.parametrize("name", often([*unet_pipelines.PIPELINES, *TRANSFORMERS], OFTEN))
def test_full_is_plain_and_counts_are_those_of_the_plan(name: str, pipes: Callable[[str], Any]) -> None:
    pipe = pipes(name)
    calls = []
    hook = network_of(pipe).register_forward_pre_hook(lambda *_: calls.append(1))
    plain = sampled(pipe, name)
    each, given = len(calls), listed(pipe.scheduler)
    each //= len(given.timesteps)
    assert each == CALLS.get(name, 1)
    with flexiffusion.apply(pipe, schedule_for(pipe, segments("F " * STEPS))) as handle:
        assert torch.equal(sampled(pipe, name), plain)
    assert (handle.report.report.full, handle.report.report.partial) == (len(given.timesteps) * each, 0)

    calls.clear()
    drawn = schedule_for(pipe, segments(DRAWN))
    with flexiffusion.apply(pipe, drawn) as handle:
        made = sampled(pipe, name)
    hook.remove()
    plan = plan_for(drawn, given.levels)
    partial = each * sum(plan.actions[plan.index_at(sigma)].kind == "partial" for sigma in given.sigmas)
    report = handle.report.report
    assert (report.full, report.partial, report.misses) == (len(calls) - partial, partial, 0), handle.report.notes
    assert len(calls) == len(given.timesteps) * each
    assert not torch.equal(made, plain) and torch.isfinite(made).all()
    assert torch.equal(sampled(pipe, name), plain)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd-pag", "sd3", "flux", "z-image"])
def test_a_batch_is_its_pictures_one_by_one(name: str, pipes: Callable[[str], Any]) -> None:
    pipe = pipes(name)
    prompts = ["a red heart", "one yellow star"]

    def made(prompts: list[str], seeds: tuple[int, ...], each: int = 1) -> Tensor:
        guidance = {"negative_prompt": [""] * len(prompts)} if "negative_prompt" in GUIDANCE.get(name, {}) else {}
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        # a list of its own: some pipelines write into it
        return sampled(pipe, name, prompt=[*prompts], generator=generators, num_images_per_prompt=each, **guidance)

    with flexiffusion.apply(pipe, schedule_for(pipe, segments(DRAWN))) as handle:
        whole = made(prompts, (0, 1, 2, 3), each=2)
        assert handle.report.report.misses == 0 < handle.report.report.partial
        parts = [made([prompts[i // 2]], (i,)) for i in range(4)]
        assert handle.report.report.misses == 0
    torch.testing.assert_close(whole, torch.cat(parts), atol=2e-4, rtol=1e-3)


def test_guidance_that_ends_early_goes_on_with_what_is_remembered(pipes: Callable[[str], Any]) -> None:
    """As diffusers documents it: a callback that drops the unconditional half of the batch."""
    pipe = pipes("sd")

    def end_guidance(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 3:  # step 4 is partial
            pipe._guidance_scale = 0.0
            values["prompt_embeds"] = values["prompt_embeds"].chunk(2)[-1]
        return values

    more = {"callback_on_step_end": end_guidance, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with flexiffusion.apply(pipe, schedule_for(pipe, segments(DRAWN))) as handle:
        sampled(pipe, "sd", **more)
    assert handle.report.report.misses == 0 and handle.report.report.partial == 4


def test_another_prompt_in_mid_run_never_gets_the_features_of_the_first(pipes: Callable[[str], Any]) -> None:
    pipe = pipes("sd")
    other = torch.randn(2, 160, 16, generator=torch.Generator().manual_seed(3))

    def change(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            values["prompt_embeds"] = other
        return values

    more = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with flexiffusion.apply(pipe, schedule_for(pipe, segments(DRAWN))) as handle:
        sampled(pipe, "sd", **more)
    assert (handle.report.report.misses, handle.report.report.partial) == (1, 3)


@pytest.mark.parametrize("name", ["flux", "sd3", "qwen-image"])
def test_half_precision_finds_every_level(name: str, pipes: Callable[[str], Any], tmp_path: Path) -> None:
    """Timesteps rounded to bfloat16 are up to 4 apart from what they were; levels here are nearer than that."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        pipeline_folders.write_transformer_pipeline(tmp_path / name, name), local_files_only=True, dtype=torch.bfloat16
    )
    pipe.set_progress_bar_config(disable=True)
    more = {"num_inference_steps": 24, "sigmas": [1 - i / 600 for i in range(24)]}
    if name == "sd3":
        pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=25.0)
        del more["sigmas"]
    drawn = schedule_for(pipe, segments("FP " * 12))
    with flexiffusion.apply(pipe, drawn) as handle:
        sampled(pipe, name, **more)
    each = CALLS.get(name, 1)
    assert (handle.report.report.full, handle.report.report.partial) == (12 * each, 12 * each)


def test_the_second_expert_begins_in_full(pipes: Callable[[str], Any]) -> None:
    """Wan 2.2: another network below a noise level."""
    pipe = pipes("wan")
    two = diffusers.WanPipeline(
        **{**pipe.components, "transformer_2": type(pipe.transformer).from_config(pipe.transformer.config).eval()},
        boundary_ratio=0.8,
    )
    two.set_progress_bar_config(disable=True)
    experts: list[str] = []
    for name in ("transformer", "transformer_2"):
        getattr(two, name).register_forward_pre_hook(lambda *_, name=name: experts.append(name))
    plain = sampled(two, "wan")
    with flexiffusion.apply(two, schedule_for(two, segments("F " * STEPS))):
        assert torch.equal(sampled(two, "wan"), plain)
    experts.clear()
    with flexiffusion.apply(two, schedule_for(two, segments(DRAWN))) as handle:
        sampled(two, "wan")
    report = handle.report.report
    assert set(experts) == {"transformer", "transformer_2"} and len(experts) == 2 * STEPS
    assert report.full + report.partial == 2 * STEPS and report.partial >= 4


def test_a_base_with_a_refiner(pipes: Callable[[str], Any]) -> None:
    """SDXL's base leaves noise for the refiner: the first ends in mid-list, the second begins there."""
    base, refiner = pipes("sdxl"), pipes("sdxl-img2img")
    drawn = schedule_for(base, segments(DRAWN))
    with flexiffusion.apply(base, drawn) as first, flexiffusion.apply(refiner, drawn) as second:
        latents = sampled(base, "sdxl", denoising_end=0.5)
        made = sampled(refiner, "sdxl-img2img", image=latents, denoising_start=0.5)
    assert torch.isfinite(made).all()
    assert first.report.report.full + first.report.report.partial == 5
    assert second.report.steps == 3 and second.report.report.full == 3  # of so few nothing is saved
    assert "nothing to gain at 3 steps: every step runs in full" in second.report.notes
