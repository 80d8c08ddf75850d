"""The family of a model file, by the names and shapes in its safetensors header: no weight is read.

Forge loads a model at the first picture, ComfyUI when a queue runs: until then this tells which schedules fit.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from .families import markers, recognised

LARGEST = 32 * 2**20  # bytes of a header; that of a checkpoint with thousands of tensors has one
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
# Lists of blocks that a transformer's trunk goes through, in that order (ComfyUI's names).
_LISTS = (
    "double_blocks", "single_blocks", "double_layers", "single_layers", "double_stream_blocks", "single_stream_blocks",
    "joint_blocks", "transformer_blocks", "layers", "blocks", "net.blocks",
)  # fmt: skip

Shapes = Mapping[str, tuple[int, ...]]


def family_of_file(path: Path) -> str | None:
    """The family of a checkpoint or a diffusion model; None: the file does not tell, or the family is not known."""
    shapes = _shapes(path)
    for prefix in _PREFIXES:
        inner = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        found = _unet(inner) or _transformer(inner)
        if found is not None:
            return found
    return None


def _shapes(path: Path) -> Shapes:
    """Names and shapes of all tensors; nothing where it is no safetensors file."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size <= LARGEST else {}
        return {name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return {}


def _unet(shapes: Shapes) -> str | None:
    """By what its cross-attentions read and its number of skips, as `fit.family_of` tells a loaded one."""
    widths = {shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and shape}
    blocks = {name.split(".")[1] for name in shapes if name.startswith("input_blocks.")}
    return recognised(widths.pop(), len(blocks)) if len(widths) == 1 and blocks else None


def _transformer(shapes: Shapes) -> str | None:
    counts, widths = [], Counter[int]()
    for name in _LISTS:
        inside = [match for match in map(re.compile(rf"{re.escape(name)}\.(\d+)\.").match, shapes) if match]
        if not inside:
            continue
        counts.append(1 + max(int(match[1]) for match in inside))
        if len(counts) == 1:
            first = f"{name}.0."
            widths.update(shape[-1] for key, shape in shapes.items() if key.startswith(first) and len(shape) == 2)
    if not counts:
        return None
    width = max(widths, key=lambda each: (widths[each], -each), default=0)
    has = {marker for marker in markers() if any(key.split(".")[0] == marker or f".{marker}" in key for key in shapes)}
    return recognised(width, sum(counts) - 1, tuple(counts), has)
