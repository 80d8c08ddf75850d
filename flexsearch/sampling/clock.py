"""Wall time that includes what the device was given."""

from __future__ import annotations

import time

import torch


def clock(device: torch.device) -> float:
    """Seconds, after the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
