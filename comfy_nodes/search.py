"""A search inside the host's own sampling: a sampler that spends minutes (`flexiffusion.search.in_place`).

The host prepares the model, its patches and conditionings as for any sampling; in the place of the sampler's loop runs
the search, which calls the same guided model. So what is found is for exactly this model, adapters and all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..flexiffusion.errors import FlexiffusionError
from ..flexiffusion.metadata import Sampling
from ..flexiffusion.noise import initial_scale
from ..flexiffusion.schedule import Schedule
from ..flexiffusion.search.in_host import HostDenoiser, fine, schedules_of, solver_for
from ..flexiffusion.search.in_place import Found, Told, find
from .apply import APPLY_MODEL, OUTER_SAMPLE, PREDICT_NOISE, chunks_of
from .apply import KEY as SCHEDULE_KEY
from .network import noise_of, picture_size, prediction_of, uncompiled, why_not_partial
from .samplers import name_of

KEY = "flexiffusion_search"


@dataclass
class Searched:
    """What one search gave: `found` and what it was made with, filled in by the sampling that it is."""

    found: Found | None = None
    schedules: list[Schedule] = field(default_factory=list)
    plain: Tensor | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What a search is asked for.

    seconds:    how long
    interrupts: what the host throws when its user stops it
    others:     positive conditionings of the images after the first, as the guider keeps them (`prompts.others`); then
                the user's own again. None: every image has the user's own
    """

    speedups: tuple[float, ...]
    seconds: float
    scheduler: str | None = None
    seed: int = 0
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,)
    on_progress: Told = lambda progress: None
    evaluations: int | None = None
    others: tuple[Any, ...] = ()


@dataclass
class _Holder:
    """Lies in the host's options, which are copied on their way to the network while objects in them are not.

    image: the one that is called alone just now, for its own conditioning; None: all images are called together
    """

    denoiser: HostDenoiser | None = None
    image: int | None = None


def searching(model: Any, request: Request, result: Searched) -> Any:
    """A clone of the host's MODEL on which the next sampling is a search; it returns the latents of what was found for
    the first speed-up. `result` is filled in.

    Raises, when sampling:
        FlexiffusionError: the network cannot be cut, there is a mask, or nothing was found.
    """
    clone = model.clone()

    def outer_sample(
        executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kw: Any
    ) -> Any:
        guider = executor.class_obj
        network = uncompiled(guider.model_patcher.get_model_object("diffusion_model"))
        why = why_not_partial(network, guider.model_options)
        if why is not None:
            raise FlexiffusionError(f"search: {why}. Search on a model that can run in part")
        if (args and args[0] is not None) or kw.get("denoise_mask") is not None:
            raise FlexiffusionError("search: the latent has a noise mask. Search without it: a schedule suits both")
        given, holder = [float(sigma) for sigma in sigmas], _Holder()
        own = copy.copy(sampler)
        own.extra_options = {}
        own.sampler_function = _sampler(guider, network, sampler, given, request, result, holder)
        options = guider.model_options.setdefault("transformer_options", {})
        options[KEY] = holder
        names = [f"{KEY} {number}" for number in range(len(request.others))]
        for name, conds in zip(names, request.others, strict=True):  # the host prepares them as it does its own
            guider.conds[name] = [copy.copy(cond) for cond in conds]
        try:
            return executor(noise, latent, own, sigmas, *args, **kw)
        finally:
            options.pop(KEY, None)
            for name in names:
                guider.conds.pop(name, None)

    for kind in (OUTER_SAMPLE, PREDICT_NOISE, APPLY_MODEL):
        clone.remove_wrappers_with_key(kind, SCHEDULE_KEY)  # a schedule that was applied before gives way
    for kind, wrapper in ((OUTER_SAMPLE, outer_sample), (APPLY_MODEL, _apply_model)):
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def _sampler(
    guider: Any, network: Any, sampler: Any, given: list[float], request: Request, result: Searched, holder: _Holder
) -> Callable[..., Tensor]:
    """The search in the place of a sampler's loop."""
    levels_of, whole = guider.model_patcher.get_model_object("model_sampling"), guider.model_patcher.model
    name, solver, note = solver_for(name_of(sampler))
    result.notes += [note] if note else []

    def sample_flexiffusion_search(
        model: Callable[..., Tensor], x: Tensor, sigmas: Tensor, extra_args: Any = None, *_: Any, **__: Any
    ) -> Tensor:
        levels = fine(given[:-1], noise_of(levels_of))

        def call(sample: Tensor, place: int) -> Tensor:
            sigma = torch.full((len(sample),), levels.sigma(place), device=sample.device, dtype=sample.dtype)
            return model(sample, sigma, **(extra_args or {}))

        def predict(sample: Tensor, place: int, images: slice) -> Tensor:
            if not request.others:
                return call(sample, place)
            own = guider.conds["positive"]
            each = [own, *(guider.conds[f"{KEY} {number}"] for number in range(len(request.others)))]
            made = []
            try:
                for row, image in enumerate(range(images.start, images.stop)):
                    holder.image, guider.conds["positive"] = image, each[image % len(each)]
                    made.append(call(sample[row : row + 1], place))
            finally:
                holder.image, guider.conds["positive"] = None, own
            return torch.cat(made)

        denoiser = holder.denoiser = HostDenoiser(predict, network, levels, x.device)
        # the host has scaled the noise, and laid it over the picture of img2img: the same state, told as noise
        noise = x.float().cpu() / initial_scale(given[0], levels.kind)
        result.found = found = find(
            denoiser, noise, given[:-1], request.speedups, seconds=request.seconds, evaluations=request.evaluations,
            solver=solver, seed=request.seed, batch=len(x), interrupts=request.interrupts,
            on_progress=request.on_progress,
        )  # fmt: skip
        if not found.latents:
            raise FlexiffusionError(f"search: nothing was found. Try another sampler or precision.\n{found.report}")
        prediction: Any = prediction_of(whole, levels_of)
        cfg, size = getattr(guider, "cfg", None), picture_size(whole, x)
        sampling = Sampling(name, request.scheduler, len(given) - 1, cfg, size, prediction)
        result.schedules = schedules_of(found, denoiser, sampling, request.seed)
        result.plain = whole.process_latent_out(found.teacher)
        return found.latents[0].to(x)

    return sample_flexiffusion_search


def _apply_model(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    options = next((value for value in (*args, *kwargs.values()) if isinstance(value, dict) and KEY in value), {})
    holder: _Holder | None = options.get(KEY)
    if holder is None or holder.denoiser is None or holder.denoiser.calls is None:
        return executor(x, *args, **kwargs)
    chunks = chunks_of(options)
    if holder.image is not None:
        chunks = tuple((holder.image, chunk) for chunk in chunks)
    return holder.denoiser.calls(lambda: executor(x, *args, **kwargs), x, chunks)
