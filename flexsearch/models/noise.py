"""Initial noise: image i is the same in any batch and on any device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def initial_noise(seed: int, indices: Iterable[int], shape: Sequence[int]) -> Tensor:
    """(n, *shape) float32 standard normal on the CPU; each image from its own stream, seeded by (seed, index).

    NumPy's streams, because torch's CPU generator takes 32 bits of its seed: too few for a seed and an index.
    """
    images = [np.random.default_rng([seed, index]).standard_normal(tuple(shape), dtype=np.float32) for index in indices]
    return torch.from_numpy(np.stack(images))
