"""Noise levels: the training timesteps of a model as sigmas, and the hand-made ways of spacing a few of them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

Spacing = Literal["uniform", "karras", "logsnr", "quadratic"]
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)


@dataclass(frozen=True)
class NoiseSchedule:
    """The cumulative alphas (abar) of a variance-preserving diffusion, one per training timestep, falling."""

    alphas_cumprod: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def sigma(self, timestep: int) -> float:
        """sqrt((1 - abar) / abar), as in k-diffusion: the same number in every host."""
        abar = self.alphas_cumprod[timestep]
        return math.sqrt((1 - abar) / abar)

    def timestep(self, sigma: float) -> int:
        """The training timestep whose level is nearest to `sigma` in log-SNR (what ComfyUI's discrete models pick)."""
        if not (sigma > 0 and math.isfinite(sigma)):
            raise ValueError(f"a noise level must be positive and finite, not {sigma}")
        wanted = math.log(sigma)
        above = bisect.bisect_left(self._logs, wanted)
        return min(
            (timestep for timestep in (above - 1, above) if 0 <= timestep < len(self)),
            key=lambda timestep: abs(self._logs[timestep] - wanted),
        )

    @cached_property
    def _logs(self) -> tuple[float, ...]:
        """Natural logarithms of all sigmas, rising."""
        return tuple(math.log(self.sigma(timestep)) for timestep in range(len(self)))

    def sigmas(self, timesteps: Sequence[int]) -> tuple[float, ...]:
        return tuple(self.sigma(timestep) for timestep in timesteps)


def spaced_timesteps(schedule: NoiseSchedule, count: int, spacing: Spacing) -> tuple[int, ...]:
    """`count` distinct training timesteps, falling, from the noisiest on; the jump after the last goes to zero noise.

    - `uniform`: even in time, diffusers' "linspace" for DPM-Solver: round(linspace(0, T-1, count + 1)), without 0;
    - `karras`: sigma^(1/7) evenly from sigma_max to sigma_min (arXiv 2206.00364, eq. 5, rho = 7);
    - `logsnr`: log sigma evenly from sigma_max to sigma_min (arXiv 2206.00927, section 3.4);
    - `quadratic`: the square of even numbers, as DDIM's (arXiv 2010.02502, appendix D.3), from the noisiest on.

    Levels that fall on one timestep are moved apart by single timesteps. Raises ValueError for a count outside 1..T.
    """
    last = len(schedule) - 1
    if not 1 <= count <= len(schedule):
        raise ValueError(f"cannot place {count} steps on {len(schedule)} training timesteps")
    if spacing == "quadratic":
        wanted = (np.linspace(0, math.sqrt(last), count + 1) ** 2).round().astype(int)[:0:-1].tolist()
    elif spacing == "uniform":
        wanted = np.linspace(0, last, count + 1).round().astype(int)[:0:-1].tolist()
    else:
        high, low = schedule.sigma(last), schedule.sigma(0)
        ramp = [i / max(1, count - 1) for i in range(count)]
        if spacing == "karras":
            roots = (high ** (1 / 7), low ** (1 / 7))
            sigmas = [(roots[0] + r * (roots[1] - roots[0])) ** 7 for r in ramp]
        else:
            sigmas = [math.exp(math.log(high) + r * (math.log(low) - math.log(high))) for r in ramp]
        wanted = [schedule.timestep(sigma) for sigma in sigmas]
    return distinct(wanted, last)


def distinct(timesteps: Sequence[int], first: int) -> tuple[int, ...]:
    """The list made strictly falling, from at most `first` to at least 0, by the smallest moves down."""
    result: list[int] = []
    for position, timestep in enumerate(timesteps):
        ceiling = first if not result else result[-1] - 1
        floor = len(timesteps) - 1 - position  # leaves room for those still to come
        result.append(max(min(timestep, ceiling), floor))
    return tuple(result)
