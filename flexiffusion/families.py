"""The one table of model families: how a loaded network is recognised, and what is usual for its models.

A family is one entry of `FAMILIES`. Networks of other families run too: their schedules are judged by the number of
branches alone. No torch: `fit` looks at networks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .noise import NoiseKind

PIXELS_PER_LATENT = 8  # of every U-Net family so far, and of most transformers


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of all models of one family.

    name:              as schedule files write it
    title:             as people write it
    width:             channels of the text embedding that a U-Net's cross-attentions read, or of a transformer's tokens
    branches:          of its network, see `layouts`; a transformer has one less than blocks
    side:              of the square picture that it was trained on last, in pixels
    guidance:          the usual classifier-free guidance scale; 1 where it is built in or not used
    lists:             of a transformer, the number of blocks in each list that its trunk goes through; a U-Net has none
    marker:            an attribute that the networks of this family have and others of the same sizes have not
    pixels_per_latent: side of a picture for one of its latent
    noise:             "vp" (epsilon and v prediction) or "flow", see `noise`
    """

    name: str
    title: str
    width: int
    branches: int
    side: int
    guidance: float
    lists: tuple[int, ...] = ()
    marker: str | None = None
    pixels_per_latent: int = PIXELS_PER_LATENT
    noise: NoiseKind = "vp"


def _transformer(
    name: str,
    title: str,
    lists: tuple[int, ...],
    width: int,
    guidance: float,
    side: int = 1024,
    marker: str | None = None,
    pixels_per_latent: int = PIXELS_PER_LATENT,
    noise: NoiseKind = "flow",
) -> Family:
    return Family(name, title, width, sum(lists) - 1, side, guidance, lists, marker, pixels_per_latent, noise)


# Numbers of blocks and widths are those of the published networks, the same in diffusers and in ComfyUI (read from
# their classes); guidance is what diffusers' pipelines take when nothing is said. Those with a marker come first.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("sd15", "SD1.x", width=768, branches=12, side=512, guidance=7.5),
        Family("sd21", "SD2.x", width=1024, branches=12, side=768, guidance=7.5),
        Family("sdxl", "SDXL", width=2048, branches=9, side=1024, guidance=7.0),
        _transformer("chroma", "Chroma", (19, 38), 3072, 5.0, marker="distilled_guidance_layer"),
        _transformer("flux", "FLUX.1", (19, 38), 3072, 1.0),
        _transformer("flux2", "FLUX.2", (8, 48), 6144, 1.0, pixels_per_latent=16),
        _transformer("flux2-klein-4b", "FLUX.2 Klein 4B", (5, 20), 3072, 4.0, pixels_per_latent=16),
        _transformer("flux2-klein-9b", "FLUX.2 Klein 9B", (8, 24), 4096, 4.0, pixels_per_latent=16),
        _transformer("sd35-medium", "SD3 and SD3.5 Medium", (24,), 1536, 7.0),
        _transformer("sd35-large", "SD3.5 Large", (38,), 2432, 7.0),
        _transformer("qwen-image", "Qwen-Image", (60,), 3072, 4.0, side=1328),
        _transformer("z-image", "Z-Image", (30,), 3840, 5.0),
        _transformer("lumina2", "Lumina 2", (26,), 2304, 4.0),
        _transformer("aura", "AuraFlow", (4, 32), 3072, 3.5),
        _transformer("hidream", "HiDream-I1", (16, 32), 2560, 5.0),
        _transformer("wan-14b", "Wan 14B", (40,), 5120, 5.0, side=640),
        _transformer("wan-5b", "Wan 2.2 5B", (30,), 3072, 5.0, side=960, pixels_per_latent=16),
        _transformer("wan-1.3b", "Wan 1.3B", (30,), 1536, 5.0, side=640),
        _transformer("hunyuan-video", "HunyuanVideo", (20, 40), 3072, 1.0, side=960),
        _transformer("anima", "Anima", (28,), 2048, 4.0, marker="llm_adapter"),
        _transformer("ltx", "LTX-Video", (28,), 2048, 3.0, side=608, marker="scale_shift_table", pixels_per_latent=32),
        _transformer("cosmos-predict2", "Cosmos-Predict2 2B", (28,), 2048, 7.0, noise="vp"),
        _transformer("pixart", "PixArt", (28,), 1152, 4.5, noise="vp"),
    )
}


def recognised(
    width: int, branches: int | None = None, lists: tuple[int, ...] = (), attributes: Collection[str] = ()
) -> str | None:
    """The name of the family with this width, and this number of branches where it is known; else None.

    lists:      of a transformer, the number of blocks in each list; a U-Net has none
    attributes: those of `markers` that the network has
    """
    for family in FAMILIES.values():
        if (
            (family.width, family.lists) == (width, lists)
            and branches in (None, family.branches)
            and (family.marker is None or family.marker in attributes)
        ):
            return family.name
    return None


def markers() -> Iterable[str]:
    """The attributes that tell families of equal sizes apart."""
    return {family.marker for family in FAMILIES.values() if family.marker is not None}


def pixels_per_latent(name: str) -> int:
    """Side of a picture for one of the latent, in a family's models; of one that is not known, that of most models."""
    return FAMILIES[name].pixels_per_latent if name in FAMILIES else PIXELS_PER_LATENT
