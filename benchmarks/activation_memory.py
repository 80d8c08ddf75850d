"""What one row of a batch needs while the network runs: the peak of live activations, on the meta device.

    python -m benchmarks.activation_memory

It is where `FLOATS_PER_PIXEL` in flexsearch/devices.py comes from. Attention is taken as fused: its scores are
never stored. Nothing is computed, so it takes seconds at any size.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.layouts import FAMILY_NAMES
from benchmarks.partial_step import told
from flexsearch.devices import FLOATS_PER_PIXEL
from flexsearch.models.model import call_unet
from flexsearch.models.single_file import unet_config
from tools.make_random_checkpoint import checkpoint_shape


class Live(TorchDispatchMode):
    """Bytes of all storages that operations made and that are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.bytes)
        return made

    def _freed(self, key: int, count: int) -> None:
        self.seen.discard(key)
        self.bytes -= count


@torch.inference_mode()
def main() -> None:
    from diffusers import UNet2DConditionModel

    functional.scaled_dot_product_attention = lambda query, *_, **__: torch.empty_like(query)
    print("| family | size | MiB a row, float32 | floats a latent pixel, in units of the first width |")
    print("|---|---|---|---|")
    for family in FAMILY_NAMES:
        shape = checkpoint_shape(family, tiny=False)
        device = torch.device("meta")
        with device:
            unet = UNet2DConditionModel(**unet_config(shape)).eval()
        for size in (512, 1024):
            side = size // 8
            sample, beside = torch.empty(1, 4, side, side, device=device), told(family, 1, device, torch.float32)
            with Live() as live:
                call_unet(unet, sample, 1, beside)
            floats = live.peak / 4 / side**2 / shape.channels
            print(f"| {family} | {size} | {live.peak / 2**20:.0f} | {floats:.1f} |", flush=True)
    print(f"\nIn use: {FLOATS_PER_PIXEL}.")


if __name__ == "__main__":
    main()
