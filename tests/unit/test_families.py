"""Families are told by the sizes of their networks: a trunk of real block counts and widths, on the meta device."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from drawn_schedules import schedule, segments
from torch import nn

from flexiffusion.errors import ModelMismatch
from flexiffusion.families import FAMILIES, Family
from flexiffusion.fit import distilled, family_of, require_fit, require_noise
from flexiffusion.metadata import ModelInfo, Sampling
from flexsearch.models.few_steps import few_step_facts

TRANSFORMERS = [family for family in FAMILIES.values() if family.lists]


class Block(nn.Module):
    """The linear layers of one block: attention, modulation, MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, width)])


def trunk(family: Family, **changed: Any) -> nn.Module:
    """A network with the block lists of a family, as ComfyUI calls them."""
    network = nn.Module()
    lists, width = changed.get("lists", family.lists), changed.get("width", family.width)
    names = ("double_blocks", "single_blocks") if len(lists) == 2 else ("blocks",)
    with torch.device("meta"):
        for name, count in zip(names, lists, strict=True):
            setattr(network, name, nn.ModuleList(Block(width) for _ in range(count)))
    if family.marker is not None:
        setattr(network, family.marker, nn.Identity())
    return network


@pytest.mark.parametrize("family", TRANSFORMERS, ids=lambda family: family.name)
def test_a_transformer_is_recognised(family: Family) -> None:
    assert family_of(trunk(family)) == family.name
    assert family.branches == sum(family.lists) - 1


def test_another_width_is_another_family() -> None:
    assert family_of(trunk(FAMILIES["flux"], width=1024)) is None
    assert family_of(trunk(FAMILIES["flux"], lists=(19, 37))) is None


def for_flux(**more: Any) -> Any:
    plan = replace(segments("FPFPFP", branch=-1, predictor="linear"), noise="flow")
    return schedule(plan, model=ModelInfo("flux", 56), sampling=Sampling(None, None, 6, None, None, "flow"), **more)


def test_a_schedule_fits_its_family() -> None:
    require_fit(for_flux(), trunk(FAMILIES["flux"]))


def test_an_unknown_transformer_with_as_many_blocks_is_refused() -> None:
    with pytest.raises(ModelMismatch, match=r"made for flux, but .* unknown family with 57 blocks of width 1024"):
        require_fit(for_flux(), trunk(FAMILIES["flux"], width=1024))


def test_levels_of_another_kind_are_refused() -> None:
    require_noise(for_flux(), "flow", "a Flux")
    with pytest.raises(ModelMismatch, match=r"made for noise levels of a flow model, .* sampled over sigmas"):
        require_noise(for_flux(), "vp", "a Flux")
    with pytest.raises(ModelMismatch, match=r"made for sigmas of a diffusion model, .* noise levels of a flow model"):
        require_noise(schedule(segments("FPFPFP")), "flow", "an SDXL with flow matching")


class TestDistilled:
    """What tells schnell from dev, as hosts keep it."""

    @pytest.mark.parametrize(("place", "name"), [("config", "guidance_embeds"), ("params", "guidance_embed")])
    @pytest.mark.parametrize(("told", "few"), [(False, True), (True, False)])
    def test_a_flux_that_is_told_no_guidance(self, place: str, name: str, told: bool, few: bool) -> None:
        network = trunk(FAMILIES["flux"])
        setattr(network, place, SimpleNamespace(**{name: told}))
        sentence = distilled(network)
        assert (sentence is not None) == few and (sentence is None or "FLUX.1 schnell" in sentence)

    def test_as_forge_keeps_it(self) -> None:
        network = trunk(FAMILIES["flux"])
        network.guidance_embed = False  # type: ignore[assignment]
        assert distilled(network) is not None

    def test_others_say_nothing(self) -> None:
        assert distilled(trunk(FAMILIES["flux"])) is None
        for network in (trunk(FAMILIES["flux2"]), trunk(FAMILIES["flux"], width=1024), nn.Linear(2, 2)):
            network.params = SimpleNamespace(guidance_embed=False)  # type: ignore[assignment]
            assert distilled(network) is None

    def test_a_pipelines_own_facts(self) -> None:
        for facts in (("flux", {"guidance_embeds": False}, {}), ("flux2-klein-4b", {}, {"is_distilled": True})):
            (note,) = few_step_facts(*facts)
            assert "nothing is to be gained" in note
        for facts in (("flux", {"guidance_embeds": True}, {}), ("custom", {"guidance_embeds": False}, {})):
            assert few_step_facts(*facts) == ()
