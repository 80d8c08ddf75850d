"""Fréchet distance of feature sets (arXiv 1706.08500, eq. 6) through torchmetrics.

*Relative FID* (arXiv 2409.17566) is the distance to the teacher's own images from the same noise and prompts. It
depends on n: never compare two values at different n, prompts, noise or features (docs/method.md 4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance


class _Given(nn.Module):
    """Hands on features that were extracted before, so that they are extracted once."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class RelativeFid:
    """Distance to one fixed set of reference features (n, d)."""

    def __init__(self, reference: Tensor) -> None:
        self.n = len(reference)
        self.metric = FrechetInceptionDistance(
            feature=_Given(reference.shape[1]), reset_real_features=False, normalize=True
        ).set_dtype(torch.float64)
        self.metric.update(reference.double(), real=True)

    def __call__(self, features: Tensor) -> float:
        """The distance of (n, d) features; n is expected to be that of the reference (ValueError otherwise)."""
        if len(features) != self.n:
            raise ValueError(f"{len(features)} images against {self.n} of the reference: relative FID needs equal n")
        return self._distance(features)

    def _distance(self, features: Tensor) -> float:
        """Infinite for features that are not finite: what diverged must never be the nearest."""
        if not features.isfinite().all():
            return math.inf
        self.metric.reset()
        self.metric.update(features.double(), real=False)
        distance = float(self.metric.compute())
        return max(0.0, distance) if math.isfinite(distance) else math.inf


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Distance of two feature sets of any sizes, (n, d) and (m, d): FID to real data, or the floor between halves."""
    return RelativeFid(reference)._distance(features)
