"""Load a diffusers pipeline whose network is a transformer, from a folder, without any network."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexiffusion.errors import ModelMismatch
from flexiffusion.families import FAMILIES
from flexiffusion.fit import family_of
from flexiffusion.layouts import find_layout
from flexiffusion.noise import NoiseLevels
from flexsearch.errors import ModelError
from flexsearch.models.few_steps import few_step_facts, few_step_notes, names_of
from flexsearch.models.folder import Loader, weight_files
from flexsearch.models.folder_config import in_short, read_noise
from flexsearch.models.folder_index import INDEX, Index
from flexsearch.models.identity import sha256_of
from flexsearch.models.pipeline import FRAMES, PipelineModel, measured
from flexsearch.models.prediction import PredictionName, alphas_cumprod, noise_levels

PART = "transformer"
FLOW = "flow_prediction"  # as diffusers' solvers for diffusion models call it
SECOND = "transformer_2"  # the expert of low noise, of Wan 2.2
SCALES = ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio")  # as pipelines name it


def load_pipeline(
    folder: Path,
    index: Index,
    device: torch.device,
    dtype: torch.dtype,
    prediction: PredictionName | None = None,
    size: tuple[int, int] | None = None,
) -> PipelineModel:
    """Read a pipeline with a transformer; nothing is downloaded, and no code that lies in the folder is run.

    `size` is a picture's (width, height) in pixels, None for the pipeline's own. Raises ModelError for a pipeline that
    is not known, lacks parts, cannot be cut, or needs more than a prompt, ConfigError for a size that it cannot.
    """
    import diffusers

    maker: Any = getattr(diffusers, index.pipeline, None)
    known = isinstance(maker, type) and issubclass(maker, diffusers.DiffusionPipeline)
    if not known:
        if not index.pipeline:
            raise ModelError(str(folder / INDEX), "it names no pipeline (_class_name)", "Copy the folder again")
        problem = f"its pipeline is {index.pipeline}, which diffusers {diffusers.__version__} has not"
        raise ModelError(str(folder), problem, "Install a newer diffusers, or give another model")
    if SECOND in index.parts:
        problem = "it has two networks (transformer and transformer_2, one for each half of the noise levels)"
        raise ModelError(str(folder), problem, "Give a pipeline with one")
    loader = Loader(folder, index.parts, [*index.notes])
    parts = {PART: loader.part(PART, "transformer", dtype)}
    try:
        layout = find_layout(parts[PART])
    except ModelMismatch as error:
        raise ModelError(str(folder), str(error), "Give a model with another network") from error
    for name in index.parts:  # those with weights: what is missing there would be drawn at random
        if name == "vae":
            parts[name] = loader.part(name, "VAE", torch.float32)
        elif name.startswith("text_encoder"):
            parts[name] = loader.part(name, "text encoder", dtype)
        elif name.startswith("tokenizer"):
            loader.require_tokenizer(name)
    try:
        pipe = maker.from_pretrained(
            str(folder.resolve()), torch_dtype=dtype, local_files_only=True, use_safetensors=True, **parts
        )
    except Exception as error:  # the libraries raise a dozen kinds for broken files
        raise ModelError(str(folder), f"it cannot be loaded ({in_short(error)})", "Copy the folder again") from error
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    noise, levels = _noise(loader.at("scheduler"), index.parts.get("scheduler"), pipe.scheduler, prediction)
    family = family_of(parts[PART]) or "custom"
    few = few_step_notes(names_of(folder)) or few_step_facts(family, parts[PART].config, index.options)
    scale = next((int(getattr(pipe, name)) for name in SCALES if hasattr(pipe, name)), 8)
    model = PipelineModel(
        source=str(folder),
        family=family,
        sha256=sha256_of(weight_files(loader.at(PART))),
        noise_config=noise,
        levels=levels,
        branches=layout.branches,
        latent_shape=(),
        device=device,
        dtype=dtype,
        image_size=size or _size(pipe, family, scale),
        multiple=2 * scale,
        frames=_frames(pipe),
        default_guidance=FAMILIES[family].guidance if family in FAMILIES else 1.0,
        notes=(*loader.notes, *few),
        pipe=pipe,
        part=PART,
        dry=weightless(parts[PART]),
    )
    if size is not None:
        model.require_multiple(size)
    return measured(model)


def weightless(network: Any) -> Any:
    """A copy of a diffusers network on the meta device, which needs no memory; of the same precisions."""
    with torch.device("meta"):
        dry = type(network).from_config(network.config).eval()
    dry.load_state_dict({name: value.to("meta") for name, value in network.state_dict().items()}, assign=True)
    return dry.requires_grad_(False)


def _noise(
    folder: Path, name: str | None, scheduler: Any, prediction: PredictionName | None
) -> tuple[dict[str, Any], NoiseLevels]:
    """What determines the noise levels, and the levels; those of a flow model are told by the pipeline later on."""
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    if str(name).startswith("FlowMatch") or config.get("use_flow_sigmas") or config.get("prediction_type") == FLOW:
        if prediction is not None:
            problem = f"it is a flow model, and {prediction} was asked for"
            raise ModelError(str(folder), problem, "Leave out --prediction")
        return config, NoiseLevels((1.0,), "flow")
    noise = read_noise(folder, name, prediction).noise
    abars = alphas_cumprod(noise)
    if not np.allclose(abars, scheduler.alphas_cumprod, atol=1e-3):
        problem = f"its scheduler {name} makes other noise levels than its betas say, which is not sampled here"
        raise ModelError(str(folder), problem, "Give another model")
    return noise, noise_levels(noise)


def _size(pipe: Any, family: str, scale: int) -> tuple[int, int]:
    """Width and height of a picture where nothing is asked: what the pipeline or the network says, or the family's."""
    call = inspect.signature(type(pipe).__call__).parameters
    width, height = (call[name].default if name in call else None for name in ("width", "height"))
    if isinstance(width, int) and isinstance(height, int):
        return width, height
    latent = getattr(pipe, PART).config.get("sample_size")
    if isinstance(latent, int):
        return latent * scale, latent * scale
    side = FAMILIES[family].side if family in FAMILIES else int(getattr(pipe, "default_sample_size", 64)) * scale
    return side, side


def _frames(pipe: Any) -> int | None:
    """Frames of a video where nothing is asked: what the pipeline or the network says; None: it makes pictures."""
    call = inspect.signature(type(pipe).__call__).parameters
    if FRAMES not in call:
        return None
    usual = call[FRAMES].default
    return usual if isinstance(usual, int) else getattr(pipe, PART).config.get("sample_frames")
