"""Which schedules fit which networks, and what is said where the settings are others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import Network, build
from torch import nn

from flexiffusion.errors import ModelMismatch
from flexiffusion.families import FAMILIES, Family
from flexiffusion.fit import family_of, made_for, misfit, require_fit
from flexiffusion.metadata import Metric, ModelInfo, Sampling
from flexiffusion.presets import Preset
from flexiffusion.schedule import FULL, Action, Schedule, Segment, SegmentsPlan, Step, StepsPlan

MADE = Schedule(
    "made",
    ModelInfo("sd15", 12),
    Sampling("dpmpp_2m", "karras", 6, 7.0, (512, 512), "epsilon"),
    SegmentsPlan((Segment(3, 2), Segment(3, 1))),
    levels=(14.0, 7.0, 4.0, 2.0, 1.0, 0.1),
    metrics=(Metric("relative_fid", 3.14159, 256),),
)


class TestNetwork:
    def test_families(self, monkeypatch: pytest.MonkeyPatch, every_network: Network) -> None:
        text = any(name.endswith("attn2.to_k") for name, _ in every_network.unet.named_modules())
        monkeypatch.setitem(FAMILIES, "tiny", Family("tiny", "tiny", 8, every_network.branches, 64, 1.0))
        assert family_of(every_network.unet) == ("tiny" if text else None)

    def test_the_real_widths(self) -> None:
        import diffusers

        with torch.device("meta"):
            unet = diffusers.UNet2DConditionModel(cross_attention_dim=768)
        assert family_of(unet) == "sd15"

    def test_what_fits_is_accepted(self, sd1: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        require_fit(replace(MADE, model=ModelInfo("mine", 12)), sd1.unet)  # a family of one's own: branches decide
        monkeypatch.setitem(FAMILIES, "sd15", replace(FAMILIES["sd15"], width=8))
        require_fit(MADE, sd1.unet)

    def test_another_family_is_refused_with_those_that_fit(self, sd1: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(FAMILIES, "sd21", replace(FAMILIES["sd21"], width=8))
        presets = [
            Preset(Path(f"{name}.json"), replace(MADE, model=ModelInfo(family, 12)))
            for name, family in (("a", "sd15"), ("b", "sd21"), ("c", "sd21"))
        ]
        with pytest.raises(ModelMismatch, match=r"made: made for sd15 with 12 .* is sd21 with 12 .*that fit: b, c$"):
            require_fit(MADE, sd1.unet, presets)
        with pytest.raises(ModelMismatch, match="Use a schedule made for this model"):
            require_fit(MADE, sd1.unet)

    @pytest.mark.parametrize(("name", "described"), [("compvis-ldm4", "text of width 8"), ("ddpm-cifar10", "no text")])
    def test_an_unknown_network_is_not_of_a_known_family(self, name: str, described: str) -> None:
        """The refiner of SDXL, and any U-Net of 12 branches, took schedules for SD1.5 without a word."""
        with pytest.raises(ModelMismatch, match=f"unknown family with 12 branches and {described}"):
            require_fit(MADE, build(name).unet)

    def test_the_refiner_of_sdxl_is_not_sd15(self) -> None:
        import diffusers

        with torch.device("meta"):
            blocks = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
            refiner = diffusers.UNet2DConditionModel(
                cross_attention_dim=1280, block_out_channels=(384, 768, 1536, 1536), down_block_types=blocks,
                up_block_types=tuple(b.replace("Down", "Up") for b in reversed(blocks)), attention_head_dim=64,
            )  # fmt: skip
        with pytest.raises(ModelMismatch, match="12 branches and text of width 1280"):
            require_fit(MADE, refiner)

    def test_other_branches_are_refused(self) -> None:
        with pytest.raises(ModelMismatch, match="an unknown one with 9 branches"):
            require_fit(MADE, build("sdxl").unet)

    def test_dropped_layers_must_be_there(self, sd1: Network) -> None:
        def made(name: str) -> Schedule:
            steps = StepsPlan((Step(3.0, FULL), Step(1.0, Action("full", drop=(name,)))))
            return replace(MADE, model=ModelInfo("mine", 12), plan=steps, levels=None)

        require_fit(made("middle_block.1"), sd1.unet)
        with pytest.raises(ModelMismatch, match=r"schedule made: dropped unit middle_block\.3"):
            require_fit(made("middle_block.3"), sd1.unet)

    def test_no_unet(self) -> None:
        with pytest.raises(ModelMismatch):
            require_fit(MADE, nn.Linear(1, 1))


class TestSettings:
    def test_the_same_settings_need_no_word(self) -> None:
        assert misfit(MADE) is None
        same = {"sampler": "dpmpp_2m", "steps": 6, "cfg": 7.0, "size": (512, 512), "prediction": "epsilon"}
        assert misfit(MADE, **same, levels=(14.001, 7.0, 4.0, 2.0, 1.0, 0.1)) is None  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("setting", "said"),
        [
            ({"sampler": "euler"}, "sampler euler"),
            ({"steps": 20}, "20 steps"),
            ({"cfg": 5.5}, "cfg 5.5"),
            ({"size": (512, 768)}, "512 x 768 pixels"),
            ({"prediction": "v_prediction"}, "v_prediction model"),
            ({"levels": (14.0, 8.0, 4.0, 2.0, 1.0, 0.1)}, "other noise levels"),
        ],
    )
    def test_what_differs_is_said_with_the_numbers(self, setting: dict[str, object], said: str) -> None:
        text = misfit(MADE, **setting)  # type: ignore[arg-type]
        assert text is not None and f"here: {said}" in text
        assert "dpmpp_2m, karras, 6 steps, cfg 7, 512 x 512 pixels, epsilon, relative_fid 3.14 over 256 images" in text

    @pytest.mark.parametrize("setting", [{"size": (512, 640)}, {"cfg": 3.0}, {"levels": (9.0, 4.0)}])
    def test_a_rule_that_nobody_measured_is_no_better_at_its_own_settings(self, setting: dict[str, object]) -> None:
        """Every size but 512 x 512 had "its quality was not measured there", of rules that were measured nowhere."""
        rule = replace(MADE, metrics=())
        assert misfit(rule, **setting) is None  # type: ignore[arg-type]
        said = misfit(rule, sampler="euler")
        assert said is not None and "here: sampler euler" in said and "measured" not in said

    def test_what_is_open_is_not_compared(self) -> None:
        made = replace(MADE, sampling=Sampling(None, None, 6, None, None, None), levels=None, metrics=())
        assert misfit(made, sampler="euler", cfg=1.0, size=(1, 1), prediction="sample", levels=(3.0,)) is None
        assert made_for(made) == "any sampler, 6 steps, a hand-made rule"

    def test_names_of_one_solver(self) -> None:
        made = replace(MADE, sampling=replace(MADE.sampling, sampler="ddim"))
        assert misfit(made, sampler="euler") is None

    def test_a_steps_plan_brings_its_own_steps(self) -> None:
        made = replace(MADE, plan=StepsPlan((Step(3.0, FULL), Step(1.0, FULL))), levels=None)
        assert misfit(made, steps=50) is None
