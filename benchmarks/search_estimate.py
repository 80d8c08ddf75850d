"""How long a search where you draw takes on real networks: calls as counted here, times multiply-adds of one call.

    python -m benchmarks.search_estimate [--calls 1500 6000] [--teraflops 20 50 150]

Nothing is timed. One call of a picture, both sides of classifier-free guidance in it, is counted on the meta device,
where the network has its real size and no weights; `--calls` are full calls of one picture, as the report of a search
counts them; `--teraflops` is what a device sustains on such a network. Prints a Markdown table of minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.layouts import random_unet
from flexsearch.models.costs import counted
from flexsearch.models.ldm_keys import FamilyName

SIDES = 2  # of guidance
TOKENS = 77


def unet(family: FamilyName, size: int) -> tuple[nn.Module, Callable[[], Any]]:
    network = random_unet(family, torch.device("meta"), torch.float32)
    latents, time = torch.randn(SIDES, 4, size // 8, size // 8), torch.tensor(500)
    text = torch.randn(SIDES, TOKENS, network.config.cross_attention_dim)
    more = {}
    if network.config.addition_embed_type is not None:  # SDXL
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(SIDES, 1280), "time_ids": torch.randn(SIDES, 6)}
    return network, lambda: network(latents, time, text, **more)


def z_image(size: int) -> tuple[nn.Module, Callable[[], Any]]:
    from diffusers import ZImageTransformer2DModel

    network = ZImageTransformer2DModel().eval()
    latents = [torch.randn(16, 1, size // 8, size // 8) for _ in range(SIDES)]
    text = [torch.randn(2 * TOKENS, 2560) for _ in range(SIDES)]
    return network, lambda: network(latents, torch.full((SIDES,), 0.5), text)


MODELS: dict[str, Callable[[], tuple[nn.Module, Callable[[], Any]]]] = {
    "SD 1.5, 512 px": lambda: unet("sd15", 512),
    "SDXL, 1024 px": lambda: unet("sdxl", 1024),
    "Z-Image, 1024 px": lambda: z_image(1024),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", default=[1500, 6000])
    parser.add_argument("--teraflops", type=float, nargs="+", default=[20.0, 50.0, 150.0])
    arguments = parser.parse_args()
    columns = [(calls, rate) for calls in arguments.calls for rate in arguments.teraflops]
    titles = " | ".join(f"{calls:,} calls,<br>{rate:g} TFLOP/s" for calls, rate in columns)
    print(f"| network | parameters | multiply-adds of a call | {titles} |\n{'|---' * (3 + len(columns))}|")
    for name, make in MODELS.items():
        with torch.device("meta"):
            network, call = make()
            macs = counted(network, call).full
        size = sum(parameter.numel() for parameter in network.parameters())
        minutes = (calls * 2 * macs / (rate * 1e12) / 60 for calls, rate in columns)
        cells = " | ".join(f"{value:,.1f} min" if value < 10 else f"{value:,.0f} min" for value in minutes)
        print(f"| {name} | {size / 1e9:.2f} B | {macs / 1e12:.2f} T | {cells} |", flush=True)


if __name__ == "__main__":
    main()
