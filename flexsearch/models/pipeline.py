"""Models whose network is a transformer: a whole diffusers pipeline, run through its own sampling loop.

There is no adapter for a family: `PipelineLoop` asks the pipeline itself how its network is called. What the solver
sees as a sample is what the pipeline's loop steps, packed or not.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flexiffusion.noise import NoiseLevels, network_scale
from flexiffusion.search.denoiser import Calls
from flexiffusion.solver import clean
from flexsearch.errors import ConfigError, ModelError
from flexsearch.models.checkpoint import Checkpoint, CheckpointDenoiser
from flexsearch.models.folder_config import in_short
from flexsearch.models.model import PIXELS_AT_ONCE
from flexsearch.models.pipeline_loop import Asked, Call, NetworkProxy, OpenLoops, PipelineLoop, accepts, last_part

T = TypeVar("T")

BINNING = "use_resolution_binning"  # by which some pipelines draw in another size than was asked for
TEXT_TO_PICTURES = "Give a pipeline that makes pictures of a prompt alone, or another --size"
FRAMES = "num_frames"  # as pipelines that make videos call it
TEMPORAL = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
MOST_FRAMES = 8  # of a video that features are computed on, evenly spaced
LONGEST = "max_sequence_length"  # the tokens that prompts are padded to, where a pipeline asks
FLOATS_PER_TOKEN = 40  # activations of one token, in units of its width; only a start: too large a batch is halved


@dataclass(frozen=True, kw_only=True)
class PipelineModel(Checkpoint):
    """A loaded diffusers pipeline.

    `part` is the name of its network among its parts, `dry` a weightless copy of that, on the meta device; `loops` are
    the pipeline's calls that are open for pictures of this size.
    """

    pipe: Any  # diffusers has no types
    part: str
    dry: nn.Module
    loops: OpenLoops = field(default_factory=OpenLoops)

    @property
    def network(self) -> Any:
        return getattr(self.pipe, self.part)

    @property
    def blocks(self) -> int | None:
        return self.branches + 1

    @property
    def prediction(self) -> str:
        return "flow" if self.levels.kind == "flow" else str(self.noise_config.get("prediction_type", "epsilon"))

    @property
    def conditional(self) -> bool:
        return True

    def denoiser(self, prompts: Sequence[str], guidance: float) -> PipelineDenoiser:
        return PipelineDenoiser(self, tuple(prompts), guidance)

    def sized(self, size: tuple[int, int]) -> PipelineModel:
        self.require_multiple(size)
        return measured(replace(self, image_size=size, loops=OpenLoops()))

    def framed(self, frames: int) -> PipelineModel:
        if self.frames is None:
            return super().framed(frames)  # type: ignore[return-value]  # refuses
        together = self.frames_per_latent
        if (frames - 1) % together:
            nearest = 1 + round((frames - 1) / together) * together
            remedy = f"Give one more than a multiple of {together}, such as {nearest}"
            raise ConfigError("--frames", f"{frames} does not fit {self.source}", remedy)
        return self if frames == self.frames else measured(replace(self, frames=frames, loops=OpenLoops()))

    @property
    def frames_per_latent(self) -> int:
        """Of all but the first frame of a video so many are in one latent."""
        return next((int(getattr(self.pipe, name)) for name in TEMPORAL if hasattr(self.pipe, name)), 1)

    def bytes_per_image(self, guidance: float) -> int:
        width = max(getattr(module, "in_features", 1) for module in self.network.modules())
        tokens = math.prod(self.latent_shape) // min(self.latent_shape[0], self.latent_shape[-1])
        return FLOATS_PER_TOKEN * width * tokens * self.dtype.itemsize

    def skeleton(self, guidance: float) -> tuple[nn.Module, Callable[[], object]]:
        calls = self.loop(("",), guidance).asked.calls
        try:
            for made in calls:
                made.on(self.dry, "meta")
        except (RuntimeError, NotImplementedError):  # the network looks at values: it is counted as it is
            return self.network, partial(counted_on, self.network, calls, self.device)
        return self.dry, partial(counted_on, self.dry, calls, torch.device("meta"))

    def arguments(self, prompts: Sequence[str], guidance: float) -> dict[str, Any]:
        """What the pipeline is called with, made anew for each call: pipelines write into their list of prompts.

        Guidance is `true_cfg_scale` where a pipeline has it and its network was not distilled to be told a scale. A
        scale of 1 is none, whatever number says that to the pipeline.
        """
        width, height = self.image_size
        generator = torch.Generator(self.device)  # torch's own random state is not ours to draw from
        given: dict[str, Any] = {"prompt": list(prompts), "width": width, "height": height, "generator": generator}
        call = type(self.pipe).__call__
        if not accepts(call, "true_cfg_scale") or self.network.config.get("guidance_embeds", False):
            given["guidance_scale"] = guidance - 1 if counts_from_zero(self.pipe) else guidance
        elif guidance > 1:
            given |= {"true_cfg_scale": guidance, "negative_prompt": [""] * len(prompts)}
        else:
            given["true_cfg_scale"] = 1.0
        if self.frames is not None:
            given[FRAMES] = self.frames
        if accepts(call, BINNING):
            given[BINNING] = False
        longest = inspect.signature(call).parameters.get(LONGEST)
        if longest is not None and isinstance(longest.default, int) and self.text_tokens < longest.default:
            given[LONGEST] = self.text_tokens
        return given

    @property
    def text_tokens(self) -> int:
        """The most tokens of a prompt that the pipeline's last text encoder reads, by its tokenizer."""
        names = sorted(name for name in self.pipe.components if name.startswith("tokenizer"))
        limit = getattr(getattr(self.pipe, names[-1], None), "model_max_length", None) if names else None
        return limit if isinstance(limit, int) else sys.maxsize

    def loop(self, prompts: tuple[str, ...], guidance: float) -> PipelineLoop:
        """The pipeline's loop for these prompts: the one that is open, or a new one."""
        return self.loops.get((prompts, guidance), lambda: self._opened(prompts, guidance))

    def _opened(self, prompts: tuple[str, ...], guidance: float) -> PipelineLoop:
        def opened(dry: nn.Module | None) -> PipelineLoop:
            arguments = {**self.arguments(prompts, guidance), "output_type": "latent"}
            return PipelineLoop(self.pipe, self.part, arguments, self.levels.kind == "vp", dry)

        return first_that_works(opened, self.dry)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        at_once = max(1, PIXELS_AT_ONCE // (self.image_size[0] * self.image_size[1] * (self.frames or 1)))
        return torch.cat([self._decode(rows) for rows in latents.split(at_once)])

    def _decode(self, latents: Tensor) -> Tensor:
        """The end of the pipeline's own call, whose one step gives these latents; of a video, `MOST_FRAMES`."""

        def finish(dry: nn.Module | None) -> Any:
            arguments = {**self.arguments([""] * len(latents), 1.0), "output_type": "pt", "num_inference_steps": 1}
            return last_part(self.pipe, self.part, NetworkProxy(self.network, Asked(), dry), latents, arguments)

        made = torch.as_tensor(first_that_works(finish, self.dry)).float().cpu()
        if made.dim() == 5:  # (n, frames, 3, height, width)
            made = made[:, evenly(made.shape[1], MOST_FRAMES)]
        return made.clamp(0, 1)


def evenly(count: int, most: int) -> list[int]:
    """At most so many of `count` indices, the first and the last among them."""
    return [round(place) for place in np.linspace(0, count - 1, min(count, most))]


def counts_from_zero(pipe: Any) -> bool:
    """Whether no guidance is a scale of 0 to a pipeline, whose scale is then one less than usual: Z-Image, Krea 2."""
    probe = copy.copy(pipe)

    def guided(scale: float) -> bool:
        vars(probe)["_guidance_scale"] = scale
        return bool(getattr(probe, "do_classifier_free_guidance", False))

    return guided(0.5) and not guided(0.0)


def counted_on(network: nn.Module, calls: Sequence[Call], device: torch.device) -> None:
    """Makes recorded calls again where multiply-adds are counted; the CPU's fused attention would count as nothing."""
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
        for call in calls:
            call.on(network, device)


def first_that_works(function: Callable[[nn.Module | None], T], dry: nn.Module) -> T:
    """`function` with the weightless network; where a pipeline looks at what its network returns, with the real one."""
    try:
        return function(dry)
    except (RuntimeError, NotImplementedError, ValueError):
        return function(None)


@dataclass(frozen=True, eq=False)
class PipelineDenoiser(CheckpointDenoiser):
    """See `flexiffusion.search.denoiser.Denoiser`, for one prompt an image."""

    model: PipelineModel
    prompts: tuple[str, ...]
    guidance: float

    def taken(self, images: Sequence[int]) -> PipelineDenoiser:
        return replace(self, prompts=tuple(self.prompts[i] for i in images))

    def loop(self, images: slice) -> PipelineLoop:
        """The pipeline's loop for these images: the one that is open, or a new one."""
        return self.model.loop(self.prompts[images], self.guidance)

    def __call__(self, sample: Tensor, place: int, images: slice, run: Calls | None) -> Tensor:
        model, sigma = self.model, self.model.levels.sigma(place)
        loop = self.loop(images)
        kind = self.levels.kind
        timestep = sigma * model.noise_config["num_train_timesteps"] if kind == "flow" else place
        output = loop.evaluate(sample / network_scale(sigma, kind), timestep, sigma, run)
        return clean(output.float(), sample, sigma, model.prediction)


def measured(model: PipelineModel) -> PipelineModel:
    """The model with the shape of its samples and its noise levels, which the pipeline itself tells for a size.

    Raises ModelError for a pipeline that cannot be called so, or that steps by something else than a prediction of its
    sample.
    """
    try:
        asked = model.loop(("",), model.default_guidance).asked
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever a pipeline raises where it is called with a prompt alone
        width, height = model.image_size
        name = type(model.pipe).__name__
        problem = f"its pipeline {name} cannot make a picture of {width}x{height} of a prompt ({in_short(error)})"
        raise ModelError(model.source, problem, TEXT_TO_PICTURES) from error
    assert asked.latents is not None and asked.output is not None
    if asked.output.shape != asked.latents.shape:
        problem = (
            f"its pipeline steps latents of {tuple(asked.latents.shape)} by an output of {tuple(asked.output.shape)}: "
            "its network predicts more than the picture"
        )
        raise ModelError(model.source, problem, "Give a model that predicts the noise alone")
    levels = flow_levels(model.pipe.scheduler, asked.timesteps) if model.levels.kind == "flow" else model.levels
    return replace(model, latent_shape=tuple(asked.latents.shape[1:]), levels=levels)


def flow_levels(scheduler: Any, asked: Mapping[str, Any]) -> NoiseLevels:
    """A flow model's noise levels: what its scheduler makes of as many steps as it was trained with.

    asked: what the pipeline gave to `set_timesteps`, such as the shift for pictures of this size (`mu`)
    """
    own = copy.copy(scheduler)
    count = int(scheduler.config.num_train_timesteps)
    given = {name: value for name, value in asked.items() if value is not None and accepts(own.set_timesteps, name)}
    if "sigmas" in given:  # the pipeline makes the list itself: evenly from 1, which the scheduler then shifts
        given["sigmas"] = np.linspace(1.0, 1 / count, count)
    else:
        given["num_inference_steps"] = count
    own.set_timesteps(**given)
    sigmas = sorted({float(sigma) for sigma in own.sigmas if 0 < float(sigma) <= 1})
    return NoiseLevels(tuple(sigmas), "flow")
