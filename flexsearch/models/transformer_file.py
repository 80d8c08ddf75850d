"""A diffusion transformer in one file: which family it is of, by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from flexiffusion.families import FAMILIES, markers, recognised
from flexiffusion.layouts.transformer import LISTS
from flexsearch.models.ldm_keys import UNET
from flexsearch.models.safetensors_header import Tensor

PREFIXES = (UNET, "")  # with text encoders and VAE in one file, as ComfyUI saves them, and alone
# What only networks of this kind have in their tensors' names, whatever their family.
SURE = re.compile(
    r"(^|\.)((double|single|joint)_blocks\.|blocks\.0\.attn|transformer_blocks\.0\.attn\.|double_stream_blocks\.)"
    r"|adaLN_mod"
)


def transformer_in(tensors: Mapping[str, Tensor]) -> str | None:
    """What a file with a diffusion transformer is, in words; None: it has none that can be told."""
    for prefix in PREFIXES:
        for row in LISTS:
            title = _title(tensors, prefix, row)
            if title is not None:
                return f"it is a diffusion transformer, of {title}"
    if any(SURE.search(name) for name in tensors):
        return "it is a diffusion transformer, of a family that is not known here"
    return None


def _title(tensors: Mapping[str, Tensor], prefix: str, row: tuple[str, ...]) -> str | None:
    """The family whose blocks these lists hold, as people write it."""
    blocks: dict[str, set[int]] = {}
    for name in tensors:
        if match := re.match(rf"{re.escape(prefix)}({'|'.join(row)})\.(\d+)\.", name):
            blocks.setdefault(match[1], set()).add(int(match[2]))
    present = [name for name in row if name in blocks]
    if not present:
        return None
    first = f"{prefix}{present[0]}.0."
    read = Counter(
        tensor.shape[1] for name, tensor in tensors.items() if name.startswith(first) and len(tensor.shape) == 2
    )
    width = max(read, key=lambda width: (read[width], -width), default=0)
    has = {marker for marker in markers() if any(name.startswith(f"{prefix}{marker}") for name in tensors)}
    family = recognised(width, lists=tuple(len(blocks[name]) for name in present), attributes=has)
    return None if family is None else FAMILIES[family].title
