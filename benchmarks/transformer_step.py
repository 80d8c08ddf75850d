"""What a partial step at branch -1 of a diffusion transformer takes of a full step, at the full width of real models.

    python -m benchmarks.transformer_step flux|sd35-medium|wan-1.3b [--size 512] [--blocks 2] [--device cuda]

Random weights. The network has only a few blocks of each list, at full width: a full step of the real one is taken to
be what runs outside of the blocks, and as many times a block of each list as the real one has. Time and memory allow no
more on a small machine; `--blocks 0` builds the whole network. Each turn times a full step block by block and then a
partial one; shares are taken turn by turn, medians over the turns. The partial step's time holds all that `Run` does:
predicting (`linear`, from two features) and handing out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.layouts import add_device_options, described, device_of, stopwatch
from benchmarks.partial_step import UnitClock
from flexiffusion.families import FAMILIES
from flexiffusion.layouts import find_layout
from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action

LEVELS = (1.0, 0.9, 0.8)
PLAN = Plan(LEVELS, (FULL, FULL, Action("partial", -1, "linear")), 0)


@dataclass(frozen=True)
class Model:
    """A real model's network: `make` builds one with so many blocks in each list; `inputs` draws what it is told for a
    picture of so many pixels a side."""

    make: Callable[[tuple[int, ...]], nn.Module]
    inputs: Callable[[int], dict[str, Any]]


def _flux(lists: tuple[int, ...]) -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(num_layers=lists[0], num_single_layers=lists[1], guidance_embeds=True)


def _flux_inputs(size: int) -> dict[str, Any]:
    tokens = (size // 16) ** 2
    return {
        "hidden_states": torch.randn(1, tokens, 64),
        "encoder_hidden_states": torch.randn(1, 512, 4096),
        "pooled_projections": torch.randn(1, 768),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(512, 3),
    }


def _sd3(lists: tuple[int, ...]) -> nn.Module:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        num_layers=lists[0],
        num_attention_heads=24,
        attention_head_dim=64,
        caption_projection_dim=1536,
        pos_embed_max_size=384,
        qk_norm="rms_norm",
        dual_attention_layers=tuple(range(min(13, lists[0] - 1))),
    )


def _sd3_inputs(size: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 16, size // 8, size // 8),
        "encoder_hidden_states": torch.randn(1, 333, 4096),
        "pooled_projections": torch.randn(1, 2048),
        "timestep": torch.tensor([500.0]),
    }


def _wan(lists: tuple[int, ...]) -> nn.Module:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(num_layers=lists[0], num_attention_heads=12, ffn_dim=8960)


def _wan_inputs(size: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 16, 5, size // 8, size // 8),
        "encoder_hidden_states": torch.randn(1, 512, 4096),
        "timestep": torch.tensor([500]),
    }


MODELS = {
    "flux": Model(_flux, _flux_inputs),
    "sd35-medium": Model(_sd3, _sd3_inputs),
    "wan-1.3b": Model(_wan, _wan_inputs),
}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=2, help="of each list; 0: as many as the real one has")
    parser.add_argument("--repeats", type=int, default=3)
    add_device_options(parser)
    options = parser.parse_args()
    device, dtype = device_of(options)
    now = stopwatch(options)
    real = FAMILIES[options.model].lists
    built = real if not options.blocks else tuple(max(options.blocks, 4 // len(real)) for _ in real)
    with torch.device(device):
        network = MODELS[options.model].make(built).to(dtype).eval()
    inputs = {
        name: value.to(device, dtype if value.is_floating_point() and name != "timestep" else value.dtype)
        for name, value in MODELS[options.model].inputs(options.size).items()
    }
    layout, sample = find_layout(network), inputs["hidden_states"]

    def forward() -> Tensor:
        output: Tensor = network(**inputs, return_dict=False)[0]
        return output

    shares, fulls, partials = [], [], []
    forward()  # warms up
    for turn in range(options.repeats):
        watched = UnitClock(list(layout.units), device, now)
        began = now()
        forward()
        whole = now() - began
        seconds = watched.seconds()
        lists, first = [], 0
        for count in built:
            lists.append([seconds[unit] for unit in layout.units[first : first + count]])
            first += count
        full = whole - sum(map(sum, lists))
        full += sum(statistics.mean(times) * count for times, count in zip(lists, real, strict=True))
        with Run(network, PLAN, "flow") as run:
            for level in LEVELS[:-1]:
                run.evaluate(level)
                run(forward, sample)
            run.evaluate(LEVELS[-1])
            began = now()
            run(forward, sample)
            partial = now() - began
            assert (run.report.partial, run.report.misses) == (1, 0)
        shares.append(partial / full)
        fulls.append(full)
        partials.append(partial)
        print(f"turn {turn + 1}/{options.repeats}: {partial * 1000:.1f} of {full * 1000:.0f} ms", flush=True)
    print(f"{options.model}, {options.size} px, {described(options)}; blocks built {built}, of the real one {real};")
    print(f"full step {statistics.median(fulls) * 1000:.0f} ms, partial step at branch -1 "
          f"{statistics.median(partials) * 1000:.1f} ms: {statistics.median(shares):.2%}")  # fmt: skip


if __name__ == "__main__":
    main()
