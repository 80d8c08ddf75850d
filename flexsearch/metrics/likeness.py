"""How alike two pictures of one noise and prompt are: PSNR, SSIM, LPIPS; and how well one fits its prompt: CLIP score.

All through torchmetrics, one number a picture. What needs weights takes them from where they are at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from flexsearch.errors import ConfigError
from flexsearch.metrics.perceptual import load_lpips, lpips_errors

Likeness = Callable[[Tensor, Tensor], list[float]]  # (n, 3, H, W) in [0, 1] of both, drawn and teacher's -> n numbers
SAME = 100.0  # dB: PSNR of pictures that are equal, which is infinite, is written so; 8-bit pictures come to 48 at most


def psnr(images: Tensor, reference: Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB, at most `SAME`; higher is nearer."""
    values = peak_signal_noise_ratio(images, reference, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return [min(float(value), SAME) for value in values.reshape(-1)]


def ssim(images: Tensor, reference: Tensor) -> list[float]:
    """Structural similarity (Wang et al. 2004), 1 for equal pictures."""
    values = structural_similarity_index_measure(images, reference, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return [float(value) for value in values.reshape(-1)]


def lpips(device: torch.device) -> Likeness:
    """LPIPS (arXiv 1801.03924) on AlexNet; lower is nearer. Raises ConfigError where its weights are not at hand."""
    metric = load_lpips().to(device)
    return lambda images, reference: np.sqrt(lpips_errors(metric, images, reference)).tolist()


def clip_score(folder: Path, device: torch.device) -> Callable[[Tensor, Sequence[str]], list[float]]:
    """CLIP score (arXiv 2104.08718) of pictures and their prompts, by the CLIP model in a folder.

    Raises ConfigError where there is none.
    """
    from torchmetrics.functional.multimodal import clip_score as score
    from transformers import CLIPModel, CLIPProcessor

    try:
        model = CLIPModel.from_pretrained(folder, local_files_only=True).to(device).eval()
        processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--clip {folder}", f"it is no CLIP model ({error})", "Give a folder as transformers writes it"
        ) from error

    @torch.inference_mode()
    def scored(images: Tensor, prompts: Sequence[str]) -> list[float]:
        pixels = (images.to(device) * 255).round().to(torch.uint8)
        pairs = zip(pixels, prompts, strict=True)
        loaded = lambda: (model, processor)  # noqa: E731  # torchmetrics takes a loader
        return [float(score(image, prompt, model_name_or_path=loaded)) for image, prompt in pairs]

    return scored


def mean(values: Sequence[float]) -> float:
    """NaN for no values; what is not finite stays so."""
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan
