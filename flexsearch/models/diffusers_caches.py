"""The caches that diffusers itself has for its transformers, as rivals: TaylorSeer and First-Block-Cache.

They are diffusers' own hooks (`enable_cache`), on the same network, in its pipeline's own loop. What they leave out is
not planned but seen: the multiply-adds of every call are counted as it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from flexiffusion.search.denoiser import Calls
from flexsearch.models.checkpoint import CheckpointDenoiser
from flexsearch.models.pipeline import PipelineDenoiser

T = TypeVar("T")

CacheKind = Literal["taylorseer", "first_block_cache"]
# What TaylorSeer predicts: the attention of each block, as diffusers does where nothing is said; the attention and the
# MLP of each block, as its paper does (arXiv 2503.06923, section 3.3); what the network returns, no block being run.
Form = Literal["attention", "attention and MLP", "lite"]
FORMS: tuple[Form, ...] = ("attention", "attention and MLP", "lite")
# Flux' single blocks have no module of an MLP: what is projected out of attention and MLP together is predicted.
ATTENTION_AND_MLP = [r".*blocks\.\d+\.(attn\d?|ff|ff_context|ffn|mlp|proj_mlp|proj_out)"]
WARM_UP = 3  # steps in full at first: diffusers' own value


@dataclass(frozen=True, eq=False)
class DiffusersCache:
    """One of them with its settings; `config` is what `enable_cache` takes.

    `batch`: how many images are sampled together, where one decision is taken for all of them; None: it is the same.
    """

    kind: CacheKind
    label: str
    config: Any  # diffusers has no types
    batch: int | None = None


def taylorseer(form: Form, order: int, interval: int, dtype: torch.dtype) -> DiffusersCache:
    """TaylorSeer (arXiv 2503.06923): one step in `interval` in full, in the others a Taylor series of this order."""
    from diffusers import TaylorSeerCacheConfig

    config = TaylorSeerCacheConfig(
        cache_interval=interval,
        disable_cache_before_step=WARM_UP,
        max_order=order,
        taylor_factors_dtype=dtype,
        cache_identifiers=ATTENTION_AND_MLP if form == "attention and MLP" else None,
        use_lite_mode=form == "lite",
    )
    return DiffusersCache("taylorseer", f"TaylorSeer, {form}, order {order}, one full step in {interval}", config)


def first_block_cache(threshold: float) -> DiffusersCache:
    """First-Block-Cache: where the first block's change differs by less than `threshold`, relatively, from that of the
    last full call, the other blocks' is taken from there. Each image decides for itself."""
    from diffusers import FirstBlockCacheConfig

    label = f"First-Block-Cache, threshold {threshold:.3g}"
    return DiffusersCache("first_block_cache", label, FirstBlockCacheConfig(threshold=threshold), batch=1)


class Meter:
    """What the network calls of one image set took in multiply-adds."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, int]] = []  # multiply-adds for one image, and how many images

    def add(self, macs: float, images: int) -> None:
        """One call for so many images."""
        self._calls.append((macs / images, images))

    def macs(self, images: int) -> float:
        """Of one of so many images, on average."""
        return sum(macs * count for macs, count in self._calls) / images

    @property
    def full(self) -> float:
        """The share of the calls that ran as much as the costliest did."""
        most = max(macs for macs, _ in self._calls)
        return sum(count for macs, count in self._calls if macs == most) / sum(count for _, count in self._calls)


class CachingDenoiser(CheckpointDenoiser):
    """A pipeline's denoiser whose network has one of these caches on it, from the first evaluation until `close`.

    The steps of one trajectory come one after the other, and no other's between them: a place above the last one begins
    another, with an empty cache. `meter`, where given, is told of every call; counting takes time.
    """

    def __init__(self, denoiser: PipelineDenoiser, cache: DiffusersCache, meter: Meter | None = None) -> None:
        self.model, self.denoiser, self.cache, self.meter = denoiser.model, denoiser, cache, meter
        self._last = -1

    def taken(self, images: Sequence[int]) -> CachingDenoiser:
        return CachingDenoiser(self.denoiser.taken(images), self.cache, self.meter)

    def __call__(self, sample: Tensor, place: int, images: slice, run: Calls | None) -> Tensor:
        if place >= self._last:
            self.close()
            self.denoiser.loop(images)  # opened before the cache is there: the call that opens it is no step
            self.denoiser.model.network.enable_cache(self.cache.config)
        self._last = place
        calls = None if self.meter is None else _Counting(self.meter, len(sample))
        return self.denoiser(sample, place, images, calls)

    def close(self) -> None:
        """Takes the cache off the network."""
        self._last = -1
        if self.denoiser.model.network.is_cache_enabled:
            self.denoiser.model.network.disable_cache()


@dataclass(frozen=True)
class _Counting:
    """A `Calls` that counts."""

    meter: Meter
    images: int

    def __call__(self, forward: Callable[[], T], sample: Tensor, chunks: Sequence[Hashable] = (0,)) -> T:
        # the CPU's fused attention would count as nothing
        kernel = sdpa_kernel(SDPBackend.MATH) if sample.device.type == "cpu" else nullcontext()
        with kernel, _Flops() as counter:
            output = forward()
        self.meter.add(counter.total / 2, self.images)
        return output


class _Flops(TorchDispatchMode):
    """Counts as `FlopCounterMode` does, but not by module, which takes longer."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        flops = flop_registry.get(func.overloadpacket)
        if flops is None:
            with self:  # in inference mode operations come whole, such as `linear`
                parts = func.decompose(*args, **given)
            return func(*args, **given) if parts is NotImplemented else parts
        output = func(*args, **given)
        self.total += flops(*args, **given, out_val=output)
        return output
