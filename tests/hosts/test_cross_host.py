"""One schedule, one set of weights, one noise: the same latent in diffusers and in whichever hosts are given; and one
search: the same schedule.

The reference is diffusers' U-Net with the core's Run in a loop of Euler steps that is written out here, and the core's
search on it. Each host that COMFYUI_PATH, WEBUI_PATH or FORGE_PATH names is asked for the same through its HTTP API and
compared with it, and so is `flexiffusion.apply` on diffusers' own pipeline. ComfyUI is started with COMFYUI_PYTHON, or
else the tests' own Python.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flexiffusion import codec
from flexiffusion.fingerprint import is_same_checkpoint
from flexiffusion.metadata import Sampling
from flexiffusion.noise import network_scale
from flexiffusion.plan import plan_for
from flexiffusion.run import Run
from flexiffusion.schedule import Schedule, StepsPlan
from flexiffusion.search.denoiser import Calls
from flexiffusion.search.in_host import HostDenoiser, fine, schedules_of
from flexiffusion.search.in_place import find
from flexiffusion.solver import euler

pytestmark = [pytest.mark.host, pytest.mark.timeout(1500)]

SEED, STEPS, CFG, SIDE = 7, 10, 5.0, 64
PROMPT, NEGATIVE = ("a cat", [320, 2368]), ("a dog", [320, 1929])  # with their CLIP tokens
LATENT_SCALE = 0.18215  # of SD1.5; ComfyUI saves latents divided by it
IMAGES, EVALUATIONS = 4, 12  # of a search; images as both hosts have them unasked
WEIGHTS_APART, LEVELS_APART = 1e-4, 1e-4  # of weights about one (3e-6 seen); relative, of levels (1.3e-5 seen)
HOUR = 60.0  # minutes that no search here takes: the number of candidates ends it
TOLERANCE = 1e-4  # relative, of the whole latent: single precision, other attention code, and ten steps (3e-6 seen)


def schedule(plan: dict[str, Any], name: str) -> str:
    return json.dumps(
        {
            "format": "flexiffusion/schedule", "version": 1, "name": name, "plan": plan,
            "model": {"family": "sd15", "branches": 12}, "provenance": {"kind": "heuristic"},
            "sampling": {"sampler": None, "scheduler": None, "steps": STEPS, "cfg": None, "size": None,
                         "prediction": None},
        }
    )  # fmt: skip


SEGMENTS = schedule(
    {"kind": "segments", "segments": [
        {"steps": 3, "active": 3, "branch": 2, "predictor": "reuse"},
        {"steps": 3, "active": 2, "branch": 0, "predictor": "linear"},
        {"steps": 4, "active": 3, "branch": 5, "predictor": "linear"},
    ]},
    "segments",
)  # fmt: skip
OWN_LEVELS = schedule(
    {"kind": "steps", "steps": [
        {"sigma": 14.6146, "do": "full"}, {"sigma": 6.0, "do": "partial", "branch": 2}, {"sigma": 3.0, "do": "full"},
        {"sigma": 1.6, "do": "partial", "branch": 1, "predictor": "linear"}, {"sigma": 0.8, "do": "full"},
        {"sigma": 0.3, "do": "partial", "branch": 3, "predictor": "quadratic"}, {"sigma": 0.1, "do": "full"},
    ]},
    "own levels",
)  # fmt: skip
DROPPED = schedule(
    {"kind": "steps", "steps": [
        {"sigma": 14.6146, "do": "full"},
        {"sigma": 6.0, "do": "full", "drop": ["input_blocks.4.1", "middle_block.1", "output_blocks.5.0"]},
        {"sigma": 3.0, "do": "full", "drop": ["input_blocks.1.0", "input_blocks.10.0", "output_blocks.11.1"]},
        {"sigma": 1.6, "do": "partial", "branch": 1, "predictor": "linear", "drop": ["output_blocks.11.0"]},
        {"sigma": 0.8, "do": "full"},
        {"sigma": 0.3, "do": "full", "drop": ["middle_block.0", "output_blocks.0.0", "output_blocks.8.0"]},
    ]},
    "dropped layers",
)  # fmt: skip
ALL_FULL = schedule({"kind": "segments", "segments": [{"steps": 1, "active": 1, "branch": 0}] * STEPS}, "all full")
SCHEDULES = {"segments": SEGMENTS, "own levels": OWN_LEVELS, "dropped layers": DROPPED, "all full": ALL_FULL}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from webui_server import write_checkpoint

    if not any(os.environ.get(f"{name}_PATH") for name in ("COMFYUI", "WEBUI", "FORGE")):
        pytest.skip("no host is given (COMFYUI_PATH, WEBUI_PATH, FORGE_PATH)")
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "cross.safetensors", vae_width=128, width=320)


class Reference:
    """The picture by diffusers."""

    def __init__(self, checkpoint: Path) -> None:
        from diffusers import UNet2DConditionModel
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
        from transformers import CLIPTextConfig, CLIPTextModel

        tensors = load_file(checkpoint)
        config: dict[str, Any] = {
            "block_out_channels": (320,) * 4, "cross_attention_dim": 768, "attention_head_dim": 8,
            "layers_per_block": 2, "sample_size": 64, "in_channels": 4, "out_channels": 4,
            "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        }  # fmt: skip
        self.unet = UNet2DConditionModel(**config).eval().requires_grad_(False)
        unet = {name: value.float() for name, value in tensors.items() if name.startswith("model.diffusion_model.")}
        self.unet.load_state_dict(convert_ldm_unet_checkpoint(unet, config))
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        ).eval()
        wanted = text.state_dict()
        prefix = "cond_stage_model.transformer."
        for name in wanted:
            found = tensors.get(prefix + name, tensors.get(f"{prefix}text_model.{name}"))
            if found is not None:
                wanted[name] = found.float()
        text.load_state_dict(wanted)
        with torch.no_grad():
            self.contexts = torch.cat([
                text(torch.tensor([[49406, *words, *[49407] * (76 - len(words))]])).last_hidden_state
                for _, words in (PROMPT, NEGATIVE)
            ])  # fmt: skip
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        abar = torch.cumprod(1 - betas, 0)
        self.sigmas = ((1 - abar) / abar).sqrt()

    def levels(self) -> list[float]:
        """Karras' (arXiv 2206.00364, eq. 5)."""
        ramp = torch.linspace(0, 1, STEPS, dtype=torch.float64)
        low, high = self.sigmas[0] ** (1 / 7), self.sigmas[-1] ** (1 / 7)
        return ((high + ramp * (low - high)) ** 7).tolist()

    def direction(self, x: Tensor, level: float, run: Calls | None) -> Tensor:
        """The predicted noise, by guidance of cond and uncond. # (n, 4, H, W)"""
        timestep = (self.sigmas.log() - torch.tensor(level).log()).abs().argmin()
        x_in = torch.cat([x, x]) / network_scale(level, "vp")
        contexts = self.contexts.repeat_interleave(len(x), 0)

        def forward() -> Tensor:
            return self.unet(x_in, timestep, encoder_hidden_states=contexts).sample

        out = forward() if run is None else run(forward, x_in, ("cond", "uncond"))
        cond, uncond = out.chunk(2)
        return uncond + CFG * (cond - uncond)

    def latent(self, text: str) -> Tensor:
        """Euler's method. # (1, 4, H, W)"""
        plan = plan_for(codec.loads(text.encode()), self.levels())
        x = noise(1) * network_scale(plan.levels[0], "vp")
        with torch.no_grad(), Run(self.unet, plan) as run:
            for level, following in zip(plan.levels, (*plan.levels[1:], 0.0), strict=True):
                run.evaluate(level)
                x = x + (following - level) * self.direction(x, level, run)
        assert run.report.misses == 0
        return x

    def search(self) -> Schedule:
        levels = self.levels()
        places = fine(levels, "vp")

        def predict(x: Tensor, place: int, _images: slice) -> Tensor:
            return x - places.sigma(place) * self.direction(x, places.sigma(place), denoiser.calls)

        denoiser = HostDenoiser(predict, self.unet, places, torch.device("cpu"))
        found = find(
            denoiser, noise(IMAGES), levels, (2.0,), evaluations=EVALUATIONS, solver=euler, seed=SEED, batch=IMAGES
        )
        print(found.report)
        made = Sampling("euler", "karras", STEPS, CFG, (SIDE, SIDE), "epsilon")
        (schedule,) = schedules_of(found, denoiser, made, SEED)
        return schedule


@dataclass(frozen=True)
class Host:
    """latent: that of a schedule's text; search: what it finds, where it can search"""

    latent: Callable[[str], Tensor]
    search: Callable[[], Schedule] | None = None


def noise(images: int) -> Tensor:
    """As torch draws it on the CPU. # (images, 4, H, W)"""
    return torch.randn(images, 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(SEED))


def saved(models: Path) -> Schedule:
    """What the one search of a host has saved."""
    (path,) = (models / "flexiffusion" / "searched").glob("*.json")
    return codec.read(path)


def webui(kind: str, checkpoint: Path, folder: Path) -> Iterator[Host]:
    from webui_server import start, stop

    server = start(kind, folder, checkpoint)
    if server is None:
        pytest.skip(f"no checkout of {kind} is given")
    # noise as torch draws it on the CPU, scaled as if it were the last of infinitely many levels, whole timesteps
    server.call("/sdapi/v1/options", {"randn_source": "CPU", "sgm_noise_multiplier": True, "enable_quantization": True})

    def generate(*arguments: Any) -> None:
        server.generate(
            list(arguments), seed=SEED, steps=STEPS, cfg_scale=CFG, width=SIDE, height=SIDE, prompt=PROMPT[0],
            negative_prompt=NEGATIVE[0], sampler_name="Euler", scheduler="Karras",
        )  # fmt: skip

    def latent(text: str) -> Tensor:
        generate(True, text)
        server.call("/probe/save", {"path": str(folder / "latent.pt")})
        return torch.load(folder / "latent.pt", weights_only=True)["latent"]

    def search() -> Schedule:
        server.call("/probe/evaluations", {"number": EVALUATIONS})
        generate(True, "auto", "same", "by position", False, 2.0, HOUR)
        return saved(folder / "models")

    yield Host(latent, search)
    stop(server)


def comfyui(checkpoint: Path, folder: Path) -> Iterator[Host]:
    from comfyui import Server
    from workflows import TextToImage

    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("no checkout of ComfyUI is given")
    (folder / "models" / "checkpoints").mkdir(parents=True)
    (folder / "models" / "checkpoints" / "cross.safetensors").symlink_to(checkpoint)
    server = Server(Path(path).resolve(), folder / "base", folder / "models")
    # this process needs a diffusers that imports; the host may need another Python than that
    server._command[0] = os.environ.get("COMFYUI_PYTHON", server._command[0])
    with server:

        def latent(text: str) -> Tensor:
            workflow = TextToImage(size=SIDE, checkpoint="cross.safetensors")
            workflow.positive, workflow.negative = workflow.text(PROMPT[0]), workflow.text(NEGATIVE[0])
            workflow.apply(text)
            made = workflow.ksampler(seed=SEED, steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="karras")
            workflow.save(made, "cross")
            server.run(workflow.graph.prompt)
            return server.latent("cross").float() * LATENT_SCALE

        def search() -> Schedule:
            workflow = TextToImage(size=SIDE, checkpoint="cross.safetensors")
            workflow.graph(
                "FlexiffusionSearch", model=workflow.graph("FlexiffusionTestLimit", model=workflow.model,
                                                           evaluations=EVALUATIONS),
                positive=workflow.text(PROMPT[0]), negative=workflow.text(NEGATIVE[0]), latent_image=workflow.latent,
                seed=SEED, steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="karras", denoise=1.0,
                speedups="2", minutes=HOUR, images=IMAGES,
            )  # fmt: skip
            server.wait(server.start(workflow.graph.prompt), 1200)
            return saved(folder / "models")

        yield Host(latent, search)


def pipeline(reference: Reference) -> Iterator[Host]:
    """`flexiffusion.apply` on diffusers' own pipeline and scheduler.

    DPM-Solver++ of first order is Euler's method; of diffusers' schedulers it is the one that tells the network whole
    timesteps on Karras levels, as hosts do.
    """
    import diffusers

    import flexiffusion

    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", solver_order=1, use_karras_sigmas=True
    )
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                                    up_block_types=("UpDecoderBlock2D",) * 4),
        text_encoder=None, tokenizer=None, unet=reference.unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)

    def latent(text: str) -> Tensor:
        with flexiffusion.apply(pipe, codec.loads(text.encode())) as handle:
            made = pipe(
                prompt_embeds=reference.contexts[:1], negative_prompt_embeds=reference.contexts[1:], height=SIDE,
                width=SIDE, num_inference_steps=STEPS, guidance_scale=CFG, latents=noise(1), output_type="latent",
            ).images  # fmt: skip
        assert handle.report is not None and handle.report.report.misses == 0
        return torch.as_tensor(made)

    yield Host(latent)


@pytest.fixture(scope="module", params=["apply", "a1111", "forge", "comfyui"])
def host(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if request.param == "apply":
        yield from pipeline(request.getfixturevalue("reference"))
        return
    folder = tmp_path_factory.mktemp(request.param)
    yield from comfyui(checkpoint, folder) if request.param == "comfyui" else webui(request.param, checkpoint, folder)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


@pytest.fixture(scope="module")
def searched(reference: Reference) -> Schedule:
    return reference.search()


def test_the_same_latent_everywhere(host: Host, reference: Reference) -> None:
    expected = {name: reference.latent(text) for name, text in SCHEDULES.items()}
    for name, text in SCHEDULES.items():
        latent = host.latent(text)
        assert latent.shape == expected[name].shape
        difference = float((latent - expected[name]).norm() / expected[name].norm())
        print(f"{name}: relative difference {difference:.2e}")
        assert difference < TOLERANCE, name
    # the schedules differ by far more than that, or the comparison would say nothing
    for name in ("segments", "own levels", "dropped layers"):
        apart = float((expected[name] - expected["all full"]).norm() / expected["all full"].norm())
        print(f"{name} against all full: {apart:.2e}")
        assert apart > 10 * TOLERANCE


@pytest.mark.parametrize("host", ["a1111", "forge", "comfyui"], indirect=True)
def test_a_search_finds_the_same_schedule_everywhere(host: Host, reference: Reference, searched: Schedule) -> None:
    assert host.search is not None
    made = host.search()
    ours, theirs = searched.plan, made.plan
    assert isinstance(ours, StepsPlan) and isinstance(theirs, StepsPlan)
    assert theirs.actions() == ours.actions()
    assert [step.sigma for step in theirs.steps] == pytest.approx([step.sigma for step in ours.steps], rel=LEVELS_APART)
    assert any(action.kind == "partial" for action in ours.actions()) and any(step.weights for step in ours.steps)
    apart = 0.0
    for one, other in zip(ours.steps, theirs.steps, strict=True):
        assert len(other.weights or ()) == len(one.weights or ())
        apart = max([apart, *(abs(a - b) for a, b in zip(one.weights or (), other.weights or (), strict=True))])
    print(f"weights: at most {apart:.1e} apart")
    assert apart < WEIGHTS_APART
    assert made.cost == searched.cost and made.provenance == searched.provenance
    assert is_same_checkpoint(reference.unet, made.model.fingerprint or ())
