"""Devices: whether memory ran out, giving it back, and wall time that includes what the device was given."""

from __future__ import annotations

import gc
import time

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether the device's, or the CPU's, allocator had no more."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def release(device: torch.device) -> None:
    """Give memory that nobody uses back to the device, what a traceback held on to as well."""
    gc.collect()
    make_room(device)


def make_room(device: torch.device) -> None:
    """Give the memory that the device's allocator keeps for later back to it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def clock(device: torch.device) -> float:
    """Seconds, after the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
