"""The icon and the banner are what the registry takes, and are drawn from the strip's own colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from flexiffusion.strip import KIND_COLOURS
from tools.draw_icon import FOLDER, draw


def test_icon_and_banner(tmp_path: Path) -> None:
    draw(tmp_path)
    svg = (tmp_path / "icon.svg").read_text(encoding="utf-8").lower()
    assert all(colour.lower() in svg for colour in KIND_COLOURS.values())
    with Image.open(tmp_path / "icon.png") as icon, Image.open(tmp_path / "banner.png") as banner:
        assert icon.size == (400, 400) and abs(banner.width / banner.height - 21 / 9) < 0.01
        pixels = np.asarray(icon.convert("RGBA"))
        assert pixels[0, 0, 3] == 0 and pixels[200, 30, 3] == 255, "nothing behind the round corners"
        for colour in KIND_COLOURS.values():
            wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            assert (pixels[..., :3] == wanted).all(axis=2).any()
    for path in tmp_path.iterdir():
        if path.suffix == ".png":
            with Image.open(path) as drawn, Image.open(FOLDER / path.name) as kept:
                assert drawn.size == kept.size, "run python -m tools.draw_icon"
