"""What several benchmarks share: networks of the real layouts with random weights, the machine in words, the clock."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from flexiffusion.search.devices import clock
from flexsearch.models.ldm_keys import FAMILIES, FamilyName
from flexsearch.models.single_file import unet_config
from tools.make_random_checkpoint import checkpoint_shape

FAMILY_NAMES: tuple[FamilyName, ...] = tuple(family.name for family in FAMILIES)


def random_unet(family: FamilyName, device: torch.device, dtype: torch.dtype, tiny: bool = False) -> Any:
    """A diffusers U-Net of the real layout, as diffusers initialises it: no weights are zero but biases."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**unet_config(checkpoint_shape(family, tiny)))
    return unet.to(device, dtype).eval().requires_grad_(False)


def add_device_options(parser: argparse.ArgumentParser, wall_only: bool = False) -> None:
    """`wall_only`: of a benchmark that times other processes, or in the tool's own words."""
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(cpu_time=False)
    if not wall_only:
        parser.add_argument("--cpu-time", action="store_true", help="CPU seconds, not wall: on a CPU that others use")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="[float16 on a GPU, else float32]")


def device_of(options: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    device = torch.device(options.device)
    return device, getattr(torch, options.dtype or ("float32" if device.type == "cpu" else "float16"))


def stopwatch(options: argparse.Namespace) -> Callable[[], float]:
    """Seconds: of the wall, after the device has finished its queue, or with --cpu-time of this process's threads."""
    device = torch.device(options.device)
    return time.process_time if options.cpu_time else lambda: clock(device)


def described(options: argparse.Namespace) -> str:
    """Date, device and versions: the line above every table."""
    device, dtype = device_of(options)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()}, {torch.get_num_threads()} thread(s)"
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "diffusers"))
    kind = "CPU time" if options.cpu_time else "wall time"
    dtype_name = str(dtype).removeprefix("torch.")
    return f"{date.today()}, {name}, {dtype_name}, {versions}, Python {platform.python_version()}; {kind}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
