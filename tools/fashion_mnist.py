"""Read Fashion-MNIST as Debian's package `dataset-fashion-mnist` installs it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def read(split: Literal["train", "t10k"], folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """Pictures, uint8 (N, 32, 32): the 28x28 originals in a black frame of 2 pixels; and labels, int64 (N,).

    Raises FileNotFoundError, naming the Debian package, when the data set is not installed.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing: run `apt-get install dataset-fashion-mnist`")
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as stream:
        pixels = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8)
    framed = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))
    return torch.from_numpy(framed), torch.from_numpy(labels.astype(np.int64))


def to_rgb(pictures: Tensor) -> Tensor:
    """(B, 32, 32) uint8 -> (B, 3, 32, 32) float in [0, 1]."""
    return (pictures.float() / 255)[:, None].expand(-1, 3, -1, -1)
