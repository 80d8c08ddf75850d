"""Which family a checkpoint's file is of, before anybody has loaded it: read from its list of tensors, not from them.

Forge and its kin load a model at the first picture; until then this is all there is to know which schedules fit.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flexiffusion.families import markers, recognised

_LARGEST_HEADER = 100 * 2**20  # bytes; the format's own limit
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
# the lists that a transformer's trunk goes through, as the published files name them
_TRUNKS = (
    ("double_blocks", "single_blocks"), ("double_layers", "single_layers"), ("joint_blocks",), ("transformer_blocks",),
    ("layers",), ("blocks",),
)  # fmt: skip

Shapes = Mapping[str, tuple[int, ...]]


def family_of_file(path: Path) -> str | None:
    """The family of the network in a `.safetensors` file; None: another kind of file, or of no known family."""
    shapes = _shapes(path)
    for prefix in _PREFIXES:
        inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        family = _unet(inside) or _transformer(inside)
        if family is not None:
            return family
    return None


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes by name: the file begins with the length of a JSON text, in 8 bytes, and that text."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if path.suffix.lower() != ".safetensors" or length > _LARGEST_HEADER:
                return {}
            header: Any = json.loads(file.read(length))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}  # the host will say what is wrong with it when it loads it


def _unet(shapes: Shapes) -> str | None:
    widths = {shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")}
    branches = _count(shapes, "input_blocks")
    return recognised(widths.pop(), branches) if len(widths) == 1 and branches else None


def _transformer(shapes: Shapes) -> str | None:
    has = {name for name in markers() if any(key.partition(".")[0] == name for key in shapes)}
    for trunk in _TRUNKS:
        lists = tuple(_count(shapes, name) for name in trunk)
        first = re.escape(f"{trunk[0]}.0.")
        read = Counter(shape[1] for name, shape in shapes.items() if re.match(first, name) and len(shape) == 2)
        if all(lists) and read:
            width = max(read, key=lambda width: (read[width], -width))
            return recognised(width, sum(lists) - 1, lists, has)
    return None


def _count(names: Iterable[str], list_: str) -> int:
    found = (re.match(rf"{list_}\.(\d+)\.", name) for name in names)
    return len({match[1] for match in found if match})
