"""FID to real pictures: by folder and by statistics file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from flexsearch.errors import ConfigError
from flexsearch.metrics.features import extract
from flexsearch.metrics.real_fid import (
    RealFid,
    Statistics,
    read_pictures,
    real_statistics,
    statistics_of,
    write_statistics,
)
from flexsearch.metrics.relative_fid import frechet_distance


class Means(nn.Module):
    """The mean and the spread of each colour."""

    num_features = 6

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.std(dim=(2, 3))], dim=1)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    stream = np.random.default_rng(0)
    for i in range(12):
        pixels = stream.integers(256, size=(20, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("deeper" if i % 2 else ".") / f"{i}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_is_what_its_pictures_are(pictures: Path, tmp_path: Path) -> None:
    found = real_statistics(pictures, ("means", Means()), (16, 16), tmp_path / "cache")
    files = sorted(path for path in pictures.rglob("*.png"))
    features = torch.cat([extract(Means(), images) for images in read_pictures(files, (16, 16))])
    assert features.shape == (12, 6)
    np.testing.assert_allclose(found.mean, features.double().mean(dim=0))
    other = torch.rand(40, 6)
    assert RealFid(found)(other) == pytest.approx(frechet_distance(other, features), rel=1e-6)
    (kept,) = (tmp_path / "cache").glob("*.npz")
    before = kept.stat().st_mtime_ns
    again = real_statistics(pictures, ("means", Means()), (16, 16), tmp_path / "cache")
    np.testing.assert_array_equal(again.covariance, found.covariance)
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"torn")
    np.testing.assert_array_equal(real_statistics(pictures, ("means", Means()), (16, 16), kept.parent).mean, found.mean)


def test_distance_by_hand() -> None:
    """|mean difference|^2 + trace(A + B - 2 sqrt(AB)), of diagonal covariances."""
    real = Statistics(np.zeros(2), np.diag([4.0, 9.0]))
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 2.0], [3.0, 2.0]])  # mean (2, 1), covariance 4/3 of each
    spread = (4 / 3) ** 0.5
    assert RealFid(real)(features) == pytest.approx(4 + 1 + (2 - spread) ** 2 + (3 - spread) ** 2, rel=1e-6)


def test_a_statistics_file(tmp_path: Path) -> None:
    made = statistics_of(torch.rand(30, 6))
    path = tmp_path / "real.npz"
    write_statistics(path, made)
    found = real_statistics(path, ("means", Means()), (16, 16))
    np.testing.assert_array_equal(found.covariance, made.covariance)


def test_what_is_refused(tmp_path: Path, pictures: Path) -> None:
    def refused(source: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            real_statistics(source, ("means", Means()), (16, 16))
        return str(caught.value)

    assert "is not known" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds 0 pictures" in refused(tmp_path / "empty")
    (pictures / "broken.png").write_bytes(b"no picture")
    assert "broken.png cannot be read" in refused(pictures)
    (tmp_path / "text.npz").write_text("mu")
    assert "mu and sigma" in refused(tmp_path / "text.npz")
    np.savez(tmp_path / "pickled.npz", mu=np.array([object()]), sigma=np.eye(6))
    assert "cannot be read" in refused(tmp_path / "pickled.npz")
    write_statistics(tmp_path / "other.npz", Statistics(np.zeros(5), np.eye(5)))
    assert "gives 6 features" in refused(tmp_path / "other.npz")
    write_statistics(tmp_path / "nan.npz", Statistics(np.full(6, np.nan), np.eye(6)))
    assert "not finite" in refused(tmp_path / "nan.npz")


# EXIF orientation -> how the stored picture must be turned or mirrored to stand upright (EXIF 2.32, table 6)
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_photograph_that_lies_on_its_side_is_turned_as_viewers_do(
    orientation: int, ending: str, tmp_path: Path
) -> None:
    pixels = np.zeros((24, 40, 3), dtype=np.uint8)
    pixels[:8, :, 0], pixels[:, :8, 2] = 255, 255  # red above, blue on the left
    upright = Image.fromarray(pixels)
    stored, exif = upright.transpose(STORED[orientation]), Image.Exif()
    exif[0x0112] = orientation
    more = {"quality": 100, "subsampling": 0} if ending == "jpg" else {}
    upright.save(tmp_path / f"a.{ending}", **more)
    stored.save(tmp_path / f"b.{ending}", exif=exif, **more)
    (read,) = read_pictures([tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"], (20, 12))
    torch.testing.assert_close(read[1], read[0], atol=0.02, rtol=0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x05"])
def test_a_picture_with_damaged_exif_stays_as_it_is(exif: bytes, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    (read,) = read_pictures([tmp_path / "a.jpg"], (16, 16))
    assert read.shape == (1, 3, 16, 16)
