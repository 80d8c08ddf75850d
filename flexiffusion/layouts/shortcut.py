"""What is left of a unit that is dropped (AutoDiffusion, arXiv 2309.10438): a residual block or an attention of a U-Net
becomes its shortcut."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

# Units that add what they compute to what enters them. Not the video ones: they mix frames behind the sum.
_RESIDUAL = {"ResBlock", "ResnetBlock2D"}
_ATTENTION = {"SpatialTransformer", "AttentionBlock", "Transformer2DModel", "Attention"}
_NOT_ADDING = {"VideoResBlock", "SpatialVideoTransformer"}


@dataclass(frozen=True, slots=True, eq=False)
class Shortcut:
    """What is left of a dropped unit: (projection(x) or x) / scale.

    Attributes:
        projection: a residual block's 1x1 convolution where the channels change; None: the identity.
        scale: what diffusers' units divide their sum by; nearly always 1.
        in_tuple: whether the unit returns its tensor in a tuple.
    """

    projection: nn.Module | None = None
    scale: float = 1.0
    in_tuple: bool = False


def shortcut(unit: nn.Module) -> Shortcut | None:
    """What is left of a unit that is dropped; None: it cannot be (a first convolution, a down- or upsampler)."""
    names = {base.__name__ for base in type(unit).__mro__}
    if names & _NOT_ADDING:
        return None
    if names & _RESIDUAL:
        resamples = (getattr(unit, name, None) for name in ("updown", "upsample", "downsample"))
        if any(found not in (None, False) for found in resamples):
            return None
        projection = getattr(unit, "skip_connection", None) or getattr(unit, "conv_shortcut", None)
        if isinstance(projection, nn.Identity):
            projection = None
        return Shortcut(projection, float(getattr(unit, "output_scale_factor", 1.0)))
    if names & _ATTENTION:
        if getattr(unit, "residual_connection", True) is not True:
            return None
        return Shortcut(None, float(getattr(unit, "rescale_output_factor", 1.0)), "Transformer2DModel" in names)
    return None
