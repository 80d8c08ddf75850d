"""The pictures of a run, one PNG each: `pictures/teacher/0.png`, `pictures/<schedule>/0.png`; a number is a seed."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TEACHER = "teacher"
_LARGE = 384  # pixels of the longer side in a page; files keep their own size
_SMALL = 128  # up to here a page has them without loss


def write(folder: Path, images: NDArray[Any]) -> None:
    """Images (N, height, width, 3) in [0, 1] as folder/0.png, 1.png, ...; all or none."""
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for index, image in enumerate(np.clip(images, 0.0, 1.0)):
        Image.fromarray((image * 255).round().astype(np.uint8)).save(unfinished / f"{index}.png")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def read(folder: Path) -> list[Image.Image]:
    """What `write` wrote, in its order; [] where there is nothing."""
    paths = sorted((path for path in folder.glob("*.png") if path.stem.isdecimal()), key=lambda path: int(path.stem))
    found = []
    for path in paths:
        with Image.open(path, formats=["PNG"]) as image:
            found.append(image.convert("RGB"))
    return found


def data_uri(image: Image.Image) -> str:
    """A picture as part of a page: PNG where it is small, else JPEG of at most 384 pixels."""
    stream = io.BytesIO()
    if max(image.size) <= _SMALL:
        image.save(stream, "PNG")
        return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    smaller = image.copy()
    smaller.thumbnail((_LARGE, _LARGE))
    smaller.save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
