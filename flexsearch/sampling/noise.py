"""Initial noise: image i is the same in any batch and on any device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def initial_noise(seed: int, indices: Iterable[int], shape: Sequence[int]) -> Tensor:
    """(n, *shape) float32 standard normal on the CPU; each image from its own generator, seeded by (seed, index).

    The seed and the index share one 63-bit number, so two images of any two searches with seeds below 2**31 differ.
    """
    images = []
    for index in indices:
        generator = torch.Generator().manual_seed((seed & 0x7FFFFFFF) << 32 | (index & 0xFFFFFFFF))
        images.append(torch.randn(tuple(shape), generator=generator))
    return torch.stack(images)
