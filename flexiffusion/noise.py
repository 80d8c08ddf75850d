"""Noise levels: those that a model knows, and the hand-made ways of spacing a few of them.

A level is a sigma. For "vp" models (variance preserving: epsilon and v prediction) it is sqrt((1 - abar) / abar), as in
k-diffusion and the same number in every host: a noisy sample is y = clean + sigma * noise. For "flow" models (rectified
flow, arXiv 2209.03003) it is s in (0, 1]: y = (1 - s) * clean + s * noise.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from .schedule import NoiseKind as NoiseKind

Spacing = Literal["uniform", "karras", "logsnr", "quadratic"]
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)


@dataclass(frozen=True)
class NoiseLevels:
    """A model's noise levels, rising. A candidate's steps are *places* on this list, counted from 0.

    Of a checkpoint with discrete training timesteps, place and timestep are the same number.
    """

    values: tuple[float, ...]
    kind: NoiseKind = "vp"

    @classmethod
    def variance_preserving(cls, alphas_cumprod: Iterable[float]) -> NoiseLevels:
        """The levels of a diffusion with these cumulative alphas (abar), one a training timestep, falling."""
        return cls(tuple(math.sqrt((1 - abar) / abar) for abar in alphas_cumprod))

    def __len__(self) -> int:
        return len(self.values)

    def sigma(self, place: int) -> float:
        return self.values[place]

    def place(self, sigma: float) -> int:
        """The place whose level is nearest to `sigma` in its logarithm (what ComfyUI's discrete models pick)."""
        if not (sigma > 0 and math.isfinite(sigma)):
            raise ValueError(f"a noise level must be positive and finite, not {sigma}")
        wanted = math.log(sigma)
        above = bisect.bisect_left(self._logs, wanted)
        return min(
            (place for place in (above - 1, above) if 0 <= place < len(self)),
            key=lambda place: abs(self._logs[place] - wanted),
        )

    @cached_property
    def _logs(self) -> tuple[float, ...]:
        """Natural logarithms of all sigmas, rising."""
        return tuple(math.log(sigma) for sigma in self.values)

    def sigmas(self, places: Sequence[int]) -> tuple[float, ...]:
        return tuple(self.values[place] for place in places)


def spaced_places(levels: NoiseLevels, count: int, spacing: Spacing) -> tuple[int, ...]:
    """`count` distinct places, falling, from the noisiest on; the jump after the last goes to zero noise.

    - `uniform`: even in place, which is time; diffusers' "linspace" for DPM-Solver: round(linspace(0, T-1, count + 1)),
      without 0;
    - `karras`: sigma^(1/7) evenly from sigma_max to sigma_min (arXiv 2206.00364, eq. 5, rho = 7);
    - `logsnr`: log sigma evenly from sigma_max to sigma_min (arXiv 2206.00927, section 3.4);
    - `quadratic`: the square of even numbers, as DDIM's (arXiv 2010.02502, appendix D.3), from the noisiest on.

    Steps that fall on one place are moved apart by single places. Raises ValueError for a count outside 1..len(levels).
    """
    last = len(levels) - 1
    if not 1 <= count <= len(levels):
        raise ValueError(f"cannot place {count} steps on {len(levels)} noise levels")
    if spacing == "quadratic":
        wanted = (np.linspace(0, math.sqrt(last), count + 1) ** 2).round().astype(int)[:0:-1].tolist()
    elif spacing == "uniform":
        wanted = np.linspace(0, last, count + 1).round().astype(int)[:0:-1].tolist()
    else:
        high, low = levels.sigma(last), levels.sigma(0)
        ramp = [i / max(1, count - 1) for i in range(count)]
        if spacing == "karras":
            roots = (high ** (1 / 7), low ** (1 / 7))
            sigmas = [(roots[0] + r * (roots[1] - roots[0])) ** 7 for r in ramp]
        else:
            sigmas = [math.exp(math.log(high) + r * (math.log(low) - math.log(high))) for r in ramp]
        wanted = [levels.place(sigma) for sigma in sigmas]
    return distinct(wanted, last)


def distinct(places: Sequence[int], first: int) -> tuple[int, ...]:
    """The list made strictly falling, from at most `first` to at least 0, by the smallest moves down."""
    result: list[int] = []
    for position, place in enumerate(places):
        ceiling = first if not result else result[-1] - 1
        floor = len(places) - 1 - position  # leaves room for those still to come
        result.append(max(min(place, ceiling), floor))
    return tuple(result)


def network_scale(sigma: float, kind: NoiseKind) -> float:
    """What a noisy sample is divided by before the network sees it.

    For "vp" sqrt(1 + sigma^2), which gives it unit variance (arXiv 2206.00364, table 1); a "flow" model sees the sample
    as it is.
    """
    return math.sqrt(1 + sigma**2) if kind == "vp" else 1.0


def initial_scale(sigma: float, kind: NoiseKind) -> float:
    """What standard normal noise is multiplied by to be a sample at the first level, where nothing but noise is seen.

    For "vp" sqrt(1 + sigma^2), so that the network's input is the noise itself; for "flow" s.
    """
    return network_scale(sigma, kind) if kind == "vp" else sigma
