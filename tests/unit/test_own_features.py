"""Features from the checkpoint's own network: U-Nets with and without text, a transformer run by its pipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from flexsearch.errors import ConfigError
from flexsearch.metrics.own_features import OwnFeatures
from flexsearch.models.load import load_model
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings


@pytest.mark.parametrize("name", ["tiny", "pixel", "emoji"])
def test_they_tell_of_each_picture_alone(name: str) -> None:
    features = OwnFeatures(load_model(name, "cpu", "float32", None, "auto", False))
    latents = torch.randn(4, *features.model.latent_shape, generator=torch.Generator().manual_seed(0))
    whole = features(latents, 4)
    assert whole.shape[0] == 4 and whole.dim() == 2 and whole.isfinite().all()
    assert torch.allclose(whole, features(latents, 3), rtol=1e-3, atol=1e-4), "the batch makes no difference"
    changed = latents.clone()
    changed[2] += 0.5
    other = (features(changed, 4) - whole).abs().amax(1)
    assert other[2] > 1e-3 and other[[0, 1, 3]].max() < 1e-3 * other[2].item() + 1e-4
    assert not features.unit._forward_hooks, "nothing stays on the network"


@pytest.mark.parametrize(("model", "asked", "name"), [
    ("tiny", "auto", "bundled"), ("pixel", "auto", "bundled"), ("emoji", "auto", "model"), ("tiny", "model", "model"),
])  # fmt: skip
def test_what_auto_is(model: str, asked: str, name: str, tmp_path: Path) -> None:
    assert Experiment(Settings(model=model, features=asked), tmp_path).features_name == name


def test_real_pictures_have_no_latents(tmp_path: Path) -> None:
    settings = Settings(model="tiny", features="model", method="autodiffusion", error="fid", reference=str(tmp_path))
    experiment = Experiment(dataclasses.replace(settings), tmp_path)
    with pytest.raises(ConfigError, match=r"real pictures have none.*inception:FILE"):
        _ = experiment.features
