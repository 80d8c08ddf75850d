"""What the accordion says before anything is drawn: the steps that would be run, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drawn_schedules import schedule, segments, steps

from flexiffusion.families import FAMILIES
from flexiffusion.metadata import ModelInfo
from flexsearch.models import single_file
from flexsearch.models.costs import count_macs
from flexsearch.models.model import NetworkInputs, unet_skeleton
from tools.make_random_checkpoint import checkpoint_shape
from webui_extension.estimate import SHARES, Pass, cost, hires, image_to_image, outlook, sentence, text_to_image

TURNS = schedule(
    steps(*((14.6146 * 0.8**i, "FP"[i % 2]) for i in range(30)), branch=0), "turns", model=ModelInfo("sd15", 12)
)


class RealWidths:
    """As much of a model as costs are counted on, of the size that its family was trained at."""

    def __init__(self, name: Any) -> None:
        from diffusers import UNet2DConditionModel

        family = FAMILIES[name]
        self.branches, self.latent_shape = family.branches, (4, family.side // 8, family.side // 8)
        pooled, sizes = (torch.zeros(1, 1280), torch.zeros(1, 6)) if name == "sdxl" else (None, None)
        self.inputs = NetworkInputs(torch.zeros(1, 77, family.width), pooled, sizes)
        with torch.device("meta"):
            self.unet: Any = UNet2DConditionModel(**single_file.unet_config(checkpoint_shape(name, tiny=False)))

    def skeleton(self, guidance: float) -> Any:
        return unet_skeleton(self.unet, (1, *self.latent_shape), self.inputs)


@pytest.mark.parametrize("name", list(SHARES))
def test_shares_are_those_of_the_real_networks(name: str) -> None:
    model: Any = RealWidths(name)
    table = count_macs(model, 1.0)
    counted = tuple(round(table.partial[branch] / table.full, 3) for branch in range(model.branches))
    assert counted == SHARES[name]


@pytest.mark.parametrize(
    "made, expected",
    [
        (text_to_image(20), Pass(20)),
        (image_to_image(20, 0.3), Pass(7, 13)),  # the calls that AUTOMATIC1111 was seen to make
        (image_to_image(20, 0.5), Pass(11, 9)),
        (image_to_image(20, 1.0), Pass(20, 0)),
        (image_to_image(20, 0.0), Pass(1, 19)),
        (hires(8, 0.7), Pass(8, 3)),
        (hires(8, 1.0), Pass(8, 0)),
    ],
)
def test_passes_as_the_host_cuts_them(made: Pass, expected: Pass) -> None:
    assert made == expected


def test_the_plan_is_that_of_the_settings() -> None:
    drawn = schedule(segments("FPP FPN FPNN", 0), "drawn", 12)
    words, plan = sentence(drawn, Pass(10), "position")
    assert words == "of 10 steps 3 in full, 4 in part, 3 left out: at best about 3.0 times as fast"
    assert plan is not None and plan.nulls == 3
    # the last 4 of 10 steps have too few to gain anything, and 6 of them begin in the middle segment, in full
    assert sentence(drawn, Pass(4, 6), "position")[0].startswith("nothing to gain: drawn: 4 steps are too few")
    assert outlook(drawn, Pass(6, 4), "position").plan.actions[0].kind == "full"


def test_a_schedule_of_its_own_levels_is_thinned_to_the_asked_steps() -> None:
    assert len(outlook(TURNS, Pass(8), "position").plan.levels) == 8
    assert outlook(TURNS, Pass(60), "position").times == pytest.approx(60 / (15 + 15 * 0.079))
    assert outlook(TURNS, Pass(7, 13), "position").times > 1.5


def test_a_family_without_counts_is_judged_by_its_blocks() -> None:
    flux = schedule(segments("FP FP FP FP FP", -1), "flux", model=ModelInfo("flux", 56))
    assert cost(flux, flux.plan.actions()[1]) == 0
    assert "at best about 2.0 times" in sentence(flux, Pass(10), "position")[0]


def test_placing_by_level_what_records_none_is_said() -> None:
    drawn = schedule(segments("FP FP FP FP FP", 0), "drawn", 12)
    words, plan = sentence(drawn, Pass(10), "level")
    assert "records no noise levels" in words and plan is None
