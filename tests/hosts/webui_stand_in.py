"""Thin stand-ins of the WebUI's objects around an LDM U-Net: its CFG denoiser, its sampler objects, its loop.

Written from what WEBUI.md tells about the hosts, not from their code. Samplers are textbook ones in the hosts' calling
convention; the hosts' own run in test_webui_host.py.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import drawn_schedules
import torch
from contract.networks import CONTEXT, SPATIAL, TOKENS, ldm_network
from torch import Tensor, nn

from flexiffusion.host import SamplingReport
from flexiffusion.schedule import Schedule
from webui_extension.network import network_of
from webui_extension.sampling import Sampling as Attached
from webui_extension.sampling import begin_evaluation

ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()
LOG_SIGMAS = (((1 - ALPHAS_CUMPROD.double()) / ALPHAS_CUMPROD.double()).log() / 2).tolist()


def sigma_of(timestep: float) -> float:
    low = math.floor(timestep)
    part = timestep - low
    return math.exp((1 - part) * LOG_SIGMAS[low] + part * LOG_SIGMAS[min(low + 1, 999)])


BRANCHES = 4


def small_network(levels: int = 2, seed: int = 0) -> nn.Module:
    """An LDM U-Net of 2 x `levels` branches, with no weight at zero."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        unet = ldm_network(
            attention_resolutions=[1, 2], channel_mult=[1] * levels, num_res_blocks=1, num_heads=2, **SPATIAL
        )
        unet.eval().requires_grad_(False)
        for parameter in unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return unet


class Interrupted(BaseException):
    """The hosts' interrupt is a BaseException too."""


def segments(pattern: str, branch: int = 2, predictor: Any = "reuse", **more: Any) -> Schedule:
    """A schedule of the segments that a text draws: "FPP FPNN"."""
    return drawn_schedules.schedule(drawn_schedules.segments(pattern, branch, predictor), branches=BRANCHES, **more)


def own_levels(*levels: tuple[float, str], **more: Any) -> Schedule:
    """A steps plan: (12.0, "F"), (6.0, "P"), ..."""
    return drawn_schedules.schedule(drawn_schedules.steps(*levels, branch=2), "own", BRANCHES, **more)


class SdModel:
    """`shared.sd_model` of AUTOMATIC1111, or of Forge with `forge`."""

    def __init__(self, unet: nn.Module, forge: bool = False, checkpoint: str = "first", sha256: str | None = None):
        wrapped = SimpleNamespace(diffusion_model=unet, conditioning_key="crossattn")
        if forge:
            self.forge_objects = SimpleNamespace(unet=SimpleNamespace(model=wrapped))
        else:
            self.model = wrapped
        self.alphas_cumprod = ALPHAS_CUMPROD
        self.sd_checkpoint_info = SimpleNamespace(name=checkpoint, sha256=sha256)


class Denoiser(nn.Module):
    """The hosts' CFGDenoiser. `conds` rows of conditioning a picture (AND), then one uncond.

    order: "joint", "split", or "forge" (joint, unconds first, said in transformer_options)
    drop_below: noise level below which the unconds are left out (NGMS); in timesteps for samplers of those
    """

    def __init__(self, host: WebUI, timesteps: bool) -> None:
        super().__init__()
        self.host = host
        self.timesteps = timesteps
        self.inner_model = SimpleNamespace(inner_model=host.sd_model)
        self.step = 0
        self.asked: list[float] = []
        self.steps_seen: list[int] = []

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor, uncond: Tensor, conds: int = 1) -> Tensor:
        host = self.host
        if host.before_evaluation is not None:
            host.before_evaluation(self)  # the refiner's place
        host.begin_evaluation(self)
        value = float(sigma[0])
        level = sigma_of(value) if self.timesteps else value
        self.asked.append(level)
        self.steps_seen.append(self.step)
        scale = 1.0 if self.timesteps else 1 / math.sqrt(level**2 + 1)
        timestep = value if self.timesteps else 999 * level / (level + 1)
        rows = x.shape[0]
        x_in = torch.cat([x] * conds)
        with_uncond = level >= host.drop_below
        out = self._network(x_in * scale, x * scale, timestep, cond, uncond if with_uncond else None)
        eps_cond = torch.stack(out[0].chunk(conds)).mean(0)
        eps = out[1] + 3 * (eps_cond - out[1]) if with_uncond else eps_cond
        self.step += 1
        assert eps.shape[0] == rows
        return eps if self.timesteps else x - level * eps

    def _network(
        self, conds: Tensor, unconds: Tensor, timestep: float, cond: Tensor, uncond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        def call(x: Tensor, context: Tensor, **more: Any) -> Tensor:
            return self.host.unet(x, torch.full((len(x),), timestep), context=context, **more)

        rows = len(unconds)
        if self.host.order == "split":
            parts = [call(x, c) for x, c in zip(conds.split(rows), cond.split(rows), strict=True)]
            return torch.cat(parts), call(unconds, uncond) if uncond is not None else torch.cat(parts)
        if self.host.order == "forge":
            marks = ([1] if uncond is not None else []) + [0] * (len(conds) // rows)
            x, context = (conds, cond) if uncond is None else (torch.cat([unconds, conds]), torch.cat([uncond, cond]))
            out = call(x, context, transformer_options={"cond_or_uncond": marks})
            return (out, out) if uncond is None else (out[rows:], out[:rows])
        if uncond is None:
            out = call(conds, cond)
            return out, out
        out = call(torch.cat([conds, unconds]), torch.cat([cond, uncond]))
        return out[: len(conds)], out[len(conds) :]


def euler(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
        callback({"i": i, "x": x, "denoised": denoised})
        x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


def heun(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    ones = x.new_ones(len(x))
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i] * ones, **extra_args)) / sigmas[i]
        callback({"i": i, "x": x})
        ahead = x + d * (sigmas[i + 1] - sigmas[i])
        if sigmas[i + 1] > 0:
            d = (d + (ahead - model(ahead, sigmas[i + 1] * ones, **extra_args)) / sigmas[i + 1]) / 2
            ahead = x + d * (sigmas[i + 1] - sigmas[i])
        x = ahead
    return x


def midpoint(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    """Second order with a level between two of the list (DPM2, DPM++ SDE)."""
    ones = x.new_ones(len(x))
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i] * ones, **extra_args)) / sigmas[i]
        callback({"i": i, "x": x})
        if sigmas[i + 1] > 0:
            middle = (sigmas[i] * sigmas[i + 1]).sqrt()
            between = x + d * (middle - sigmas[i])
            d = (between - model(between, middle * ones, **extra_args)) / middle
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def ddim(
    model: Any, x: Tensor, timesteps: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    abar = model.inner_model.inner_model.alphas_cumprod
    for i in range(len(timesteps) - 1):
        index = len(timesteps) - 1 - i
        eps = model(x, timesteps[index].item() * x.new_ones(len(x)), **extra_args)
        here, after = abar[timesteps[index]], abar[timesteps[index - 1]]
        x = after.sqrt() * (x - (1 - here).sqrt() * eps) / here.sqrt() + (1 - after).sqrt() * eps
        callback({"i": i, "x": x})
    return x


def plms(
    model: Any, x: Tensor, timesteps: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    """Two evaluations in the first step, before the first callback, as PLMS has them."""
    ones = x.new_ones(len(x))
    for i in range(len(timesteps) - 1):
        index = len(timesteps) - 1 - i
        eps = model(x, timesteps[index].item() * ones, **extra_args)
        if i == 0:
            eps = (eps + model(x, timesteps[max(index - 1, 0)].item() * ones, **extra_args)) / 2
        x = x - 0.01 * eps
        callback({"i": i, "x": x})
    return x


def unipc(
    model: Any,
    x: Tensor,
    timesteps: Tensor,
    extra_args: Any = None,
    callback: Any = None,
    disable: Any = None,
    is_img2img: bool = False,
) -> Any:
    """Reads nothing but the number of its timesteps and where they end, and places them between the integers."""
    start = float(timesteps[-1]) if is_img2img else 999.0
    for i in range(len(timesteps)):
        value = start * (1 - i / len(timesteps)) + 0.37
        x = x - 0.01 * model(x, min(value, 998.9) * x.new_ones(len(x)), **extra_args)
        callback({"i": i, "x": x})
    return x


def dpm_fast(
    model: Any,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    n: int,
    extra_args: Any = None,
    callback: Any = None,
    disable: Any = None,
) -> Any:
    sigmas = torch.logspace(math.log10(sigma_max), math.log10(sigma_min), n)
    return euler(model, x, torch.cat([sigmas, torch.zeros(1)]), extra_args, callback)


def restart_sampler(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    """Makes a list of its own of what it is given, and goes up again in the middle."""
    again = torch.cat([sigmas[:4], sigmas[2:]])
    return euler(model, x, again, extra_args, callback)


def sample_ode_bosh3(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    """Reads only where the list begins and ends, and chooses its steps between by itself."""
    own = torch.cat([torch.logspace(math.log10(float(sigmas[0])), math.log10(float(sigmas[-2])), 12), torch.zeros(1)])
    return euler(model, x, own, extra_args, callback)


SECOND_ORDER = {heun, midpoint}
LISTS = (euler, heun, midpoint, ddim, plms)  # those that take a list


class SamplerObject:
    """What `p.sampler` is: the hosts look at the function's signature and hand it what it names."""

    def __init__(self, host: WebUI, func: Callable[..., Any]) -> None:
        self.func = func
        self.config = SimpleNamespace(name=func.__name__, options={"second_order": func in SECOND_ORDER})
        self.host = host
        self.timesteps = func in (ddim, plms, unipc)
        self.model_wrap_cfg = Denoiser(host, self.timesteps)
        self.progress: list[int] = []
        if self.timesteps:
            self.get_timesteps = self._timesteps
        else:
            self.get_sigmas = self._sigmas

    def _sigmas(self, p: Any, steps: int) -> Tensor:
        ramp = torch.linspace(0, 1, steps)
        sigmas = (14.6146 ** (1 / 7) + ramp * (0.0291675 ** (1 / 7) - 14.6146 ** (1 / 7))) ** 7
        return torch.cat([sigmas, torch.zeros(1)])

    def _timesteps(self, p: Any, steps: int) -> Tensor:
        return torch.clip(torch.tensor(range(0, 1000, 1000 // steps)) + 1, 0, 999)

    def sample(self, p: Any, x: Tensor, denoise: float | None = None) -> Tensor:
        parameters = inspect.signature(self.func).parameters
        steps = p.steps
        kept = steps if denoise is None else int(denoise * steps) + 1
        more: dict[str, Any] = {}
        if self.timesteps:
            timesteps = self.get_timesteps(p, steps)
            more["timesteps"] = timesteps if denoise is None else timesteps[:kept]
            if denoise is not None and "is_img2img" in parameters:
                more["is_img2img"] = True
        else:
            sigmas = self.get_sigmas(p, steps)[-kept - 1 :]
            x = x * sigmas[0]
            if "sigmas" in parameters:
                more["sigmas"] = sigmas
            else:
                more |= {"sigma_min": 0.03, "sigma_max": 14.6, "n": steps}
        self.model_wrap_cfg.step = 0
        with torch.no_grad():
            return self.func(
                self.model_wrap_cfg,
                x,
                extra_args=self.host.extra_args(len(x)),
                callback=lambda state: self.progress.append(state["i"]),
                disable=True,
                **more,
            )


class WebUI:
    """One host with an LDM U-Net loaded."""

    def __init__(self, forge: bool = False, sha256: str | None = None) -> None:
        self.unet: Any = small_network()
        self.sd_model = SdModel(self.unet, forge, sha256=sha256)
        self.order = "forge" if forge else "joint"
        self.conds = 1
        self.drop_below = 0.0
        self.before_evaluation: Callable[[Denoiser], None] | None = None
        self.begin_evaluation: Callable[[Denoiser], None] = begin_evaluation
        self.warnings: list[str] = []
        self.outcomes: list[SamplingReport] = []
        self.skipped: list[int] = []
        generator = torch.Generator().manual_seed(5)
        self._contexts = torch.randn(8, TOKENS, CONTEXT, generator=generator)

    def extra_args(self, rows: int) -> dict[str, Any]:
        cond = self._contexts[: self.conds].repeat_interleave(rows, 0)
        return {"cond": cond, "uncond": self._contexts[7:].repeat(rows, 1, 1), "conds": self.conds}

    def noise(self, rows: int = 1, size: tuple[int, int] = (8, 8), seed: int = 0) -> Tensor:
        """Each row from its own seed, as the hosts draw it."""
        drawn = [torch.randn(4, *size, generator=torch.Generator().manual_seed(seed + i)) for i in range(rows)]
        return torch.stack(drawn)

    def attach(self, sampler: SamplerObject, schedule: Schedule, mapping: Any = "position") -> Attached:
        attached = Attached(
            sampler,
            schedule,
            mapping,
            lambda: network_of(self.sd_model),
            (),
            self.warnings.append,
            self.warnings.append,
            self.outcomes.append,
            self.skipped.append,
        )
        attached.attach()
        return attached

    def run(
        self,
        schedule: Schedule | None,
        func: Callable[..., Any] = euler,
        steps: int = 8,
        x: Tensor | None = None,
        denoise: float | None = None,
        mapping: Any = "position",
    ) -> tuple[Tensor, SamplerObject]:
        """One picture's latent with a fresh sampler object; `schedule` None: without us."""
        sampler = SamplerObject(self, func)
        if schedule is not None:
            self.attach(sampler, schedule, mapping)
        latent = sampler.sample(SimpleNamespace(steps=steps), self.noise() if x is None else x, denoise)
        return latent, sampler


class Counter:
    """Real executions, by hooks of torch on two convolutions: one that every call runs, one deep inside."""

    def __init__(self, unet: Any) -> None:
        self.calls = self.full = 0
        deep = next(module for module in unet.middle_block.modules() if isinstance(module, nn.Conv2d))
        self._handles = [
            unet.out[-1].register_forward_hook(lambda *_: self._add("calls")),
            deep.register_forward_hook(lambda *_: self._add("full")),
        ]

    def _add(self, name: str) -> None:
        setattr(self, name, getattr(self, name) + 1)

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
