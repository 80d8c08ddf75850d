"""What a search minimises: which error, and how those of many images become one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .paired import Errors, mean_root

ErrorName = Literal["latent", "features", "lpips", "rfid", "fid"]
ERRORS: tuple[ErrorName, ...] = get_args(ErrorName)
StatisticName = Literal["mean", "worst-decile"]
STATISTICS: tuple[StatisticName, ...] = get_args(StatisticName)
ReferenceName = Literal["teacher", "converged"]
REFERENCES: tuple[ReferenceName, ...] = get_args(ReferenceName)


@dataclass(frozen=True)
class Objective:
    """latent, features and lpips are paired errors, one an image; rfid, relative FID, and fid, that to real pictures,
    are one number for all of them.

    Paired errors have a heavy tail: one image of sixteen that changes its shape outweighs all others, and the
    arithmetic mean then ranks candidates by that image. A geometric mean forgets it, and a search that minimises that
    makes the tail heavier. The mean of the square roots, which is a mean distance, lies between
    (`benchmarks/fitness.py`). The worst decile is that of the worst tenth of the images.
    """

    error: ErrorName
    statistic: StatisticName = "mean"

    @property
    def paired(self) -> bool:
        return self.error not in ("rfid", "fid")

    @property
    def races(self) -> bool:
        """Whether a candidate's first images tell of it: not of the worst tenth of all of them."""
        return self.paired and self.statistic == "mean"

    def of(self, errors: Errors) -> float:
        """The squared errors of all images (n,) as one."""
        if self.statistic == "mean":
            return mean_root(errors)
        return mean_root(np.sort(errors)[-max(1, len(errors) // 10) :])


def paired_reference(reference: str) -> ReferenceName:
    """What paired errors are measured to: the teacher, where `reference` names real pictures."""
    return next((name for name in REFERENCES if name == reference), "teacher")
