"""Writes the hand-made presets of schedules/: rules that anybody could type, with no measurement and no claim.

    python -m tools.make_heuristic_presets [FOLDER]

DeepCache uniform (arXiv 2312.00858): a full step, then interval - 1 partial ones at the paper's branch 2 for
Stable Diffusion, which is our branch 1. Alternation: every second step partial at branch 0 with a linear predictor.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flexiffusion.codec import write
from flexiffusion.schedule import ModelInfo, Predictor, Provenance, Sampling, Schedule, Segment, SegmentsPlan

STEPS = 30  # 2, 3 and 5 divide it; over any other number of steps the segments are stretched
FAMILIES = {"sd15": (12, 512), "sd21": (12, 768), "sdxl": (9, 1024)}  # branches, side of the native picture
INTERVALS = (2, 3, 5)


def preset(family: str, name: str, description: str, interval: int, branch: int, predictor: Predictor) -> Schedule:
    """One preset of equal segments without nulls: a full step and interval - 1 partial ones, again and again."""
    branches, side = FAMILIES[family]
    return Schedule(
        name=f"{family}-{name}",
        description=description,
        author="flexiffusion",
        model=ModelInfo(family, branches),
        sampling=Sampling(sampler=None, scheduler=None, steps=STEPS, cfg=None, size=(side, side), prediction=None),
        plan=SegmentsPlan((Segment(interval, interval, branch, predictor),) * (STEPS // interval)),
        provenance=Provenance("heuristic", tool="tools/make_heuristic_presets.py"),
    )


def presets() -> list[Schedule]:
    """All hand-made presets, by family."""
    result = []
    for family in FAMILIES:
        for interval in INTERVALS:
            description = (
                f"DeepCache uniform, interval {interval}, branch 1 (the paper's branch 2 for Stable Diffusion):"
                f" one full step, then {interval - 1} partial. A hand-made rule; not measured here."
            )
            result.append(preset(family, f"deepcache-{interval}", description, interval, 1, "reuse"))
        description = (
            "Full and partial steps in turn; the partial ones run branch 0 and predict the deep feature linearly in"
            " log-SNR from the last two full steps. A hand-made rule; not measured here."
        )
        result.append(preset(family, "alternate-linear", description, 2, 0, "linear"))
    return result


def main(folder: Path) -> None:
    """Writes every preset as FOLDER/NAME.json."""
    for schedule in presets():
        write(folder / f"{schedule.name}.json", schedule)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "schedules")
