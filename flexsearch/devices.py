"""Devices: modules that only visit one, how many images fit, peak memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import nn

LARGEST_BATCH = 64
SHARE = 0.5  # of the device's memory that the images of one batch may take, by the estimate below
# Activations of one row at one latent pixel, in units of the U-Net's first width: 26 for SD1.x and SD2.x, 16 for SDXL
# by benchmarks/activation_memory.py, and half as much again for what convolutions work with. Only a start: a batch that
# does not fit is halved.
FLOATS_PER_PIXEL = 40


@contextmanager
def visiting(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """`module` on `device` inside the block, and on the CPU before and after: it takes no memory where it is idle."""
    if device.type == "cpu":
        yield module
        return
    module.to(device)
    try:
        yield module
    finally:
        module.to("cpu")


def total_memory(device: torch.device) -> int:
    """Bytes that the device has in all. The total, not what is free now: a resumed run must choose the same batch."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def automatic_batch(device: torch.device, bytes_per_image: int) -> int:
    """Images to sample together, at most `LARGEST_BATCH`: a power of two, which halves well."""
    fitting = max(1, min(LARGEST_BATCH, int(SHARE * total_memory(device)) // bytes_per_image))
    return 1 << (fitting.bit_length() - 1)


def peak_memory(device: torch.device) -> int:
    """The most bytes at one time: on a GPU of this process's tensors there, on the CPU of the whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        info: Any = psutil.Process().memory_info()
        return int(info.peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_words(count: int) -> str:
    """Bytes as GiB or MiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
