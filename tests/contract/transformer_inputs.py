"""What the tables of transformers are made of: an entry, and draws of the inputs that many classes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Any]
Draw = Callable[[int, int], Inputs]

TOKENS, TEXT = 5, 16  # tokens of the text, and their width
SIDE = 8  # of the latent


@dataclass(frozen=True)
class Entry:
    """One class: `lists` are the numbers of blocks in each of its lists, in execution order.

    `fixed_text`: the class takes text of one length only, or none. `ragged`: a joint call and a split one have other
    sizes inside (padding down to the longest text of the batch, a row more for the time of the text). `timeless_head`:
    what runs behind the blocks does not depend on the time. `unlike`: branches whose block returns other streams than
    the last block does. `note`: what the class does otherwise than the others, for docs/transformers.md.
    """

    config: Mapping[str, Any]
    draw: Draw
    lists: tuple[int, ...]
    fixed_text: bool = False
    ragged: bool = False
    timeless_head: bool = False
    unlike: tuple[int, ...] = ()
    note: str = ""


def drawn(*size: int) -> Tensor:
    return torch.randn(*size)


def time(rows: int, name: str = "timestep", value: float = 0.5) -> Inputs:
    return {name: torch.full((rows,), value)}


def image(rows: int, channels: int = 4) -> Inputs:
    return {"hidden_states": drawn(rows, channels, SIDE, SIDE)}


def video(rows: int, channels: int = 4, frames: int = 3) -> Inputs:
    return {"hidden_states": drawn(rows, channels, frames, SIDE, SIDE)}


def packed(rows: int, channels: int = 4) -> Inputs:
    """Latents as tokens."""
    return {"hidden_states": drawn(rows, SIDE * SIDE // 4, channels)}


def text(rows: int, tokens: int, width: int = TEXT) -> Inputs:
    return {"encoder_hidden_states": drawn(rows, tokens, width)}


def mask(rows: int, tokens: int, name: str = "encoder_attention_mask") -> Inputs:
    """Of a text whose last token is padding in the last row."""
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[-1, -1] = 0
    return {name: mask}


def grid(tokens: int, axes: int = 3) -> Inputs:
    """Positions of text and image tokens, the latter on a square."""
    side = SIDE // 2
    of_image, of_text = torch.zeros(side * side, axes), torch.zeros(tokens, axes)
    of_image[:, 1], of_image[:, 2] = torch.arange(side * side) // side, torch.arange(side * side) % side
    if axes == 4:
        of_text[:, 3] = torch.arange(tokens)
    return {"img_ids": of_image, "txt_ids": of_text}


def pooled(rows: int) -> Inputs:
    return {"pooled_projections": drawn(rows, 6)}


def wan_config(**more: Any) -> dict[str, Any]:
    common = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4}
    return common | {"text_dim": TEXT, "freq_dim": 16, "ffn_dim": 24, "num_layers": 6} | more


def flux_config(**more: Any) -> dict[str, Any]:
    common = {"in_channels": 4, "num_layers": 3, "num_single_layers": 4, "attention_head_dim": 16}
    return common | {"num_attention_heads": 2, "joint_attention_dim": TEXT, "axes_dims_rope": (4, 4, 8)} | more


def hunyuan_config(**more: Any) -> dict[str, Any]:
    common = {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3}
    return common | {"num_refiner_layers": 1, "text_embed_dim": TEXT, "rope_axes_dim": (4, 4, 8)} | more


def plain_config(**more: Any) -> dict[str, Any]:
    return {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "num_layers": 6} | more
