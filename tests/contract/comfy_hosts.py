"""What the ComfyUI node pack runs on: a thin stand-in for the host's wrapper protocol, and the host itself.

Both are a `Host`, so that one set of tests runs on both. The stand-in follows
comfy/samplers.py and comfy/patcher_extension.py in what the pack can see: the order of calls, their arguments, and that
options are copied on their way while objects in them are not.
"""

from __future__ import annotations

import copy
import itertools
import os
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from networks import CONTEXT, TOKENS, build
from torch import Tensor, nn

HIGHEST = 14.6146


def karras(count: int, high: float = HIGHEST, low: float = 0.03) -> list[float]:
    """`count` falling noise levels and the 0 (arXiv 2206.00364, eq. 5)."""
    ends = high ** (1 / 7), low ** (1 / 7)
    return [float((ends[0] + i / (count - 1) * (ends[1] - ends[0])) ** 7) for i in range(count)] + [0.0]


def conditionings(seed: int = 3) -> tuple[Tensor, Tensor]:
    """A positive and a negative text embedding. # (1, TOKENS, CONTEXT) each"""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, TOKENS, CONTEXT, generator=generator) for _ in range(2))  # type: ignore[return-value]


def noise_for(rows: int = 1, size: tuple[int, int] = (16, 16), seed: int = 0) -> Tensor:
    """Every row from a seed of its own, so that row i is the same in every batch. # (rows, 4, *size)

    A random network normalises over few numbers at an eighth of `size`: below (32, 32) that blows rounding up.
    """
    rows_of = [torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(seed + i)) for i in range(rows)]
    return torch.cat(rows_of)


class Calls:
    """The network calls of one sampling, as a hook inside of the middle block sees them."""

    def __init__(self) -> None:
        self.deep: list[bool] = []
        self.rows: list[int] = []

    @contextmanager
    def watching(self, unet: nn.Module) -> Iterator[Calls]:
        inner = next(m for m in unet.middle_block[0].modules() if not list(m.children()))  # type: ignore[index, union-attr]
        entered: list[bool] = []
        hooks = [
            unet.register_forward_pre_hook(lambda module, args: self.rows.append(args[0].shape[0])),
            unet.register_forward_hook(lambda *_: (self.deep.append(bool(entered)), entered.clear())[0]),
            inner.register_forward_hook(lambda *_: entered.append(True)),
        ]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def full(self) -> int:
        return sum(self.deep)

    @property
    def partial(self) -> int:
        return len(self.deep) - sum(self.deep)


def calm(unet: nn.Module) -> nn.Module:
    """Makes a random network's output small: else sampling is chaotic, and rounding would decide what comes out."""
    last = next(m for m in reversed(list(unet.out.modules())) if isinstance(m, nn.Conv2d))  # type: ignore[union-attr, operator]
    last.weight.data.mul_(0.1)
    return unet


# What a test asks of either -----------------------------------------------------------------------------------------


class Host(ABC):
    """A host with a tiny U-Net: a fresh MODEL on it, the U-Net itself, and one sampling."""

    name: str

    @abstractmethod
    def model(self) -> Any:
        """A fresh MODEL on the one network."""

    @abstractmethod
    def split(self) -> tuple[Any, nn.Module]:
        """A MODEL whose two conditionings run side by side, the second on a copy of the network; and that copy."""

    @abstractmethod
    def unet(self) -> nn.Module: ...

    @abstractmethod
    def kept(self, cond: Tensor) -> list[Any]:
        """A conditioning as the guider keeps it."""

    def sample(
        self,
        model: Any,
        sigmas: Sequence[float],
        sampler: str = "euler",
        noise: Tensor | None = None,
        cfg: float = 4.0,
        positive: Sequence[Tensor] | None = None,
        joint: Callable[[float], bool] = lambda sigma: True,
        calls: Calls | None = None,
        latent: Tensor | None = None,
    ) -> Tensor:
        """The latent of one sampling; `joint` says at which noise levels both conditionings fit in one call."""
        noise = noise_for() if noise is None else noise
        latent = torch.zeros_like(noise) if latent is None else latent
        cond, uncond = conditionings()
        with (calls or Calls()).watching(self.unet()), torch.no_grad():
            return self._sample(
                model, sampler, noise, latent, torch.tensor(sigmas), (positive or [cond], [uncond]), cfg, joint
            )

    @abstractmethod
    def _sample(
        self, model: Any, sampler: str, noise: Tensor, latent: Tensor, sigmas: Tensor,
        conds: tuple[Sequence[Tensor], Sequence[Tensor]], cfg: float, joint: Callable[[float], bool],
    ) -> Tensor: ...  # fmt: skip


# The stand-in -------------------------------------------------------------------------------------------------------


class Executor:
    """comfy.patcher_extension.WrapperExecutor: each wrapper is handed the rest of the chain."""

    def __init__(self, original: Callable[..., Any], owner: Any, wrappers: Sequence[Callable[..., Any]]) -> None:
        self.original, self.class_obj, self.wrappers = original, owner, list(wrappers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.original(*args, **kwargs)
        first, *rest = self.wrappers
        return first(Executor(self.original, self.class_obj, rest), *args, **kwargs)


def all_of(options: dict[str, Any], kind: str) -> list[Callable[..., Any]]:
    return [one for key in options.get("wrappers", {}).get(kind, {}).values() for one in key]


def copied(options: Any) -> Any:
    """Dictionaries and lists are copied, what is in them is not."""
    if isinstance(options, dict):
        return {key: copied(value) for key, value in options.items()}
    return list(options) if isinstance(options, list) else options


class BaseModel(nn.Module):
    """comfy.model_base.BaseModel, but for its equation: the best denoiser of white pictures, disturbed by the network.

    A random network alone would leave the noise where it is, and sampling would be chaotic: rounding would decide.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = unet
        self.model_type = SimpleNamespace(name="EPS")
        self.model_sampling = SimpleNamespace(
            sigma_max=torch.tensor(HIGHEST), percent_to_sigma=lambda percent: HIGHEST * (0.03 / HIGHEST) ** percent
        )

    def process_latent_out(self, samples: Tensor) -> Tensor:
        return samples

    def apply_model(self, x: Tensor, sigma: Tensor, context: Tensor, control: Any, options: dict[str, Any]) -> Tensor:
        return Executor(self._apply_model, self, all_of(options, "apply_model"))(
            x, sigma, None, context, control, options
        )

    def _apply_model(
        self, x: Tensor, sigma: Tensor, concat: Any, context: Tensor, control: Any, options: dict[str, Any]
    ) -> Tensor:
        scale = (1 + sigma.view(-1, 1, 1, 1) ** 2) ** 0.5
        timestep = (60 * sigma).round().clamp(0, 999)
        forward = Executor(self._forward, self.diffusion_model, all_of(options, "diffusion_model"))
        return (
            x / scale - sigma.view(-1, 1, 1, 1) * forward(x / scale, timestep, context, None, control, options)
        ) / scale

    def _forward(self, x: Tensor, timestep: Tensor, context: Tensor, y: Any, control: Any, options: Any) -> Tensor:
        return self.diffusion_model(x, timesteps=timestep, context=context)


class Patcher:
    """comfy.model_patcher.ModelPatcher, as far as wrappers and options go."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.wrappers: dict[str, dict[str, list[Any]]] = {}
        self.second: BaseModel | None = None  # a copy for the second device

    def clone(self) -> Patcher:
        clone = Patcher(self.model)
        clone.second = self.second
        clone.model_options, clone.wrappers = copied(self.model_options), copied(self.wrappers)
        return clone

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        self.wrappers.get(kind, {}).pop(key, None)


class Guider:
    """comfy.samplers.CFGGuider. `joint(sigma)`: whether free memory lets both conditionings go in one call there."""

    def __init__(
        self, patcher: Patcher, conds: Sequence[Sequence[Tensor]], cfg: float, joint: Callable[[float], bool]
    ) -> None:
        self.model_patcher, self.cfg, self._joint = patcher, cfg, joint
        self.model_options: dict[str, Any] = {}
        # a new identity for every conditioning at every set_conds; the second list is negative
        sides = [[{"uuid": uuid.uuid4(), "cross_attn": cond} for cond in side] for side in conds]
        self.conds = dict(zip(("positive", "negative"), sides, strict=True))

    def sample(self, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, callback: Any = None) -> Tensor:
        self.model_options = copied(self.model_patcher.model_options)
        self.model_options["transformer_options"]["wrappers"] = copied(self.model_patcher.wrappers)
        outer = Executor(self._outer, self, all_of(self.model_options["transformer_options"], "outer_sample"))
        return outer(noise, latent, sampler, sigmas, None, callback, True, 0, latent_shapes=[latent.shape])

    def _outer(self, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *_: Any, **__: Any) -> Tensor:
        options = copied(self.model_options)
        options["transformer_options"]["sample_sigmas"] = sigmas
        start = latent + noise * sigmas[0]
        return sampler.sampler_function(lambda x, sigma: self._denoised(x, sigma, options), start, sigmas)

    def _denoised(self, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Tensor:
        predict = Executor(self._predict, self, all_of(self.model_options["transformer_options"], "predict_noise"))
        return predict(x, sigma * x.new_ones(x.shape[0]), options, 0)

    def _predict(self, x: Tensor, sigma: Tensor, options: dict[str, Any], seed: int) -> Tensor:
        sides = [self.conds["positive"], *([self.conds["negative"]] if self.cfg != 1 else [])]
        kept = ((side, cond["uuid"], cond["cross_attn"]) for side, conds in enumerate(sides) for cond in conds)
        todo = [*kept][::-1]  # popped from the end
        batches = [todo] if self._joint(float(sigma[0])) else [[one] for one in todo]
        sums = [torch.zeros_like(x) for _ in sides]
        models = [self.model_patcher.model] * len(batches)
        if self.model_patcher.second is not None:
            batches, models = [[one] for one in todo], [self.model_patcher.model, self.model_patcher.second]

        @torch.no_grad()
        def call(batch: Sequence[Any], model: BaseModel) -> Sequence[Tensor]:
            own = copied(options["transformer_options"])
            own |= {"cond_or_uncond": [one[0] for one in batch], "uuids": [one[1] for one in batch], "sigmas": sigma}
            context = torch.cat([one[2].repeat(x.shape[0], 1, 1) for one in batch])
            rows = torch.cat([x] * len(batch))
            return model.apply_model(rows, torch.cat([sigma] * len(batch)), context, None, own).chunk(len(batch))

        with ThreadPoolExecutor(1 if self.model_patcher.second is None else 2) as pool:
            results = [pool.submit(call, *work) for work in zip(batches, models, strict=True)]
        for batch, result in zip(batches, results, strict=True):
            for one, part_of in zip(batch, result.result(), strict=True):
                sums[one[0]] += part_of / len(sides[one[0]])
        return sums[0] if len(sums) == 1 else sums[1] + (sums[0] - sums[1]) * self.cfg


def sample_euler(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    for sigma, following in itertools.pairwise(sigmas):
        x = x + (x - model(x, sigma)) / sigma * (following - sigma)
    return x


def sample_heun(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    for sigma, following in itertools.pairwise(sigmas):
        slope = (x - model(x, sigma)) / sigma
        ahead = x + slope * (following - sigma)
        if following > 0:
            slope = (slope + (ahead - model(ahead, following)) / following) / 2
        x = x + slope * (following - sigma)
    return x


def sample_churned(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    """Euler's with s_churn 1: noise is added before every step, so that each is evaluated above its level."""
    gamma = 1 / (len(sigmas) - 1)
    for sigma, following in itertools.pairwise(sigmas):
        higher = sigma * (1 + gamma)
        x = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * (higher**2 - sigma**2) ** 0.5
        x = x + (x - model(x, higher)) / higher * (following - higher)
    return x


class StandIn(Host):
    """A tiny ldm U-Net in the stand-in."""

    name = "stand-in"

    def __init__(self) -> None:
        self._model = BaseModel(calm(build("compvis-ldm4").unet))

    def model(self) -> Any:
        return Patcher(self._model)

    def split(self) -> tuple[Any, nn.Module]:
        patcher = Patcher(self._model)
        patcher.second = copy.deepcopy(self._model)
        return patcher, patcher.second.diffusion_model

    def unet(self) -> nn.Module:
        return self._model.diffusion_model

    def kept(self, cond: Tensor) -> list[Any]:
        return [{"uuid": uuid.uuid4(), "cross_attn": cond}]

    def _sample(
        self, model: Any, sampler: str, noise: Tensor, latent: Tensor, sigmas: Tensor,
        conds: tuple[Sequence[Tensor], Sequence[Tensor]], cfg: float, joint: Callable[[float], bool],
    ) -> Tensor:  # fmt: skip
        function = {"euler": sample_euler, "heun": sample_heun, "churned": sample_churned}[sampler]
        guider = Guider(model, conds, cfg, joint)
        return guider.sample(noise, latent, SimpleNamespace(sampler_function=function), sigmas)


# The host itself ----------------------------------------------------------------------------------------------------


class ComfyUI(Host):
    """A tiny U-Net of the host's own code in the host's own sampling, in this process. Needs the host's Python."""

    name = "comfyui"

    def __init__(self) -> None:
        checkout = os.environ["COMFYUI_PATH"]
        if checkout not in sys.path:
            sys.path.insert(0, checkout)
        from comfy.cli_args import args

        args.cpu, args.use_pytorch_cross_attention = True, True
        import comfy.model_base
        import comfy.supported_models

        config = comfy.supported_models.SD15(
            {
                "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
                "channel_mult": [1, 2, 2, 2], "num_res_blocks": [2, 2, 2, 2], "transformer_depth": [1] * 6 + [0, 0],
                "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "context_dim": CONTEXT,
                "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
                "use_spatial_transformer": True, "legacy": False,
            }
        )  # fmt: skip
        config.set_inference_dtype(torch.float32, None)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self._model = comfy.model_base.BaseModel(config)
            for name, parameter in self._model.named_parameters():
                # as torch would draw them: the host leaves them unset, since it always loads a checkpoint
                nn.init.normal_(parameter, std=0.05) if parameter.ndim < 2 else nn.init.kaiming_uniform_(parameter, 2.2)
                if ".norm" in name and name.endswith("weight"):
                    nn.init.ones_(parameter)
        calm(self._model.eval().requires_grad_(False).diffusion_model)
        import comfy.model_patcher

        cpu = torch.device("cpu")
        self._patcher = comfy.model_patcher.ModelPatcher(self._model, load_device=cpu, offload_device=cpu)

    def model(self) -> Any:
        return self._patcher.clone()

    def split(self) -> tuple[Any, nn.Module]:
        import comfy.model_management
        import comfy.multigpu

        cpu, second = torch.device("cpu"), torch.device("cpu", 0)  # two names of one device
        made = ComfyUI()._patcher  # with the same weights
        model = self._patcher.clone()
        model.cached_patcher_init = (lambda: made, ())
        devices = comfy.model_management.get_all_torch_devices
        comfy.model_management.get_all_torch_devices = lambda *args, **kwargs: [cpu, second]
        try:
            return comfy.multigpu.create_multigpu_deepclones(model, 2), made.model.diffusion_model
        finally:
            comfy.model_management.get_all_torch_devices = devices

    def unet(self) -> nn.Module:
        return self._model.diffusion_model

    def kept(self, cond: Tensor) -> list[Any]:
        from comfy.sampler_helpers import convert_cond

        return list(convert_cond([[cond, {}]]))

    def _sample(
        self, model: Any, sampler: str, noise: Tensor, latent: Tensor, sigmas: Tensor,
        conds: tuple[Sequence[Tensor], Sequence[Tensor]], cfg: float, joint: Callable[[float], bool],
    ) -> Tensor:  # fmt: skip
        import comfy.model_management
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(*([[one, {}] for one in each] for each in conds))
        guider.set_cfg(cfg)
        at: list[float] = [0.0]
        watched = model.clone()
        guider.model_patcher = watched
        guider.model_options = watched.model_options

        def remember(executor: Any, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Any:
            at[0] = float(sigma[0])
            return executor(x, sigma, *args, **kwargs)

        watched.add_wrapper_with_key("predict_noise", "test", remember)
        free = comfy.model_management.get_free_memory

        def free_memory(device: Any = None, torch_free_too: bool = False) -> Any:
            size = 1e12 if joint(at[0]) else 0
            return (size, size) if torch_free_too else size

        comfy.model_management.get_free_memory = free_memory
        churned = sampler == "churned"
        function = (
            comfy.samplers.ksampler("euler", {"s_churn": 1.0}) if churned else comfy.samplers.sampler_object(sampler)
        )
        try:
            return guider.sample(noise, latent, function, sigmas, disable_pbar=True, seed=0)
        finally:
            comfy.model_management.get_free_memory = free
