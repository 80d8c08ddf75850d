"""Writes the hand-made presets of schedules/: rules that anybody could type, with no measurement and no claim.

    python -m tools.make_heuristic_presets [FOLDER]

DeepCache uniform (arXiv 2312.00858): a full step, then interval - 1 partial ones at the paper's branch 2 for
Stable Diffusion, which is our branch 1. Alternation: every second step partial at branch 0 with a linear predictor,
on the host's own noise levels, or on the published ones of Align Your Steps. On transformers the partial
steps run the output head alone, which has nearly all of the gain there (measured on small networks only).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from flexiffusion.codec import write
from flexiffusion.families import FAMILIES, Family
from flexiffusion.metadata import ModelInfo, Provenance, Sampling
from flexiffusion.rule import gaps
from flexiffusion.schedule import FULL, Action, Predictor, Schedule, Segment, SegmentsPlan, Step, StepsPlan

# Transformers whose models are usually sampled over 25 to 50 steps. Their distilled kin (Schnell, Turbo, Lightning,
# Klein without "base") has no room, and is not told apart: it has the same blocks. The descriptions say so.
WITH_ROOM = (
    "chroma", "flux", "flux2", "sd35-medium", "sd35-large", "qwen-image", "z-image", "lumina2", "wan-14b", "wan-5b",
    "wan-1.3b", "hunyuan-video", "anima", "cosmos-predict2",
)  # fmt: skip
STEPS = 30  # 2, 3 and 5 divide it; over any other number of steps the segments are stretched
INTERVALS = (2, 3, 5)
FULL_STEPS = (6, 8, 10, 12, 15)
# The published levels of Align Your Steps (arXiv 2404.14507) for ten steps; the eleventh is where the picture begins.
# The same numbers stand in ComfyUI (`AlignYourStepsScheduler`).
AYS = {
    "sd15": (14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904,
             0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
    "sdxl": (14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289,
             0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
}  # fmt: skip


def ays_levels(family: str, count: int) -> list[float]:
    """Levels of `count` steps: even in log sigma between two published ones, without the last, which is the end."""
    logs = [math.log(level) for level in AYS[family]]
    levels = []
    for i in range(count):
        below, part = divmod(i * (len(logs) - 1) / count, 1)
        levels.append(math.exp(logs[int(below)] + part * (logs[int(below) + 1] - logs[int(below)])))
    return [float(f"{level:.6g}") for level in levels]


def turns(family: Family, fulls: int) -> Schedule:
    """`fulls` full steps and as many partial ones in turn: on the published levels, where the family has some, else on
    the host's own list."""
    count = 2 * fulls
    plan: StepsPlan | SegmentsPlan
    if family.name in AYS:
        where = (
            "on noise levels of its own: those that Align Your Steps (arXiv 2404.14507) publishes for "
            f"{family.title}, even in log sigma between two"
        )
        actions = (FULL, Action("partial", 0, "linear")) * fulls
        levels = ays_levels(family.name, count)
        plan = StepsPlan(tuple(Step(level, action) for level, action in zip(levels, actions, strict=True)))
    else:
        where = "on the sampler's own noise levels, evenly spread over its list"
        plan = SegmentsPlan(tuple(Segment(gap, 2, 0, "linear") for gap in gaps(STEPS, fulls)), "even")
    return Schedule(
        name=f"{family.name}-turns-{fulls}",
        description=(
            f"{fulls} full steps and {fulls} partial ones in turn, {where}; the partial ones run branch 0 and predict "
            "the deep feature linearly in log-SNR from the last two full steps. A hand-made rule; not measured here."
        ),
        author="flexiffusion",
        model=ModelInfo(family.name, family.branches),
        sampling=Sampling(
            sampler=None, scheduler=None, steps=STEPS, cfg=None, size=(family.side, family.side), prediction=None
        ),
        plan=plan,
        provenance=Provenance("heuristic", tool="tools/make_heuristic_presets.py"),
    )


def preset(family: Family, name: str, description: str, interval: int, branch: int, predictor: Predictor) -> Schedule:
    """One preset of equal segments without nulls: a full step and interval - 1 partial ones, again and again."""
    return Schedule(
        name=f"{family.name}-{name}",
        description=description,
        author="flexiffusion",
        model=ModelInfo(family.name, family.branches),
        sampling=Sampling(
            sampler=None, scheduler=None, steps=STEPS, cfg=None, size=(family.side, family.side), prediction=None
        ),
        plan=SegmentsPlan((Segment(interval, interval, branch, predictor),) * (STEPS // interval)),
        provenance=Provenance("heuristic", tool="tools/make_heuristic_presets.py"),
    )


def head_only(family: Family) -> Schedule:
    """Full steps and partial ones in turn that run the output head of a transformer alone, on the host's own levels."""
    flow = family.noise == "flow"
    variable = "the noise level" if flow else "log-SNR"
    return Schedule(
        name=f"{family.name}-alternate-linear",
        description=(
            "Full steps and steps of the output head alone in turn; these predict the output of the last block "
            f"linearly in {variable} from the last two full steps. For 25 to 50 steps, not for "
            "distilled models of few steps. A hand-made rule; not measured here."
        ),
        author="flexiffusion",
        model=ModelInfo(family.name, family.branches, blocks=sum(family.lists)),
        sampling=Sampling(
            sampler=None, scheduler=None, steps=STEPS, cfg=None, size=None, prediction="flow" if flow else None
        ),
        plan=SegmentsPlan((Segment(2, 2, -1, "linear"),) * (STEPS // 2), noise=family.noise),
        provenance=Provenance("heuristic", tool="tools/make_heuristic_presets.py"),
    )


def presets() -> list[Schedule]:
    """All hand-made presets, by family."""
    result = [head_only(FAMILIES[name]) for name in WITH_ROOM]
    for family in FAMILIES.values():
        if family.lists:
            continue
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
        result += [turns(family, fulls) for fulls in FULL_STEPS]
    return result


def main(folder: Path) -> None:
    """Writes every preset as FOLDER/NAME.json."""
    for schedule in presets():
        write(folder / f"{schedule.name}.json", schedule)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "schedules")
