"""LPIPS (arXiv 1801.03924) through torchmetrics, with weights that are at hand: nothing is downloaded unasked."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flexiffusion.search.paired import Errors
from flexsearch.errors import ConfigError
from flexsearch.metrics.features import device_of

WEIGHTS = (
    "alexnet-owt-7be5be79.pth"  # torchvision's AlexNet, which LPIPS builds on; its linear heads come with torchmetrics
)


def load_lpips() -> nn.Module:
    """torchmetrics' LPIPS on AlexNet. Raises ConfigError where torchvision or its weights are not there."""
    if importlib.util.find_spec("torchvision") is None:
        raise ConfigError("--error", "lpips needs torchvision", "Run: pip install torchvision, or choose another error")
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    if not path.is_file():
        raise ConfigError(
            "--error",
            f"lpips needs AlexNet's weights, and {path} is not there; nothing is downloaded unasked",
            f"Put https://download.pytorch.org/models/{WEIGHTS} there",
        )
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()


@torch.inference_mode()
def lpips_errors(metric: nn.Module, images: Tensor, reference: Tensor) -> Errors:
    """LPIPS of every pair of images (n, 3, H, W) in [0, 1], squared as the other paired errors are: (n,).

    Of videos (n, frames, 3, H, W) the mean over the frames.
    """
    if images.dim() == 5:
        errors = lpips_errors(metric, images.flatten(0, 1), reference.flatten(0, 1))
        return np.asarray(errors.reshape(images.shape[:2]).mean(axis=1))
    device = device_of(metric)
    pairs = zip(images.to(device).split(1), reference.to(device).split(1), strict=True)
    # The metric refuses an image that is not finite: it is infinitely far away.
    return np.square([float(metric(image, other)) if image.isfinite().all() else math.inf for image, other in pairs])
