"""What a search minimises, and what it counts in."""

from __future__ import annotations

import functools
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flexiffusion.cost import CostTable
from flexiffusion.search.candidate import plain
from flexiffusion.search.objective import Objective
from flexsearch.errors import ConfigError
from flexsearch.metrics import perceptual
from flexsearch.models import costs
from flexsearch.models.load import load_model
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings

SMALL = {"images": 12, "held_out": 2, "steps": 6, "speedups": (2.0,), "planner": False}


def test_the_mean_is_that_of_the_distances() -> None:
    assert Objective("latent").of(np.array([1e-4, 9e-4])) == pytest.approx(4e-4)


def test_the_worst_decile_is_that_of_the_worst_tenth() -> None:
    errors = np.array([0.0] * 18 + [1.0, 9.0])
    assert Objective("latent", "worst-decile").of(errors) == pytest.approx(4.0)
    assert Objective("latent", "worst-decile").of(errors[-3:]) == pytest.approx(9.0)


def test_only_means_of_paired_errors_race() -> None:
    assert Objective("features").races
    assert not Objective("latent", "worst-decile").races
    assert not Objective("rfid").races


@pytest.mark.parametrize(("method", "error"), [("placement", "latent"), ("flexiffusion", "rfid")])
def test_each_method_has_its_own_error_and_takes_another(method: str, error: str) -> None:
    assert Settings(method=method).objective == Objective(error)  # type: ignore[arg-type]
    assert Settings(method=method, error="features").objective == Objective("features")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"error": "ssim"}, "--error: 'ssim' is not known.*latent, features, lpips, rfid"),
        ({"statistic": "median"}, "--statistic.*mean, worst-decile"),
        ({"cost": "joules"}, "--cost.*macs, latency"),
        ({"error": "rfid", "statistic": "worst-decile"}, "--statistic: relative FID is one number"),
        ({"profile": {"unit": "ms", "full": 1.0, "partial": {}}}, "--profile.*--cost latency"),
    ],
)
def test_what_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(Settings(**SMALL), tmp_path_factory.mktemp("references"))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", ["latent", "features", "rfid"])
def test_the_engine_minimises_what_was_asked_for(experiment: Experiment, error: str) -> None:
    evaluator = experiment.search_evaluator
    candidate = plain(experiment.teacher[::2])
    outcome = evaluator.evaluate(candidate)
    judged = evaluator.judge(candidate, Objective(error))  # type: ignore[arg-type]
    expected = {
        "latent": lambda: Objective("latent").of(outcome.latent_errors("teacher")),
        "features": lambda: Objective("features").of(outcome.feature_errors("teacher")),
        "rfid": outcome.relative_fid,
    }[error]()
    assert judged.error == pytest.approx(expected)
    assert len(judged.errors) == (0 if error == "rfid" else 12)


def test_the_worst_decile_meets_all_images(experiment: Experiment) -> None:
    worst = experiment.search_evaluator.judge(plain(experiment.teacher[::2]), Objective("latent", "worst-decile"))
    assert len(worst.errors) == 12
    assert worst.error == pytest.approx(worst.errors.max())


class Perceptual(nn.Module):
    """Half the mean difference: in the place of LPIPS, whose weights are not here."""

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        assert image.shape[0] == 1 and image.shape[1:] == other.shape[1:] and float(other.min()) >= 0
        return (image - other).abs().mean() / 2


def test_lpips_compares_each_image_with_its_own(experiment: Experiment) -> None:
    evaluator = experiment.search_evaluator
    with mock.patch.object(type(evaluator), "lpips", Perceptual()):
        outcome = evaluator.evaluate(plain(experiment.teacher[::2]))
        shown = evaluator.references["teacher"].images.float() / 255
        expected = ((outcome.images - shown).abs().flatten(1).mean(1) / 2).square()
        assert np.allclose(outcome.perceptual_errors("teacher"), expected.numpy())
        assert evaluator.judge(plain(experiment.teacher), Objective("lpips")).error < 1e-5  # but for rounding to 8 bits


def test_lpips_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="lpips needs torchvision"):
        perceptual.load_lpips()
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda _name: object())
    with pytest.raises(ConfigError, match=r"alexnet.*nothing is downloaded unasked"):
        perceptual.load_lpips()


def test_milliseconds_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "measure_ms", functools.partial(costs.measure_ms, repeats=1))
    model, path = load_model("tiny", "cpu", "auto", None, "auto", False), tmp_path / "latency.json"
    first = costs.known_or_measured_ms(model, 2.0, 1, path)
    assert first.unit == "ms" and set(first.partial) == set(range(-1, model.branches))
    with mock.patch.object(costs, "measure_ms", side_effect=AssertionError("measured again")):
        assert costs.known_or_measured_ms(model, 2.0, 1, path) == first
    path.write_text("{")
    assert costs.known_or_measured_ms(model, 2.0, 1, path).unit == "ms"


def test_a_search_counts_in_the_given_device_s_milliseconds(tmp_path: Path) -> None:
    """On this one a partial step costs as much as a full one, so none is worth it."""
    dear = CostTable("ms", 10.0, dict.fromkeys(range(-1, load_model("tiny").branches), 10.0))
    experiment = Experiment(Settings(**SMALL, cost="latency", profile=dear.to_dict()), tmp_path)  # type: ignore[arg-type]
    assert experiment.costs == dear and experiment.macs.unit == "macs"
    kinds = [seed for seed in experiment.seeds if seed.kind == "alternating"]
    assert all(len(seed.candidate.places) <= 3 for seed in kinds)


def test_a_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    other = CostTable("ms", 10.0, {-1: 1.0, 0: 2.0})
    experiment = Experiment(Settings(**SMALL, cost="latency", profile=other.to_dict()), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--profile: it has branches -1 to 0, but tiny has"):
        _ = experiment.costs
