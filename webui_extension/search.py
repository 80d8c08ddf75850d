"""A search for schedules as one sampling of the host: in the place of its sampler's loop, through its own denoiser.

What the user has set (model, LoRA, prompts, guidance, ControlNet) is in the denoiser, so what is found is for exactly
that. Whatever is changed is an attribute of an object, put back at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from flexiffusion.attributes import Attributes
from flexiffusion.auto import Setting, few_steps
from flexiffusion.errors import FlexiffusionError
from flexiffusion.fit import UNKNOWN, distilled
from flexiffusion.host import why_not_cut
from flexiffusion.metadata import Sampling
from flexiffusion.noise import NoiseKind, NoiseLevels, initial_scale, network_scale
from flexiffusion.plan import index_at
from flexiffusion.search.in_host import HostDenoiser, fine, save, schedules_of, solver_for
from flexiffusion.search.in_place import Found, Progress, find

from . import infotext
from .generation import note, plain_name, say
from .levels import Levels, Timesteps, levels_of
from .network import Network
from .sampling import Conditionings
from .settings import Settings

IMAGES = 4  # that a schedule is judged by, one at a time: the user's own, and others of its seed


class Shown(Protocol):
    """How far a search is, for the host's page."""

    def step(self, index: int) -> None:
        """The step of the host's list that is asked for now; others in the host (ControlNet) read it."""

    def told(self, part: float, text: str) -> None:
        """The part of the time that is over, 0 to 1, and what there is by now."""


@dataclass(frozen=True)
class Surroundings:
    """What a search uses of the host.

    network:  the one that is loaded
    folder:   where what is found is saved
    stops:    what the host throws in a sampling that its user stops
    showing:  gives `Shown` for the length of the search
    refresh:  reads the schedules again
    """

    network: Callable[[], Network | None]
    folder: Path
    stops: type[BaseException]
    showing: Callable[[], AbstractContextManager[Shown]]
    refresh: Callable[[], None]


@dataclass(frozen=True)
class Result:
    """What was found; its pictures: the sampling's own with the schedule, and `plain`, a latent # (1, C, H, W)"""

    found: Found
    name: str  # of the schedule in the dropdown
    plain: Tensor
    steps: int


class Search:
    """The search of one generation, kept on `p`.

    Raises FlexiffusionError where there is nothing to search.
    """

    def __init__(self, p: Any, settings: Settings, host: Surroundings) -> None:
        if hasattr(p, "init_images"):
            raise FlexiffusionError(
                "search: img2img begins with a picture, not with noise alone. Search in txt2img: img2img takes the "
                "rule, or what you choose"
            )
        if settings.speedup <= 1:
            raise FlexiffusionError(f"search: the speed-up is {settings.speedup:g}. Set more than 1")
        self._p, self._settings, self._host = p, settings, host
        self._attached = Attributes()
        self.result: Result | None = None

    def attach(self) -> None:
        """Takes the place of the sampler's function for its next call."""
        sampler = self._p.sampler
        self._attached.undo()
        original = sampler.func

        # hosts look at the function's signature, which `wraps` lets them see through to the original
        @functools.wraps(original)
        def func(model: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self._attached.undo()
            try:
                return self._searched(original, model, x, kwargs)
            except (FlexiffusionError, MemoryError) as error:
                reason = f"{error}. The picture is made the plain way"
                say(self._p, reason)
                note(self._p, reason)
            return original(model, x, *args, **kwargs)

        self._attached.put_function(sampler, "func", func)

    def _searched(self, original: Callable[..., Tensor], model: Any, x: Tensor, arguments: dict[str, Any]) -> Tensor:
        p, config, settings = self._p, self._p.sampler.config, self._settings
        network = self._host.network()
        if network is None:
            raise FlexiffusionError("search: no model is loaded")
        label = plain_name(config.name)
        levels = levels_of(config.name, original, arguments, None, p.sampler.model_wrap_cfg)
        _require_gain(network, Setting(levels.run, network.noise, label, p.cfg_scale))
        name, solver, other = solver_for(label)
        course = _Course(model, levels, network.noise, bool(config.options.get("second_order", False)), x, arguments)
        denoiser = HostDenoiser(course.predict, network.unet, course.places, x.device)
        seed = int((getattr(p, "seeds", None) or [p.seed])[0])
        attached = Attributes()
        attached.put_function(network.unet, "forward", course.through(network.unet.forward, denoiser))
        try:
            with self._host.showing() as shown:
                course.shown = shown
                found = find(
                    denoiser, _noises(course.noise, seed), levels.run, (settings.speedup,),
                    seconds=60 * settings.search, solver=solver, fits=not isinstance(levels, Timesteps),
                    seed=seed % 2**31, batch=1, interrupts=(self._host.stops,),
                    on_progress=lambda progress: shown.told(progress.part, _words(progress)),
                )  # fmt: skip
        except self._host.stops:
            say(p, "search: it was stopped before anything was found")
            raise
        finally:
            attached.undo()
        if not found.latents:
            raise FlexiffusionError(f"search: nothing was found: {_joined(found.report)}. Give it more minutes")
        scheduler = plain_name(p.scheduler) if getattr(p, "scheduler", None) else None
        made = Sampling(name, scheduler, len(levels.run), p.cfg_scale, (p.width, p.height), network.prediction)
        self._keep(found, schedules_of(found, denoiser, made, seed % 2**31), len(levels.run), other)
        return found.latents[0][:1].to(x, copy=True)  # a copy: what a search makes cannot be changed in place

    def _keep(self, found: Found, schedules: list[Any], steps: int, other: str | None) -> None:
        p, folder = self._p, self._host.folder
        name = schedules[0].name
        try:
            (path,) = save(schedules, folder)
        except OSError as error:
            say(p, f"search: {folder}: what was found could not be saved ({error.strerror}). Make room, or the folder")
        else:
            name, where = path.stem, f"saved: {path}"
            print(f"[Flexiffusion] {where}")
        self._host.refresh()
        self.result = Result(found, name, found.teacher[:1].clone(), steps)
        said = _joined(found.report)
        print(f"[Flexiffusion] {said}")
        say(p, f"searched: {name}. {said}")
        if other:
            say(p, other)
        p.extra_generation_params |= {infotext.SCHEDULE: name, infotext.SEARCH: said}


class _Course:
    """How the host's denoiser is asked at a place of the search.

    Samplers of k-diffusion hand it samples as a search has them, and a sigma; those in timesteps a sample of unit
    variance and a timestep, and it answers with the noise.

    x: what the sampler got: the noise at the first level # (1, C, H, W)
    """

    def __init__(
        self, model: Any, levels: Levels, kind: NoiseKind, second_order: bool, x: Tensor, arguments: dict[str, Any]
    ) -> None:
        if len(x) != 1:
            raise FlexiffusionError(f"search: a batch of {len(x)} pictures. Search with a batch size of 1")
        self._model, self._levels, self._x = model, levels, x
        self._per_step = 2 if second_order else 1  # as the host counts evaluations
        self._extra = arguments.get("extra_args") or {}
        self._conditionings = Conditionings()
        self.shown: Shown | None = None
        self._first = 0  # timestep of place 0
        if isinstance(levels, Timesteps):
            self._first, last = levels.timestep(levels.run[-1]), levels.timestep(levels.run[0])
            sigmas = (levels.sigma(timestep) for timestep in range(self._first, last + 1))
            self.places, self.noise = NoiseLevels(tuple(sigmas), kind), x.float().cpu()
        else:
            self.places = fine(levels.run, kind)
            self.noise = x.float().cpu() / initial_scale(levels.run[0], kind)

    def predict(self, sample: Tensor, place: int, images: slice) -> Tensor:
        sigma = self.places.sigma(place)
        step = index_at(self._levels.run, sigma)
        self._model.step = step * self._per_step  # prompt editing and AND schedules read it
        if self.shown is not None:
            self.shown.step(step)
        self._conditionings.begin(len(sample))
        ones = self._x.new_ones(len(sample))
        if not isinstance(self._levels, Timesteps):
            return self._model(sample.to(self._x), sigma * ones, **self._extra)
        noise = self._model(
            (sample / network_scale(sigma, "vp")).to(self._x), (self._first + place) * ones, **self._extra
        )
        return sample - sigma * noise

    def through(self, original: Callable[..., Any], denoiser: HostDenoiser) -> Callable[..., Any]:
        """The network's `forward`, whose calls go through what the search gives."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            sample, calls = args[0] if args else kwargs.get("x"), denoiser.calls
            if calls is None or not isinstance(sample, Tensor):
                return original(*args, **kwargs)
            return calls(lambda: original(*args, **kwargs), sample, self._conditionings.of(sample, kwargs))

        return forward


def _require_gain(network: Network, setting: Setting) -> None:
    """Raises FlexiffusionError for a model that cannot be cut, and where there is nothing to gain."""
    if problem := why_not_cut(network.unet):
        raise FlexiffusionError(f"search: this model is not supported: {problem}")
    few = distilled(network.unet) or few_steps(setting, network.family or UNKNOWN)
    if few is not None:
        raise FlexiffusionError(f"search: nothing to gain here: {few}")


def _noises(first: Tensor, seed: int) -> Tensor:
    """The user's noise, and that of the other pictures in a batch of this seed, drawn as ComfyUI does: one model, list
    and seed give one search in every host. # (1, C, H, W) -> (IMAGES, C, H, W)"""
    drawn = torch.randn(IMAGES, *first.shape[1:], generator=torch.Generator().manual_seed(seed))
    return torch.cat([first, drawn[1:]])


def _words(progress: Progress) -> str:
    best = ", ".join(f"{error:.2g} of the error of as few plain steps" for error in progress.best.values())
    left = f", {progress.seconds_left:.0f} s left" if progress.seconds_left is not None else ""
    return f"Flexiffusion: {progress.evaluations} schedules tried, the best has {best or 'not been found yet'}{left}"


def _joined(report: str) -> str:
    return ". ".join(report.splitlines())
