"""FID to real pictures: statistics of a folder of them, or precomputed ones.

A statistics file is an `.npz` with `mu` (d,) and `sigma` (d, d), as pytorch-fid and its kin write and publish them; the
features must be those of the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from flexiffusion.whole_file import whole_file
from flexsearch.errors import ConfigError
from flexsearch.metrics.features import extract
from flexsearch.metrics.relative_fid import RelativeFid

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean (d,) and covariance (d, d) of the features of real pictures."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


class RealFid(RelativeFid):
    """Fréchet distance of a candidate's features to given statistics (arXiv 1706.08500, eq. 6)."""

    def __init__(self, statistics: Statistics) -> None:
        mean, covariance = torch.from_numpy(statistics.mean), torch.from_numpy(statistics.covariance)
        super().__init__(torch.zeros(2, len(mean)))
        # torchmetrics keeps sums; what number they are taken to be of makes no difference to mean and covariance
        self.n = count = 2
        self.metric.real_features_sum = mean * count
        self.metric.real_features_cov_sum = covariance * (count - 1) + count * torch.outer(mean, mean)
        self.metric.real_features_num_samples = torch.tensor(count)

    def __call__(self, features: Tensor) -> float:
        """The distance of any number of features (n, d); values at different n are not comparable."""
        return self._distance(features)


def statistics_of(features: Tensor) -> Statistics:
    """Of features (n, d), n > 1."""
    values = features.double().numpy()
    return Statistics(values.mean(axis=0), np.cov(values, rowvar=False))


def real_statistics(
    source: Path, features: tuple[str, nn.Module], size: tuple[int, int], cache: Path | None = None
) -> Statistics:
    """The statistics that `source` names: a folder of pictures, at any depth, or a statistics file.

    Pictures are cut to the middle and scaled to `size`, (width, height), and read once: their statistics are kept in
    the folder `cache`. `features` is the feature module with the name that it was asked for by.
    Raises ConfigError for a source that is not there, holds fewer than two pictures, or another number of features.
    """
    require_pictures(source)
    if source.is_file():
        return read_statistics(source, features)
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in PICTURES)
    if len(files) < 2:
        raise ConfigError("--reference", f"{source} holds {len(files)} pictures", "Give a folder of many")
    determines = [
        "upright",  # statistics that were kept before pictures were turned are not these
        features[0],
        size,
        [(str(f.relative_to(source)), f.stat().st_size, f.stat().st_mtime_ns) for f in files],
    ]
    key = hashlib.sha256(json.dumps(determines).encode()).hexdigest()[:16]
    kept = None if cache is None else cache / f"real-{key}.npz"
    if kept is not None and kept.is_file():
        try:
            return read_statistics(kept, features)
        except ConfigError:
            kept.unlink()  # half written by a machine that went down
    statistics = statistics_of(torch.cat([extract(features[1], images) for images in read_pictures(files, size)]))
    if kept is not None:
        write_statistics(kept, statistics)
    return statistics


def require_pictures(source: Path) -> None:
    """Raises ConfigError where there is neither a file nor a folder."""
    if not source.exists():
        raise ConfigError(
            "--reference",
            f"{str(source)!r} is not known",
            "Choose teacher, converged, a folder of pictures, or an .npz with mu and sigma",
        )


def read_pictures(files: Sequence[Path], size: tuple[int, int]) -> Iterator[Tensor]:
    """Batches (n, 3, height, width), float32 in [0, 1]. Raises ConfigError for a file that is no picture.

    Photographs that lie on their side, with an EXIF orientation, are turned as viewers turn them.
    """
    for first in range(0, len(files), AT_ONCE):
        images = []
        for file in files[first : first + AT_ONCE]:
            try:
                with Image.open(file) as picture:
                    upright = ImageOps.exif_transpose(picture)
                    fitted = ImageOps.fit(upright.convert("RGB"), size, Image.Resampling.BICUBIC)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise ConfigError("--reference", f"{file} cannot be read ({error})", "Take it out") from error
            images.append(np.asarray(fitted, dtype=np.float32) / 255)
        yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def read_statistics(path: Path, features: tuple[str, nn.Module]) -> Statistics:
    """Raises ConfigError for a file that holds no statistics of these features."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = file["mu"].astype(np.float64), file["sigma"].astype(np.float64)
    except Exception as error:  # numpy and zipfile raise half a dozen kinds
        raise ConfigError(
            "--reference", f"{path} cannot be read ({error})", "Give an .npz with mu and sigma, without pickled objects"
        ) from error
    width = int(features[1].num_features)  # type: ignore[arg-type]
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise ConfigError(
            "--reference",
            f"{path} has a mean of shape {mean.shape}, but {features[0]} gives {width} features",
            "Give statistics of the same --features",
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ConfigError("--reference", f"{path} is not finite", "Make it again")
    return Statistics(mean, covariance)


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft, open(draft, "wb") as file:
        np.savez(file, mu=statistics.mean, sigma=statistics.covariance)
