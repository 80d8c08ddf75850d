"""What the host's MODEL tells of itself: how its noise levels are meant, what it predicts, how large its pictures are.

By names only, so that nothing of the host is imported: `CONST` is what ComfyUI calls the sampling of flow matching
(comfy/model_sampling.py), whatever its shift.
"""

from __future__ import annotations

from typing import Any

from ..flexiffusion.families import PIXELS_PER_LATENT
from ..flexiffusion.host import why_not_cut
from ..flexiffusion.noise import NoiseKind


def noise_of(model_sampling: Any) -> NoiseKind:
    """What the levels are that samplers get for this model: s in (0, 1] of a flow, or k-diffusion's sigmas."""
    return "flow" if any(kind.__name__ == "CONST" for kind in type(model_sampling).__mro__) else "vp"


def prediction_of(model: Any, model_sampling: Any) -> str | None:
    """What the network predicts, in the words of schedule files; None: none of them."""
    if noise_of(model_sampling) == "flow":
        return "flow"
    kind = getattr(getattr(model, "model_type", None), "name", "")
    return {"EPS": "epsilon", "V_PREDICTION": "v_prediction"}.get(kind)


def picture_size(model: Any, noise: Any) -> tuple[int, int] | None:
    """Width and height in pixels of what comes of this noise; None: it is no picture and no video.

    noise: # (B, C, H, W) or (B, C, frames, H, W)
    """
    if noise.ndim not in (4, 5):
        return None
    pixels = getattr(getattr(model, "latent_format", None), "spacial_downscale_ratio", PIXELS_PER_LATENT)
    return int(noise.shape[-1] * pixels), int(noise.shape[-2] * pixels)


def uncompiled(network: Any) -> Any:
    """The network below what torch.compile puts around it; any other one as it is."""
    return getattr(network, "_orig_mod", network)


def why_not_partial(network: Any, model_options: dict[str, Any]) -> str | None:
    """Why only null steps can act on this model, as the middle of a sentence; None: partial steps can too.

    CUDA graphs replay recorded kernels on fixed memory: what a capture keeps would be overwritten by the next call.
    """
    if why_not_cut(network) is not None:
        return f"{type(network).__name__} is not a network that can be cut"
    compiled = model_options.get("torch_compile_kwargs") or {}  # the host's own key, of every node that compiles by it
    graphs = (compiled.get("options") or {}).get("triton.cudagraphs")
    if graphs or compiled.get("backend") == "cudagraphs" or compiled.get("mode") in ("reduce-overhead", "max-autotune"):
        return "torch.compile replays its calls as CUDA graphs (use a mode without them)"
    return None
