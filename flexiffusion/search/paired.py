"""Paired errors: the candidate's image i against the reference's image i, made from the same noise and prompt.

An error that is not finite counts as infinite wherever it is compared: a diverged picture is never the best one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor  # settings are read, and refused, without it

Errors = NDArray[np.float64]
RESAMPLES = 2000
DIVERGED = 1e30  # the error of a candidate that did not stay finite: larger than any, finite as trial stores want it
AT_ONCE = 1 << 22  # drawn numbers held in memory together

Ratio = tuple[float, float, float]  # mean(errors) / mean(rival), and the ends of its 95 % interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """A paired error over `n` images: its mean, the 95 % bootstrap interval of the mean, and the worst tenth's mean.

    All are infinite where the error of one image is not finite. JSON has no such number: it is written as null.
    """

    mean: float
    low: float
    high: float
    worst_decile: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "mean": finite(self.mean),
            "interval": [finite(self.low), finite(self.high)],
            "worst_decile": finite(self.worst_decile),
            "n": self.n,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Estimate:
        """The inverse of `to_dict`."""
        written = (document["mean"], *document["interval"], document["worst_decile"])
        mean, low, high, worst = (math.inf if value is None else value for value in written)
        return cls(mean, low, high, worst, document["n"])


def finite(value: float) -> float | None:
    """The value as JSON can have it: None where it is not finite."""
    return value if math.isfinite(value) else None


def squared_error(candidate: Tensor, reference: Tensor) -> Errors:
    """Mean squared difference per image: (n, ...) x (n, ...) -> (n,).

    On features this is the quantity that bounds relative FID from above, up to n / (n - 1) (docs/method.md 4).
    """
    if candidate.shape != reference.shape:
        raise ValueError(f"shapes differ: {tuple(candidate.shape)} and {tuple(reference.shape)}")
    difference = (candidate.double() - reference.double()).flatten(1)
    return np.asarray(difference.square().mean(dim=1).numpy())


def estimate(errors: Errors) -> Estimate:
    """Mean with its 95 % bootstrap interval over images, and the mean of the worst tenth."""
    if not np.isfinite(errors).all():
        return Estimate(math.inf, math.inf, math.inf, math.inf, len(errors))
    low, high = np.percentile(resampled_means(errors), [2.5, 97.5])
    worst = np.sort(errors)[-max(1, len(errors) // 10) :]
    return Estimate(float(errors.mean()), float(low), float(high), float(worst.mean()), len(errors))


def mean_root(errors: Errors) -> float:
    """The mean of the square roots, squared: the mean distance, as a squared error."""
    return float(np.sqrt(errors).mean() ** 2)


def resampled_means(errors: Errors) -> Errors:
    """Means of bootstrap resamples over images. The stream is fixed, so equal n means equal (paired) resamples."""
    stream, n = np.random.default_rng(0), len(errors)
    rows = max(1, AT_ONCE // n)
    means = [
        errors[stream.integers(n, size=(min(rows, RESAMPLES - first), n))].mean(axis=1)
        for first in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(means)


def ratio_interval(errors: Errors, rival: Errors) -> Ratio:
    """mean(errors) / mean(rival) with its 95 % paired-bootstrap interval: below 1, the first is the better one.

    Infinite where only the first has an error that is not finite, zero where only the rival has one. Where both have
    one, or the rival is exact on every image, there is no ratio: three NaN.
    """
    diverged = [not np.isfinite(values).all() for values in (errors, rival)]
    if any(diverged) or not rival.any():
        value = math.nan if all(diverged) or not any(diverged) else math.inf if diverged[0] else 0.0
        return value, value, value
    ours, theirs = resampled_means(errors), resampled_means(rival)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample of images on which the rival is exact
        ratios = np.where(theirs > 0, ours / theirs, np.where(ours > 0, np.inf, 1.0))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(errors.mean() / rival.mean()), float(low), float(high)
