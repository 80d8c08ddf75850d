"""Draws the project's icon and banner from the strip that all hosts show: one bar a step, in its colours and heights.

python -m tools.draw_icon [FOLDER]      # docs/images without FOLDER: icon.svg, icon.png (400 x 400), banner.png (21:9)
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from flexiffusion.schedule import FULL, NULL, Action
from flexiffusion.strip import KIND_COLOURS, KIND_HEIGHTS

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
PAPER = "#16202A"
WORDS = "#F5F5F3"
SIDE = 400  # pixels, the most that ComfyUI's registry takes
DPI = 100

PARTIAL = Action("partial", -1, "linear")
SMALL = (FULL, PARTIAL, FULL, PARTIAL, NULL, FULL)
LONG = (FULL, PARTIAL, FULL, PARTIAL, PARTIAL, FULL, NULL, FULL, PARTIAL, PARTIAL, FULL, NULL, FULL, PARTIAL, FULL)


def draw(folder: Path) -> None:
    """Writes the three files. The registry wants an icon of at most 400 x 400 pixels and a banner of 21:9."""
    with rc_context({"svg.hashsalt": "flexiffusion", "svg.fonttype": "path"}):  # the same file each time
        icon = _paper(SIDE, SIDE, corner=0.2)
        _bars(icon, SMALL, left=0.16, bottom=0.2, width=0.68, height=0.6)
        icon.savefig(folder / "icon.svg", transparent=True, metadata={"Date": None, "Creator": None})
        icon.savefig(folder / "icon.png", transparent=True, metadata={"Software": None})
        banner = _paper(3 * SIDE, round(3 * SIDE * 9 / 21))
        _bars(banner, LONG, left=0.6, bottom=0.3, width=0.34, height=0.4)
        banner.text(0.07, 0.56, "Flexiffusion", color=WORDS, fontsize=54, weight="bold", va="center")
        banner.text(0.073, 0.36, "Faster sampling for diffusion models.\nNothing is trained.", color=WORDS, fontsize=19,
                    va="center", linespacing=1.4)  # fmt: skip
        banner.savefig(folder / "banner.png", metadata={"Software": None})


def _paper(width: int, height: int, corner: float | None = None) -> Figure:
    """A dark sheet of so many pixels; with a `corner` (part of the width) it has round ones and nothing around it."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    if corner is not None:
        style = f"round,pad=0,rounding_size={corner}"
        figure.add_artist(FancyBboxPatch((0, 0), 1, 1, boxstyle=style, facecolor=PAPER, linewidth=0,
                                         transform=figure.transFigure))  # fmt: skip
    return figure


def _bars(figure: Figure, actions: tuple[Action, ...], left: float, bottom: float, width: float, height: float) -> None:
    """The strip in this part of a figure."""
    slot = width / len(actions)
    for index, action in enumerate(actions):
        place = (left + (index + 0.125) * slot, bottom)
        figure.add_artist(Rectangle(place, 0.75 * slot, height * KIND_HEIGHTS[action.kind],
                                    facecolor=KIND_COLOURS[action.kind], linewidth=0,
                                    transform=figure.transFigure))  # fmt: skip


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
