"""Paired errors: the candidate's image i against the reference's image i, made from the same noise and prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Errors = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A paired error over `n` images: its mean, the 95 % bootstrap interval of the mean, and the worst tenth's mean."""

    mean: float
    low: float
    high: float
    worst_decile: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "interval": [self.low, self.high],
            "worst_decile": self.worst_decile,
            "n": self.n,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Estimate:
        """The inverse of `to_dict`."""
        low, high = document["interval"]
        return cls(document["mean"], low, high, document["worst_decile"], document["n"])


def squared_error(candidate: Tensor, reference: Tensor) -> Errors:
    """Mean squared difference per image: (n, ...) x (n, ...) -> (n,).

    On features this is the quantity that bounds relative FID from above, up to n / (n - 1) (METHOD.md section 4).
    """
    if candidate.shape != reference.shape:
        raise ValueError(f"shapes differ: {tuple(candidate.shape)} and {tuple(reference.shape)}")
    difference = (candidate.double() - reference.double()).flatten(1)
    return np.asarray(difference.square().mean(dim=1).numpy())


def estimate(errors: Errors) -> Estimate:
    """Mean with its 95 % bootstrap interval over images, and the mean of the worst tenth."""
    low, high = np.percentile(resampled_means(errors), [2.5, 97.5])
    worst = np.sort(errors)[-max(1, len(errors) // 10) :]
    return Estimate(float(errors.mean()), float(low), float(high), float(worst.mean()), len(errors))


def mean_root(errors: Errors) -> float:
    """The mean of the square roots, squared: the mean distance, as a squared error."""
    return float(np.sqrt(errors).mean() ** 2)


def resampled_means(errors: Errors) -> Errors:
    """Means of bootstrap resamples over images. The stream is fixed, so equal n means equal (paired) resamples."""
    picks = np.random.default_rng(0).integers(len(errors), size=(RESAMPLES, len(errors)))
    return np.asarray(errors[picks].mean(axis=1))


def ratio_interval(errors: Errors, rival: Errors) -> tuple[float, float, float]:
    """mean(errors) / mean(rival) with its 95 % paired-bootstrap interval: below 1, the first is the better one."""
    ratios = resampled_means(errors) / resampled_means(rival)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(errors.mean() / rival.mean()), float(low), float(high)
