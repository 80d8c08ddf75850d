"""Auto: a schedule searched for this checkpoint, else one of its family, else the rule; nothing for few-step models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flexiffusion.auto import Chosen, Setting, choose, few_steps, speedup_of
from flexiffusion.errors import ScheduleError
from flexiffusion.metadata import Cost, ModelInfo, Provenance, Sampling
from flexiffusion.presets import Preset
from flexiffusion.schedule import FULL, Action, Schedule, Segment, SegmentsPlan, Step, StepsPlan

PRINT = tuple(i / 16 for i in range(16))
OTHER = tuple(i / 17 for i in range(16))
SDXL = ModelInfo("sdxl", 9)
LEVELS = [14.6146 * 0.8**i for i in range(30)]
HERE = Setting(LEVELS, "vp", "dpmpp_2m", 7.0, (1024, 1024), "epsilon")
PARTIAL = Action("partial", -1, "linear")


def searched(
    name: str = "searched", speedup: float = 2.0, fingerprint: tuple[float, ...] | None = None, **changes: object
) -> Preset:
    """With weights of its own, of half as many full steps as the teacher had."""
    steps = tuple(Step(14.6 * 0.7**i, PARTIAL if i % 2 else FULL, (1.0,)) for i in range(30))
    schedule = Schedule(
        name,
        replace(SDXL, fingerprint=fingerprint),
        Sampling("euler", "normal", 30, 7.0, (1024, 1024), "epsilon"),
        StepsPlan(steps),
        cost=Cost(speedup_macs=speedup),
        provenance=Provenance("searched", "test", 0, 10),
    )
    return Preset(Path(name), replace(schedule, **changes))  # type: ignore[arg-type]


def auto(
    *presets: Preset,
    speedup: float = 2.0,
    setting: Setting = HERE,
    loaded: tuple[float, ...] = PRINT,
    model: ModelInfo = SDXL,
) -> Chosen:
    return choose(speedup, setting, model, presets, lambda known: tuple(known) == loaded)


def test_the_checkpoints_own_comes_first() -> None:
    found = auto(searched("a of the family"), searched("z of this one", fingerprint=PRINT))
    assert found.source == "checkpoint" and found.schedule is not None and found.schedule.name == "z of this one"
    assert found.said == "Auto: z of this one, searched for this checkpoint, 2.00x"


def test_then_one_of_the_family_then_the_rule() -> None:
    found = auto(searched("other", fingerprint=OTHER))
    assert found.source == "family" and "other" in found.said and "another checkpoint of SDXL" in found.said
    found = auto()
    assert found.source == "rule" and found.schedule is not None and found.schedule.sampling.steps == 30
    assert "the rule for 2x" in found.said and "15 full steps in the place of 30" in found.said


def test_the_nearest_speed_up_is_taken_and_none_that_is_far() -> None:
    presets = (searched("2.2", 2.2), searched("2.05", 2.05), searched("3", 3.0))
    assert "2.05" in auto(*presets).said
    assert " 3," in auto(*presets, speedup=3.0).said
    assert auto(*presets, speedup=2.65).source == "family" and "3," in auto(*presets, speedup=2.7).said
    assert auto(*presets, speedup=4.0).source == "rule"


@pytest.mark.parametrize(
    "setting",
    [
        replace(HERE, cfg=2.0),
        replace(HERE, size=(512, 512)),
        replace(HERE, levels=LEVELS[:20]),
        replace(HERE, levels=LEVELS[4:]),
        replace(HERE, prediction="v_prediction"),
        replace(HERE, noise="flow", levels=[1 - i / 30 for i in range(30)]),
    ],
    ids=["guidance", "size", "fewer steps", "img2img", "prediction", "flow"],
)
def test_of_a_family_only_nearly_these_settings(setting: Setting) -> None:
    assert auto(searched(), setting=setting).source == "rule"


def test_of_the_very_checkpoint_guidance_and_size_may_differ() -> None:
    found = auto(searched(fingerprint=PRINT), setting=replace(HERE, cfg=3.0, size=(512, 512)))
    assert found.source == "checkpoint"


def test_of_schedules_with_their_own_solvers_the_one_that_followed_this_sampler() -> None:
    """Two searches for 2x on one model, with two samplers: each sampler gets back what was found with it."""
    presets = [
        searched(name, factor, PRINT, sampling=Sampling(name, "normal", 30, 7.0, (1024, 1024), "epsilon"))
        for name, factor in (("euler", 2.0), ("dpmpp_2m", 2.1))
    ]
    for name in ("euler", "dpmpp_2m"):
        assert f"Auto: {name}, searched" in auto(*presets, setting=replace(HERE, sampler=name)).said
    faster = searched("far", 2.9, PRINT, sampling=Sampling("heun", "normal", 30, 7.0, (1024, 1024), "epsilon"))
    assert "Auto: euler," in auto(presets[0], faster, setting=replace(HERE, sampler="heun")).said, "not at any speed-up"


def test_the_sampler_counts_where_the_file_brings_none() -> None:
    plan = SegmentsPlan((Segment(2, 2, -1, "linear"),) * 15)
    own = searched(plan=plan)
    assert auto(own, setting=replace(HERE, sampler="ddim")).source == "family", "DDIM is Euler"
    assert auto(own).source == "rule"


def test_hand_made_files_and_other_networks_are_passed_over() -> None:
    assert auto(searched(provenance=Provenance("heuristic"))).source == "rule"
    assert auto(searched(fingerprint=PRINT), model=ModelInfo("sd15", 12)).source == "rule"


def test_a_network_that_cannot_be_cut_has_levels_taken_out() -> None:
    found = choose(2.0, HERE, SDXL, [searched()], cut=False)
    assert found.source == "rule" and found.schedule is not None and "cannot be cut" in found.said
    assert sum(action.kind == "null" for action in found.schedule.plan.actions()) == 15


@pytest.mark.parametrize(
    ("setting", "family", "why"),
    [
        (replace(HERE, levels=LEVELS[:8]), "sdxl", "8 steps are few already"),
        (replace(HERE, levels=LEVELS[:12], cfg=1.0), "sdxl", "distilled"),
        (replace(HERE, levels=LEVELS[:16], sampler="lcm"), "sdxl", "sampler lcm"),
        (replace(HERE, levels=LEVELS[:12], cfg=1.0), "flux", None),
        (replace(HERE, levels=LEVELS[:12]), "sdxl", None),
        (replace(HERE, cfg=1.0), "sdxl", None),
    ],
)
def test_few_step_models_are_sampled_plainly(setting: Setting, family: str, why: str | None) -> None:
    said = few_steps(setting, family)
    assert (said is None) == (why is None) and (why or "") in (said or "")
    found = choose(2.0, setting, ModelInfo(family, 9), [searched()])
    assert (found.source == "plain" and "nothing to gain" in found.said) == (why is not None)


@pytest.mark.parametrize(("cfg", "family", "kinds"), [
    (4.0, "qwen-image", {"full"}), (1.0, "qwen-image", {"full", "partial"}), (None, "flux", {"full", "partial"}),
    (None, "z-image", {"full"}),
])  # fmt: skip
def test_the_rule_for_flow_models_depends_on_guidance(cfg: float | None, family: str, kinds: set[str]) -> None:
    setting = Setting([1 - i / 30 for i in range(30)], "flow", "euler", cfg)
    made = choose(2.0, setting, ModelInfo(family, 29)).schedule
    assert made is not None and {action.kind for action in made.plan.actions()} == kinds


def test_speed_up_one_is_plain() -> None:
    assert auto(searched(speedup=1.0, fingerprint=PRINT), speedup=1.0).source == "plain"


def test_a_search_may_have_found_a_faster_one_than_was_asked() -> None:
    """A search for 2x kept one of 2.33x, and the slider at 2 did not take it."""
    assert auto(searched(speedup=2.9), speedup=2.0).source == "family"
    assert auto(searched(speedup=3.1), speedup=2.0).source == "rule"
    assert auto(searched(speedup=1.7), speedup=2.0).source == "rule"


@pytest.mark.parametrize("speedup", [0.5, 5.0])
def test_a_speed_up_out_of_range_is_refused(speedup: float) -> None:
    with pytest.raises(ScheduleError, match="1 to 4"):
        auto(speedup=speedup)


def test_speed_ups_are_counted_against_the_hosts_steps() -> None:
    made = searched(speedup=2.0).schedule
    assert speedup_of(made, 30) == 2 and speedup_of(made, 20) == pytest.approx(20 / 15)
    segments = replace(made, plan=SegmentsPlan((Segment(2, 2, -1),) * 15), cost=None)
    assert speedup_of(segments, 30) == 2 and speedup_of(segments, 40) == 2
