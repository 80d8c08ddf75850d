"""Write a single-file checkpoint with random weights in the original LDM layout, to test and time what loads it.

    python -m tools.make_random_checkpoint sd15|sd21|sdxl --out FILE.safetensors [--tiny] [--prediction v_prediction]

Full size: 2.1, 2.6 and 6.9 GB in float16. Tiny: the same blocks and layers, 32 channels wide. Convolutions that
training starts at zero get small values instead, so that what comes out depends on every block. The pictures are noise,
of course.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from flexsearch.models.ldm_keys import FAMILIES, CheckpointShape, FamilyName
from flexsearch.models.prediction import SD2_BIAS

# What LDM initialises with zeros (`zero_module`): the ends of residual branches.
ZERO_INITIALISED = (".out_layers.3.weight", ".proj_out.weight")
RESIDUAL_ENDS = (".to_out.0.weight", ".ff.net.2.weight", ".out_proj.weight", ".mlp.c_proj.weight", ".mlp.fc2.weight")


def checkpoint_shape(name: FamilyName, tiny: bool) -> CheckpointShape:
    """The real widths of a family, or tiny ones with the same blocks."""
    family = next(family for family in FAMILIES if family.name == name)
    if not tiny:
        return CheckpointShape(family, 320, (128, 256, 512, 512), family.texts)
    texts = tuple(dataclasses.replace(text, width=32 * (i + 1)) for i, text in enumerate(family.texts))
    return CheckpointShape(family, 32, (32, 32, 32, 32), texts)


def random_tensors(
    shape: CheckpointShape,
    prediction: Literal["epsilon", "v_prediction"] = "epsilon",
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Every tensor of the checkpoint. SD2.x and SDXL files say their prediction type as real ones do."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _random(name, size, generator).to(dtype) for name, size in shape.tensors().items()}
    if shape.family.name == "sd21":
        bias = torch.randn(tensors[SD2_BIAS].shape, generator=generator)
        tensors[SD2_BIAS] = ((0.15 if prediction == "v_prediction" else 0.05) * bias).to(dtype)
    elif prediction == "v_prediction":
        tensors["v_pred"] = torch.tensor([])
    return tensors


def _random(name: str, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(size) == 1:
        is_norm = name.endswith(".weight")
        return torch.ones(size) if is_norm else 0.02 * torch.randn(size, generator=generator)
    if "embedding" in name:
        return 0.02 * torch.randn(size, generator=generator)
    gain = 1.0
    if name.endswith((*ZERO_INITIALISED, *RESIDUAL_ENDS)):
        gain = 0.3
    return torch.randn(size, generator=generator) * (gain / math.sqrt(math.prod(size[1:])))


def write(
    path: Path,
    name: FamilyName,
    tiny: bool = True,
    prediction: Literal["epsilon", "v_prediction"] = "epsilon",
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
) -> Path:
    save_file(random_tensors(checkpoint_shape(name, tiny), prediction, dtype, seed), path, {"format": "pt"})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=[family.name for family in FAMILIES])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--prediction", choices=["epsilon", "v_prediction"], default="epsilon")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = write(
        options.out, options.family, options.tiny, options.prediction, getattr(torch, options.dtype), options.seed
    )
    print(f"{path}: {path.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
