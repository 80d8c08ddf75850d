"""Pipelines with a transformer, run through their own loop: each family gives what its pipeline gives by itself."""

from __future__ import annotations

import dataclasses
import functools
import gc
import inspect
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from flexiffusion.layouts import find_layout
from flexiffusion.noise import NoiseLevels
from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action
from flexsearch.models import pipeline_loop
from flexsearch.models.costs import count_macs
from flexsearch.models.load import load_model
from flexsearch.models.noise import initial_noise
from flexsearch.models.pipeline import PipelineModel
from flexsearch.models.quiet import quiet_models
from flexsearch.sampling.solvers import draw
from tests.pipeline_folders import PIPELINES, TOKENS, write_transformer_pipeline

PROMPTS = ["a red heart", "one yellow star"]
STEPS = 4
VP = ("pixart-sigma",)
SIZES = {"ltx": (32, 64), "sana": (32, 64)}  # width and height in pixels where 32 x 48 is not taken
# What the samples of one picture of that size are.
SHAPES = {
    "flux": (6, 16), "flux-guided": (6, 16), "qwen-image": (6, 16), "chroma": (6, 16), "wan": (4, 21, 6, 4),
    "ltx": (21 * 4 * 8, 8), "sana": (4, 8, 4),
}  # fmt: skip
# What the pipelines are called with for a usual guidance scale of 3, and for none.
GUIDED: dict[str, dict[str, Any]] = {
    "flux": {"true_cfg_scale": 3.0, "negative_prompt": ["", ""]},
    "qwen-image": {"true_cfg_scale": 3.0, "negative_prompt": ["", ""]},
    "z-image": {"guidance_scale": 2.0},
}
PLAIN: dict[str, dict[str, Any]] = {"flux": {}, "qwen-image": {}, "z-image": {"guidance_scale": 0.0}}
CALLS = {"flux": 2, "flux-guided": 1, "qwen-image": 2, "lumina2": 2, "wan": 2, "chroma": 2}  # of one guided evaluation
# What is outside the six blocks, of a full step, where it is much: refiners of the text, or 160 tokens projected.
HEADS = {"z-image": 0.25, "lumina2": 0.35, "pixart-sigma": 0.12, "ltx": 0.12, "sana": 0.12}


@dataclasses.dataclass(frozen=True)
class Own:
    """What a pipeline does when it is called as its users call it."""

    noise: Tensor
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    latents: Tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    quiet_models()
    return functools.cache(lambda name: write_transformer_pipeline(tmp_path_factory.mktemp("pipeline") / name, name))


@pytest.fixture(scope="module")
def loaded(folder: Callable[[str], Path]) -> Callable[[str], PipelineModel]:
    return functools.cache(lambda name: load(folder(name)))


@pytest.fixture(scope="module")
def original(folder: Callable[[str], Path]) -> Callable[[str], Any]:
    @functools.cache
    def made(name: str) -> Any:
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder(name), local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return made


@pytest.fixture
def flux(folder: Callable[[str], Path]) -> Iterator[PipelineModel]:
    """One of its own for a test that changes it."""
    model = load(folder("flux"))
    yield model
    model.loops.close()


def load(folder: Path, **more: Any) -> PipelineModel:
    model = load_model(str(folder), "cpu", size=SIZES.get(folder.name, (32, 48)), **more)
    assert isinstance(model, PipelineModel)
    return model


def called(pipe: Any, name: str, guidance: float, **more: Any) -> Any:
    """The pipeline's own call, with noise of a fixed seed."""
    told = {"guidance_scale": guidance}
    told = GUIDED.get(name, told) if guidance > 1 else PLAIN.get(name, told)
    if name in ("pixart-sigma", "sana"):
        told = {**told, "use_resolution_binning": False}
    width, height = SIZES.get(name, (32, 48))
    longest = inspect.signature(type(pipe).__call__).parameters["max_sequence_length"].default
    generator = torch.Generator().manual_seed(0)
    return pipe(
        prompt=list(PROMPTS), width=width, height=height, num_inference_steps=STEPS, generator=generator,
        max_sequence_length=min(longest, TOKENS), return_dict=False, **told, **more,
    )[0]  # fmt: skip


def run_alone(pipe: Any, name: str, guidance: float, monkeypatch: pytest.MonkeyPatch) -> Own:
    step, samples = pipe.scheduler.step, []

    def watched(output: Tensor, timestep: Any, sample: Tensor, *rest: Any, **more: Any) -> Any:
        samples.append(sample)
        return step(output, timestep, sample, *rest, **more)

    monkeypatch.setattr(pipe.scheduler, "step", watched)
    latents = called(pipe, name, guidance, output_type="latent")
    sigmas = getattr(pipe.scheduler, "sigmas", torch.zeros(0))[:STEPS]
    return Own(samples[0], tuple(sigmas.tolist()), tuple(pipe.scheduler.timesteps.tolist()), latents)


def on_its_levels(model: PipelineModel, own: Own) -> tuple[PipelineModel, Sequence[int], Tensor]:
    """The model on the levels of the pipeline's own steps, the places of these, and the noise that it began with."""
    if model.levels.kind == "vp":
        return model, [int(timestep) for timestep in own.timesteps], own.noise
    levels = NoiseLevels(tuple(sorted(own.sigmas)), "flow")
    return dataclasses.replace(model, levels=levels), range(STEPS - 1, -1, -1), own.noise / own.sigmas[0]


def evaluated(model: PipelineModel, prompts: Sequence[str] = PROMPTS, guidance: float = 3.0) -> Tensor:
    noise = initial_noise(0, range(len(prompts)), model.latent_shape)
    return model.denoiser(prompts, guidance)(noise, len(model.levels) // 2, slice(0, len(prompts)), None)


def pipeline_threads() -> int:
    gc.collect()
    return sum(thread.name == "flexsearch pipeline" for thread in threading.enumerate())


@pytest.mark.parametrize("name", PIPELINES)
def test_what_is_told_of_a_pipeline(name: str, loaded: Callable[[str], PipelineModel]) -> None:
    model = loaded(name)
    kind = "vp" if name in VP else "flow"
    assert (model.levels.kind, model.prediction) == (kind, "epsilon" if name in VP else "flow")
    assert (model.family, model.branches, model.blocks) == ("custom", 5, 6)
    assert model.latent_shape == SHAPES.get(name, (4, 6, 4)) and model.image_size == SIZES.get(name, (32, 48))
    assert model.multiple == 16 and len(model.levels) == 1000


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", PIPELINES)
def test_sampling_gives_what_the_pipeline_gives(
    name: str,
    guidance: float,
    loaded: Callable[[str], PipelineModel],
    original: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = run_alone(original(name), name, guidance, monkeypatch)
    model, places, noise = on_its_levels(loaded(name), own)
    made = draw(model.denoiser(PROMPTS, guidance), "euler", noise, places)
    assert torch.allclose(made.latents, own.latents, atol=1e-4)
    others = draw(model.denoiser(["a slice of pizza"] * 2, guidance), "euler", noise, places)
    error, difference = ((found.latents - own.latents).abs().max() for found in (made, others))
    assert 10 * error < difference  # prompts are told


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in VP])
def test_levels_are_those_that_the_pipeline_samples_on(
    name: str,
    loaded: Callable[[str], PipelineModel],
    original: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, levels = run_alone(original(name), name, 1.0, monkeypatch), loaded(name).levels
    assert own.sigmas[0] == levels.values[-1]
    for sigma in own.sigmas:
        assert abs(levels.sigma(levels.place(sigma)) - sigma) < 0.004


def test_a_flow_model_whose_scheduler_is_uni_pc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Wan's folders have it. Its timesteps are rounded down to whole numbers, those of the search are not."""
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    model = load(write_transformer_pipeline(tmp_path / "wan", "wan", scheduler=scheduler))
    times = [model.levels.sigma(place) / (3 - 2 * model.levels.sigma(place)) for place in (0, 499, 999)]
    assert (model.levels.kind, model.prediction, len(model.levels)) == ("flow", "flow", 1000)
    assert times == pytest.approx([0.001, 0.5, 0.999], abs=0.001)
    own = run_alone(model.pipe, "wan", 1.0, monkeypatch)
    for sigma in own.sigmas:
        assert abs(model.levels.sigma(model.levels.place(sigma)) - sigma) < 0.004
    made = draw(model.denoiser(PROMPTS, 1.0), "euler", own.noise, [model.levels.place(sigma) for sigma in own.sigmas])
    assert torch.norm(made.latents - own.latents) < 0.2 * torch.norm(own.latents)  # by another solver


@pytest.mark.parametrize("name", PIPELINES)
def test_pictures_are_those_of_the_pipeline(
    name: str,
    loaded: Callable[[str], PipelineModel],
    original: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = run_alone(original(name), name, 1.0, monkeypatch)
    expected = called(original(name), name, 1.0, output_type="pt")
    shown = (2,)
    if expected.dim() == 5:
        assert expected.shape[1] == loaded(name).frames and expected.shape[1] > 8
        expected, shown = expected[:, np.linspace(0, expected.shape[1] - 1, 8).round().astype(int)], (2, 8)
    pictures = loaded(name).decode(own.latents)
    width, height = SIZES.get(name, (32, 48))
    assert pictures.shape == (*shown, 3, height, width) and pictures.dtype == torch.float32
    assert torch.allclose(pictures, expected.float(), atol=1e-4)


@pytest.mark.parametrize("branch", [-1, 0])
@pytest.mark.parametrize("name", PIPELINES)
def test_partial_steps_run_the_blocks_up_to_their_branch(
    name: str, branch: int, loaded: Callable[[str], PipelineModel]
) -> None:
    model = loaded(name)
    noise, place = initial_noise(0, range(2), model.latent_shape), 600
    ran: list[int] = []
    hooks = [
        next(part for part in block.modules() if isinstance(part, torch.nn.Linear)).register_forward_hook(
            lambda *_, number=number: ran.append(number)
        )
        for number, block in enumerate(find_layout(model.network).units)
    ]
    plan = Plan((0.9, 0.5), (FULL, Action("partial", branch)), 0)
    with Run(model.network, plan, model.levels.kind) as run:
        run.evaluate(0.9)
        full = model.denoiser(PROMPTS, 3.0)(noise, place, slice(0, 2), run)
        assert sorted(set(ran)) == list(range(6)) and len(ran) == 6 * CALLS.get(name, 1)
        ran.clear()
        run.evaluate(0.5)
        partial = model.denoiser(PROMPTS, 3.0)(noise, place, slice(0, 2), run)
    for hook in hooks:
        hook.remove()
    assert run.report.misses == 0 and ran == list(range(branch + 1)) * CALLS.get(name, 1)
    assert torch.allclose(partial, full, atol=1e-5)  # on the same sample, what is left out would give the same


@pytest.mark.parametrize("name", PIPELINES)
def test_images_do_not_depend_on_their_batch(name: str, loaded: Callable[[str], PipelineModel]) -> None:
    model, prompts = loaded(name), [*PROMPTS, "a slice of pizza"]
    noise = initial_noise(0, range(3), model.latent_shape)
    together = draw(model.denoiser(prompts, 3.0), "euler", noise, (900, 400))
    apart = draw(model.denoiser(prompts, 3.0), "euler", noise, (900, 400), batch=1)
    assert torch.allclose(together.latents, apart.latents, atol=1e-4)
    taken = draw(model.denoiser(prompts, 3.0).taken([2, 0]), "euler", noise[[2, 0]], (900, 400))
    assert torch.allclose(taken.latents, together.latents[[2, 0]], atol=1e-4)


@pytest.mark.parametrize("name", PIPELINES)
def test_half_precision(name: str, folder: Callable[[str], Path], loaded: Callable[[str], PipelineModel]) -> None:
    """Decoders stay in float32: what a loop of bfloat16 gives must come to them so."""
    model = load(folder(name), dtype="bfloat16")
    assert {weight.dtype for weight in find_layout(model.network).units[0].parameters()} >= {torch.bfloat16}
    exact = evaluated(loaded(name))
    assert torch.norm(evaluated(model) - exact) < 0.2 * torch.norm(exact)
    pictures = model.decode(torch.zeros(1, *model.latent_shape))
    assert pictures.dtype == torch.float32 and bool(pictures.isfinite().all())


@pytest.mark.parametrize("name", PIPELINES)
def test_costs(name: str, loaded: Callable[[str], PipelineModel]) -> None:
    model = loaded(name)
    table = count_macs(model, 3.0)
    assert 0 < table.partial[-1] / table.full < HEADS.get(name, 0.02)
    assert list(table.partial.values()) == sorted(table.partial.values())


class Looks(torch.nn.Module):
    """As a network that looks at values, of which the meta device has none."""

    def forward(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")


@pytest.mark.parametrize("name", ["flux", "z-image", "wan"])
def test_a_pipeline_begins_with_its_own_network_where_the_weightless_one_fails(
    name: str, loaded: Callable[[str], PipelineModel]
) -> None:
    """Called a second time, it must be told the same: Z-Image's pipeline writes into the list of prompts."""
    model = loaded(name)
    looks = dataclasses.replace(model, dry=Looks(), loops=pipeline_loop.OpenLoops())
    assert torch.equal(evaluated(looks), evaluated(model))
    latents = torch.ones(1, *model.latent_shape)
    assert torch.equal(looks.decode(latents), model.decode(latents))
    assert count_macs(looks, 3.0) == count_macs(model, 3.0)
    looks.loops.close()


def test_two_denoisers_in_turn_are_kept_apart(loaded: Callable[[str], PipelineModel]) -> None:
    model = loaded("flux")
    noise, images = initial_noise(0, range(1), model.latent_shape), slice(0, 1)
    asked = [(["a red heart"], 3.0), (["a red heart"], 1.0), (["one yellow star"], 3.0)]
    denoisers = [model.denoiser(*one) for one in asked]
    alone = [[denoiser(noise, place, images, None) for place in (900, 500)] for denoiser in denoisers]
    in_turn = [[denoiser(noise, place, images, None) for denoiser in denoisers] for place in (900, 500)]
    for number in range(3):
        assert torch.equal(alone[number][0], in_turn[0][number]) and torch.equal(alone[number][1], in_turn[1][number])
    assert len({float(first.sum()) for first, _ in alone}) == 3


def test_more_prompts_than_are_kept(flux: PipelineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [evaluated(flux, [str(number)]) for number in range(5)]
    flux.loops.close()
    others = pipeline_threads()
    monkeypatch.setattr(pipeline_loop, "PROMPTS", 2)
    for _ in range(2):
        assert all(torch.equal(evaluated(flux, [str(number)]), expected[number]) for number in range(5))
        assert pipeline_threads() - others == 2
    evaluated(flux, ["more", "than", "that"])
    assert pipeline_threads() - others == 1


def test_a_loop_that_has_run_out_goes_on_in_a_new_one(flux: PipelineModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluated(flux)
    flux.loops.close()
    monkeypatch.setattr(pipeline_loop, "EVALUATIONS", 3)
    assert all(torch.equal(evaluated(flux), expected) for _ in range(8))


def test_an_error_of_the_network_is_raised_and_the_next_call_is_right(
    flux: PipelineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluated(flux)
    with monkeypatch.context() as broken, pytest.raises(LookupError, match="of its own"):
        broken.setattr(type(flux.network), "forward", fails)
        evaluated(flux)
    assert torch.equal(evaluated(flux), expected)


def fails(*_: Any, **__: Any) -> None:
    raise LookupError("an error of its own")


def test_an_answer_that_was_not_waited_for_is_not_taken_for_the_next(flux: PipelineModel) -> None:
    """As after Ctrl-C while the network runs."""
    expected = evaluated(flux)
    loop = flux.loop(tuple(PROMPTS), 3.0)

    class Interrupted:
        def get(self) -> None:
            raise KeyboardInterrupt

    loop._replies, replies = Interrupted(), loop._replies  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        evaluated(flux, guidance=3.0)
    loop._replies = replies
    assert loop.over and torch.equal(evaluated(flux), expected)


def test_threads_end_with_their_model(folder: Callable[[str], Path]) -> None:
    before = pipeline_threads()
    model = load(folder("flux"))
    evaluated(model)
    smaller = model.sized((32, 32))
    assert pipeline_threads() > before + 2
    model.loops.close()
    evaluated(smaller)
    assert pipeline_threads() == before + 2
    del model, smaller
    assert pipeline_threads() == before


def test_random_states_are_left_alone(folder: Callable[[str], Path]) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    model = load(folder("sd3"))
    evaluated(model)
    model.decode(torch.zeros(1, *model.latent_shape))
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_batch_that_does_not_fit_is_halved(
    error: BaseException, flux: PipelineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise, prompts = initial_noise(0, range(5), flux.latent_shape), [str(number) for number in range(5)]
    expected = draw(flux.denoiser(prompts, 3.0), "euler", noise, (900, 400))
    forward = type(flux.network).forward

    def limited(network: Any, hidden_states: Tensor, *rest: Any, **more: Any) -> Any:
        if len(hidden_states) > 2 and not hidden_states.is_meta:
            raise error
        return forward(network, hidden_states, *rest, **more)

    monkeypatch.setattr(type(flux.network), "forward", limited)
    made = draw(flux.denoiser(prompts, 3.0), "euler", noise, (900, 400))
    assert made.batch == 2 and torch.allclose(made.latents, expected.latents, atol=1e-5)
