"""Weights that are no numbers: found while a checkpoint is loaded, not after a whole search."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flexsearch.errors import ModelError


def require_finite(place: str, part: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError where one of a part's tensors holds NaN or an infinite value; `part` as in "text encoder".

    `tensors` are those that the network will compute with, after any cast: float32 values above 65,504 are infinite in
    float16. One pass over memory, about half a second for SDXL.
    """
    broken = [name for name, tensor in tensors.items() if not _finite(tensor)]
    if not broken:
        return
    first = tensors[broken[0]]
    count = int((~first.isfinite()).sum())
    if first.dtype == torch.float16 and not first.isnan().any():
        remedy = "Values too large for float16 do that: give --dtype bfloat16 or float32. If that does not help, the "
        remedy += "file is broken: give another version of it"
    else:
        remedy = "It was broken when it was merged or saved: give another version of it"
    raise ModelError(
        place,
        f"{len(broken):,} of the {len(tensors):,} tensors of its {part} hold NaN or infinite values, "
        f"{broken[0]} first ({count:,} of {first.numel():,})",
        remedy,
    )


def _finite(tensor: Tensor) -> bool:
    """Smallest and largest value of a tensor with a NaN are NaN."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    low, high = tensor.aminmax()
    return bool(low.isfinite() and high.isfinite())
