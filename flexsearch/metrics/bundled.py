"""The bundled feature module: a small classifier of Fashion-MNIST, trained by tools/train_tiny.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FashionClassifier(nn.Module):
    """Ten-class convolutional classifier; its 128 penultimate activations are the bundled image features.

    Input: (B, 3, H, W) float in [0, 1] (any H, W of at least 16; the colour channels are averaged).
    """

    num_features = 128

    def __init__(self) -> None:
        super().__init__()

        def stage(channels_in: int, channels_out: int) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for width in (channels_in, channels_out):
                layers += [nn.Conv2d(width, channels_out, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(channels_out), nn.ReLU()]
            return [*layers, nn.MaxPool2d(2)]

        self.trunk = nn.Sequential(*stage(1, 16), *stage(16, 48), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.penultimate = nn.Sequential(nn.Dropout(0.3), nn.Linear(48 * 16, self.num_features), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(self.num_features, 10))

    def features(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, 128)
        grey = images.mean(dim=1, keepdim=True) * 2 - 1
        return torch.as_tensor(self.penultimate(self.trunk(grey)))

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, 10) logits
        return torch.as_tensor(self.head(self.features(images)))
