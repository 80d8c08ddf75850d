"""The one table of model families: how a loaded network is recognised, and what is usual for its models.

A family is one entry of `FAMILIES`. Networks of other families run too: their schedules are judged by the number of
branches alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .noise import NoiseKind

PIXELS_PER_LATENT = 8  # of every U-Net family so far


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of all models of one family.

    name:              as schedule files write it
    title:             as people write it
    context_width:     channels of the text embedding that its cross-attentions read
    branches:          of its network, see `layout`
    side:              of the square picture that it was trained on last, in pixels
    guidance:          the usual classifier-free guidance scale
    pixels_per_latent: side of a picture for one of its latent
    noise:             "vp" (epsilon and v prediction) or "flow", see `noise`
    """

    name: str
    title: str
    context_width: int
    branches: int
    side: int
    guidance: float
    pixels_per_latent: int = PIXELS_PER_LATENT
    noise: NoiseKind = "vp"


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("sd15", "SD1.x", context_width=768, branches=12, side=512, guidance=7.5),
        Family("sd21", "SD2.x", context_width=1024, branches=12, side=768, guidance=7.5),
        Family("sdxl", "SDXL", context_width=2048, branches=9, side=1024, guidance=7.0),
    )
}


def recognised(context_width: int, branches: int | None = None) -> str | None:
    """The name of the family with this text embedding, and this number of branches where it is known; else None."""
    for family in FAMILIES.values():
        if family.context_width == context_width and branches in (None, family.branches):
            return family.name
    return None


def pixels_per_latent(name: str) -> int:
    """Side of a picture for one of the latent, in a family's models; of one that is not known, that of all U-Nets."""
    return FAMILIES[name].pixels_per_latent if name in FAMILIES else PIXELS_PER_LATENT
