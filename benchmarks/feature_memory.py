"""What the remembered features of one prompt take for transformers of full size, at usual sizes of pictures and videos.

    python -m benchmarks.feature_memory [flux ...]

Counted on the meta device, where networks have no weights: nothing is computed, and `Run` tells its cache as it would
anywhere. In bfloat16, at branch -1 with `linear`, which keeps two full steps. With a negative prompt it is twice that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.transformer_step import MODELS, PLAN
from flexiffusion.families import FAMILIES
from flexiffusion.run import Run


class Setting(NamedTuple):
    """`size` in words; the network of full size, and what it is called with."""

    size: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]


def _stepped(name: str, side: int) -> Setting:
    model = MODELS[name]
    return Setting(
        f"{side} x {side}", lambda: model.make(FAMILIES[name].lists), lambda: model.inputs(side)
    )  # fmt: skip


def _diffusers(name: str, **config: Any) -> nn.Module:
    import diffusers

    made: nn.Module = getattr(diffusers, name)(**config)
    return made


def _qwen() -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 83 * 83, 64),
        "encoder_hidden_states": torch.randn(1, 512, 3584),
        "timestep": torch.ones(1),
        "img_shapes": [[(1, 83, 83)]],
    }


def _wan(width: int, height: int, frames: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8),
        "encoder_hidden_states": torch.randn(1, 512, 4096),
        "timestep": torch.ones(1),
    }


def _ltx(width: int, height: int, frames: int) -> dict[str, Any]:
    latent = ((frames - 1) // 8 + 1, height // 32, width // 32)
    return {
        "hidden_states": torch.randn(1, latent[0] * latent[1] * latent[2], 128),
        "encoder_hidden_states": torch.randn(1, 128, 4096),
        "timestep": torch.ones(1),
        "encoder_attention_mask": torch.ones(1, 128),
        "num_frames": latent[0],
        "height": latent[1],
        "width": latent[2],
    }


SMALL_WAN = {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960}
SETTINGS: dict[str, Setting] = {
    "flux": _stepped("flux", 1024),
    "sd35-medium": _stepped("sd35-medium", 1024),
    "qwen-image": Setting("1328 x 1328", lambda: _diffusers("QwenImageTransformer2DModel"), _qwen),
    "wan-1.3b": Setting(
        "832 x 480, 81 frames",
        lambda: _diffusers("WanTransformer3DModel", **SMALL_WAN),
        lambda: _wan(832, 480, 81),
    ),
    "wan-14b": Setting("832 x 480, 81 frames", lambda: _diffusers("WanTransformer3DModel"), lambda: _wan(832, 480, 81)),
    "wan-14b, 720p": Setting(
        "1280 x 720, 81 frames", lambda: _diffusers("WanTransformer3DModel"), lambda: _wan(1280, 720, 81)
    ),
    "ltx": Setting(
        "704 x 480, 161 frames", lambda: _diffusers("LTXVideoTransformer3DModel"), lambda: _ltx(704, 480, 161)
    ),
}


@torch.inference_mode()
def taken(setting: Setting) -> int:
    """Bytes of the cache of a run with one prompt."""
    with torch.device("meta"):
        network, inputs = setting.make().to(torch.bfloat16).eval(), setting.inputs()
    inputs = {
        name: value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1 else value
        for name, value in inputs.items()
    }
    with Run(network, PLAN, "flow") as run, torch.device("meta"):
        for level in PLAN.levels:
            run.evaluate(level)
            run(lambda: network(**inputs, return_dict=False), inputs["hidden_states"])
        assert (run.report.full, run.report.partial, run.report.misses) == (2, 1, 0)
        return run.report.cache_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[[], *SETTINGS])
    names = parser.parse_args().name or SETTINGS
    print("| network | size | one prompt | with a negative one |\n|---|---|---|---|")
    for name in names:
        mebibytes = taken(SETTINGS[name]) / 2**20
        print(f"| {name} | {SETTINGS[name].size} | {mebibytes:,.0f} MiB | {2 * mebibytes:,.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
