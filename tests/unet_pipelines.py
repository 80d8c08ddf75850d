"""Small diffusers pipelines with a U-Net and random weights, in memory, and calls of each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image

from flexiffusion.layouts import find_layout
from flexiffusion.metadata import ModelInfo, Sampling
from flexiffusion.schedule import Schedule, SegmentsPlan, StepsPlan
from flexsearch.models.pipeline_loop import accepts
from tests.pipeline_folders import WIDTH, clip, tokenizer, vae

SIDE = 32  # of a picture, in pixels; four latents
STEPS = 8
PICTURE = Image.new("RGB", (SIDE, SIDE), (200, 80, 30))
MASK = Image.new("L", (SIDE, SIDE), 255)
MASK.paste(0, (0, 0, SIDE // 2, SIDE))
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

BLOCKS: dict[str, Any] = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
}  # fmt: skip


def unet(channels: int = 4, text: int = WIDTH, **more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        **BLOCKS, in_channels=channels, out_channels=4, cross_attention_dim=text, attention_head_dim=4,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), **more,
    )  # fmt: skip


def plain_unet(channels: int) -> Any:
    return diffusers.UNet2DModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, sample_size=4, in_channels=channels,
        out_channels=channels, attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def scheduler(name: str = "DPMSolverMultistepScheduler", **more: Any) -> Any:
    """One of diffusers' schedulers with Stable Diffusion's noise, where it has any."""
    maker = getattr(diffusers, name)
    usual = {**NOISE, "steps_offset": 1, "clip_sample": False, "skip_prk_steps": True}
    return maker(**{key: value for key, value in usual.items() if accepts(maker.__init__, key)} | more)


def sd(channels: int = 4) -> dict[str, Any]:
    words = tokenizer(Path(tempfile.mkdtemp()))
    return {
        "unet": unet(channels), "vae": vae(4), "text_encoder": clip("CLIPTextModel", words), "tokenizer": words,
        "scheduler": scheduler(), "safety_checker": None, "feature_extractor": None, "image_encoder": None,
        "requires_safety_checker": False,
    }  # fmt: skip


def sdxl(channels: int = 4) -> dict[str, Any]:
    words = tokenizer(Path(tempfile.mkdtemp()))
    micro = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    return {
        "unet": unet(channels, 2 * WIDTH, projection_class_embeddings_input_dim=6 * 4 + WIDTH, **micro), "vae": vae(4),
        "text_encoder": clip("CLIPTextModel", words), "tokenizer": words,
        "text_encoder_2": clip("CLIPTextModelWithProjection", words), "tokenizer_2": words, "scheduler": scheduler(),
    }  # fmt: skip


def controlnet(network: Any) -> Any:
    made = diffusers.ControlNetModel.from_unet(network, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for parameter in made.parameters():  # zero where it is made: then it would change nothing
        torch.nn.init.normal_(parameter, std=0.05)
    return made.eval()


def with_controlnet(parts: dict[str, Any]) -> dict[str, Any]:
    return {**parts, "controlnet": controlnet(parts["unet"])}


def text_only(**more: Any) -> dict[str, Any]:
    return {"prompt": "a red heart", "guidance_scale": 3.0, "height": SIDE, "width": SIDE, **more}


def of_a_picture(**more: Any) -> dict[str, Any]:
    return {"prompt": "a red heart", "guidance_scale": 3.0, "image": PICTURE, "strength": 1.0, **more}


# The pipeline's class, its parts, and what it is called with.
PIPELINES: dict[str, tuple[str, Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "sd": ("StableDiffusionPipeline", sd, text_only()),
    "sd-img2img": ("StableDiffusionImg2ImgPipeline", sd, of_a_picture()),
    "sd-inpaint": ("StableDiffusionInpaintPipeline", lambda: sd(9), of_a_picture(mask_image=MASK, **text_only())),
    "sd-inpaint-4": ("StableDiffusionInpaintPipeline", sd, of_a_picture(mask_image=MASK, **text_only())),
    "sd-controlnet": (
        "StableDiffusionControlNetPipeline", lambda: with_controlnet(sd()), text_only(image=PICTURE),
    ),
    "sd-controlnet-img2img": (
        "StableDiffusionControlNetImg2ImgPipeline", lambda: with_controlnet(sd()),
        of_a_picture(control_image=PICTURE),
    ),
    "sd-controlnet-inpaint": (
        "StableDiffusionControlNetInpaintPipeline", lambda: with_controlnet(sd()),
        of_a_picture(control_image=PICTURE, mask_image=MASK, **text_only()),
    ),
    "sd-pag": ("StableDiffusionPAGPipeline", sd, text_only(pag_scale=2.0)),
    "sdxl": ("StableDiffusionXLPipeline", sdxl, text_only()),
    "sdxl-img2img": ("StableDiffusionXLImg2ImgPipeline", sdxl, of_a_picture()),
    "sdxl-inpaint": ("StableDiffusionXLInpaintPipeline", sdxl, of_a_picture(mask_image=MASK, **text_only())),
    "sdxl-controlnet": (
        "StableDiffusionXLControlNetPipeline", lambda: with_controlnet(sdxl()), text_only(image=PICTURE),
    ),
    "ddpm": ("DDPMPipeline", lambda: {"unet": plain_unet(3), "scheduler": scheduler("DDPMScheduler")}, {}),
    "ddim": ("DDIMPipeline", lambda: {"unet": plain_unet(3), "scheduler": scheduler("DDIMScheduler")}, {}),
    "ldm": (
        "LDMPipeline",
        lambda: {
            "unet": plain_unet(4), "scheduler": scheduler("DDIMScheduler"),
            "vqvae": diffusers.VQModel(
                block_out_channels=(4,), latent_channels=4, vq_embed_dim=4, num_vq_embeddings=16, norm_num_groups=2
            ),
        },
        {},
    ),
}  # fmt: skip


def build(name: str, **parts: Any) -> Any:
    """One of `PIPELINES`; `parts` are put in place of its own."""
    maker, make, _ = PIPELINES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        components = make() | parts
        for part in components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
    if maker in ("DDPMPipeline", "DDIMPipeline", "LDMPipeline"):
        pipe = getattr(diffusers, maker)(**components)
        pipe.scheduler = components["scheduler"]  # DDIMPipeline makes one of its own
    else:
        accepted = getattr(diffusers, maker).__init__.__code__.co_varnames
        pipe = getattr(diffusers, maker)(**{key: part for key, part in components.items() if key in accepted})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: Any, name: str = "sd", seed: int = 0, **more: Any) -> torch.Tensor:
    """Latents, or pictures where a pipeline has nothing else; from the same noise each time."""
    given = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(seed), **PIPELINES[name][2]}
    if name in ("ddpm", "ddim", "ldm"):
        return torch.as_tensor(pipe(**given, output_type="np", **more).images)
    return pipe(**{**given, "output_type": "latent", **more}).images  # type: ignore[no-any-return]


def schedule_for(pipe: Any, plan: SegmentsPlan | StepsPlan, name: str = "drawn", steps: int = STEPS) -> Schedule:
    """A schedule that fits the pipeline's network."""
    network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    network = getattr(network, "_orig_mod", network)
    total = plan.total_steps if isinstance(plan, SegmentsPlan) else steps
    model = ModelInfo("custom", find_layout(network).branches)
    return Schedule(name, model=model, sampling=Sampling(None, None, total, None, None, None), plan=plan)
