"""Read Noto's colour emoji as pictures with names, from Debian's `fonts-noto-color-emoji` and `unicode-data`.

The font (Copyright 2022 Google Inc.) is under the SIL Open Font License 1.1, with no reserved name; its artwork is
under the Apache License 2.0; the names (© 2022 Unicode, Inc.) are under Unicode's licence for data files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NAMES = Path("/usr/share/unicode/emoji/emoji-test.txt")
BITMAP = 109  # pixels per em of the font's only bitmaps (table CBLC)
CANVAS = 136  # the bitmaps are 136 wide and 128 high
VARIATION_SELECTOR = 0xFE0F  # asks for the colour form of a character that has a plain one too
LEFT_OUT_GROUPS = frozenset({"People & Body", "Symbols", "Flags", "Component"})  # much alike, lettering, striped cloth
LEFT_OUT_SUBGROUPS = frozenset({"time"})  # 24 clock faces
PLAIN = str.maketrans({"’": "'", "ñ": "n"})  # names are typed on any keyboard


@dataclass(frozen=True)
class Emoji:
    """One emoji: the characters that a font draws it from, and its English short name."""

    characters: str
    name: str


def parse(lines: Iterable[str]) -> list[Emoji]:
    """The emoji of Unicode's `emoji-test.txt` that are one character: no skin tones, no sequences, no flags or signs.

    A line is `1F600 ; fully-qualified # (the emoji) E1.0 grinning face`, below its group and subgroup.
    """
    group = subgroup = ""
    found = []
    for line in lines:
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ").strip()
        elif not line.startswith("#") and ";" in line:
            codes, rest = line.split(";", 1)
            status, comment = rest.split("#", 1)
            points = [int(code, 16) for code in codes.split()]
            single = len([point for point in points if point != VARIATION_SELECTOR]) == 1
            left_out = group in LEFT_OUT_GROUPS or subgroup in LEFT_OUT_SUBGROUPS
            if status.strip() == "fully-qualified" and single and not left_out:
                found.append(Emoji("".join(map(chr, points)), comment.split(maxsplit=2)[2].strip().translate(PLAIN)))
    return found


def draw(characters: str, font: ImageFont.FreeTypeFont, size: int) -> Tensor:
    """The glyph in the middle of a white square, uint8 (3, size, size)."""
    canvas = Image.new("RGBA", (CANVAS, CANVAS), "white")
    middle = (CANVAS // 2, CANVAS // 2)
    ImageDraw.Draw(canvas).text(middle, characters, font=font, anchor="mm", embedded_color=True)
    scaled = canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1).contiguous()


def read(size: int = 64, font: Path = FONT, names: Path = NAMES) -> tuple[Tensor, list[str]]:
    """Pictures, uint8 (N, 3, size, size), and their N names.

    Raises FileNotFoundError, naming the Debian package, when the font or the list of names is not installed.
    """
    for path, package in ((font, "fonts-noto-color-emoji"), (names, "unicode-data")):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run `apt-get install {package}`")
    with names.open(encoding="utf-8") as lines:
        emoji = parse(lines)
    face = ImageFont.truetype(str(font), BITMAP)
    return torch.stack([draw(one.characters, face, size) for one in emoji]), [one.name for one in emoji]
