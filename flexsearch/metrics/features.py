"""Feature modules: what feature distances and relative FID are computed on."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from flexsearch.errors import ConfigError
from flexsearch.metrics.bundled import FashionClassifier
from flexsearch.metrics.own_features import OwnFeatures
from flexsearch.models.assets import ASSETS
from flexsearch.named import imported, is_named

AUTO = "auto"  # of `--features`
CLASSIFIED = ("tiny-fashion", "pixel-fashion")  # families whose pictures the bundled classifier knows
Features = nn.Module | OwnFeatures


class BundledFeatures(nn.Module):
    """The penultimate activations of the bundled classifier: (B, 3, H, W) in [0, 1] -> (B, 128)."""

    num_features = FashionClassifier.num_features

    def __init__(self) -> None:
        super().__init__()
        from safetensors.torch import load_file

        self.classifier = FashionClassifier()
        self.classifier.load_state_dict(load_file(ASSETS / "features.safetensors"))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.features(images)


class InceptionFeatures(nn.Module):
    """The 2048 pool features of torch-fidelity's FID Inception: (B, 3, H, W) in [0, 1] -> (B, 2048)."""

    num_features = 2048

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ConfigError(
                "--features", "inception needs torch-fidelity", "Run: pip install 'flexiffusion[inception]'"
            ) from error
        self.network = FeatureExtractorInceptionV3(
            name="inception-v3-compat", features_list=["2048"], feature_extractor_weights_path=str(weights)
        )
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
        return torch.as_tensor(self.network(pixels)[0])


def features_of(features: Features, latents: Tensor, images: Tensor, batch: int) -> Tensor:
    """Features (n, d), float32 on the CPU, of a checkpoint's latents or of the images that they decode to."""
    return features(latents, batch) if isinstance(features, OwnFeatures) else extract(features, images)


def load_features(name: str) -> nn.Module:
    """`bundled`, `inception:WEIGHTS_FILE`, or `package.module:Class` of any torch module.

    The module maps images (B, 3, H, W), float in [0, 1], to features (B, d) and has the attribute `num_features` = d.
    Raises ConfigError with the remedy.
    """
    if name == "bundled":
        return BundledFeatures()
    if name == "inception" or name.startswith("inception:"):
        weights = Path(name.partition(":")[2])
        if not weights.is_file():
            raise ConfigError(
                "--features",
                f"{name!r} names no weights file, and nothing is downloaded unasked",
                "Give inception:FILE with your copy of weights-inception-2015-12-05-6726825d.pth",
            )
        return InceptionFeatures(weights)
    if not is_named(name):
        raise ConfigError(
            "--features",
            f"{name!r} is not known",
            "Choose auto, bundled, model, inception:FILE or package.module:Class",
        )
    made = imported("--features", name)
    module = made() if callable(made) and not isinstance(made, nn.Module) else made
    if not isinstance(module, nn.Module) or not isinstance(getattr(module, "num_features", None), int):
        raise ConfigError(
            "--features", f"{name!r} is no torch module with an integer num_features", "Give a module that has it"
        )
    return module.eval()


@torch.inference_mode()
def extract(module: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Features (n, d), float32 on the CPU, of images (n, 3, H, W) in [0, 1]; computed where the module is.

    Of videos (n, frames, 3, H, W) those of each frame: (n, frames, d).
    """
    if images.dim() == 5:
        return extract(module, images.flatten(0, 1), batch).unflatten(0, images.shape[:2])
    device = device_of(module)
    return torch.cat([module(rows.to(device)).float().cpu() for rows in images.split(batch)])


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are; the CPU for one that has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
