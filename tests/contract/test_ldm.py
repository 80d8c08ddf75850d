"""The tests' own networks in the LDM layout are those that Stable Diffusion checkpoints were made with.

Runs where ldm is installed, an extra (pyproject.toml); .ci/run installs it.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from calls import assert_partial_after_full_is_the_same
from ldm_decoder import Decoder
from networks import LDM_NETWORKS, build, original

from flexiffusion.layouts import find_layout

pytestmark = pytest.mark.skipif(original() is None, reason="ldm is not installed (an extra, see pyproject.toml)")


@pytest.mark.parametrize("name", LDM_NETWORKS)
def test_the_original_loads_our_weights_and_gives_the_same_output(name: str) -> None:
    ours, theirs = build(name), build(f"{name}-original")
    theirs.unet.load_state_dict(ours.unet.state_dict())
    sample, conditioning = ours.sample(size=(16, 24)), ours.conditioning(2)
    for timestep in (0, 500, 999):
        expected = theirs(sample, conditioning, timestep)
        torch.testing.assert_close(ours(sample, conditioning, timestep), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LDM_NETWORKS)
def test_units_are_those_of_the_original(name: str) -> None:
    """Same places and same class names: by these the layout recognises units."""
    ours, theirs = (find_layout(build(made).unet) for made in (name, f"{name}-original"))
    assert [type(unit).__name__ for unit in ours.units] == [type(unit).__name__ for unit in theirs.units]
    assert list(ours.droppable) == list(theirs.droppable)


@pytest.mark.parametrize("name", LDM_NETWORKS)
def test_partial_after_full_is_bitwise_the_same_on_the_original(name: str) -> None:
    """All other contracts on the original are slow tests."""
    theirs = build(f"{name}-original")
    assert_partial_after_full_is_the_same(theirs, theirs.sizes[1])


@torch.no_grad()
def test_the_decoder_is_the_original() -> None:
    config = {
        "ch": 32, "out_ch": 3, "ch_mult": (1, 2, 1), "num_res_blocks": 2, "attn_resolutions": [], "in_channels": 3,
        "resolution": 64, "z_channels": 4,
    }  # fmt: skip
    ours = Decoder(**config)
    theirs = importlib.import_module("ldm.modules.diffusionmodules.model").Decoder(**config)
    theirs.load_state_dict(ours.state_dict())
    latents = torch.randn(2, 4, 8, 12)
    torch.testing.assert_close(ours(latents), theirs(latents), rtol=1e-4, atol=1e-5)
