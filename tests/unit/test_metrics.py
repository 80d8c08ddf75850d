from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flexiffusion.search.paired import estimate, mean_root, ratio_interval, squared_error
from flexsearch.errors import ConfigError
from flexsearch.metrics.features import device_of, extract, load_features
from flexsearch.metrics.relative_fid import RelativeFid, frechet_distance
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestPaired:
    def test_mean_squared_difference_per_image(self) -> None:
        reference = torch.zeros(2, 1, 2, 2)
        candidate = torch.stack([torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), -2.0)])
        assert squared_error(candidate, reference).tolist() == [0.25, 4.0]

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(ValueError, match="shapes differ"):
            squared_error(torch.zeros(2, 3), torch.zeros(1, 3))

    def test_interval_covers_the_true_mean(self) -> None:
        """95 % of 95 % intervals hold the mean that the errors were drawn with."""
        covered = 0
        for seed in range(200):
            errors = np.random.default_rng(seed).gamma(4.0, 0.25, size=64)  # mean 1
            made = estimate(errors)
            covered += made.low <= 1.0 <= made.high
            assert made.low <= made.mean <= made.high and made.n == 64
        assert 0.88 <= covered / 200 <= 0.99

    def test_mean_root(self) -> None:
        assert mean_root(np.array([1e-4, 9e-4])) == pytest.approx(4e-4)
        assert mean_root(np.zeros(3)) == 0.0

    def test_worst_decile(self) -> None:
        assert estimate(np.arange(20.0)).worst_decile == 18.5

    def test_pairing_narrows_the_ratio(self) -> None:
        """Images differ by more than schedules do; the paired interval sees only the schedules."""
        images = np.random.default_rng(0).gamma(1.0, 1.0, size=50)
        ratio, low, high = ratio_interval(images * 0.8, images)
        assert ratio == pytest.approx(0.8) and low == pytest.approx(0.8) and high == pytest.approx(0.8)
        assert estimate(images * 0.8).high > estimate(images).low  # the plain intervals overlap


class TestRelativeFid:
    def test_equal_features_have_none(self) -> None:
        features = normal(40, 6, 0)
        assert RelativeFid(features)(features) == pytest.approx(0, abs=1e-6)

    def test_a_shift_costs_its_squared_length(self) -> None:
        features = normal(40, 6, 0)
        assert RelativeFid(features)(features + 0.5) == pytest.approx(6 * 0.25, rel=1e-6)

    def test_a_scale_costs_the_difference_of_the_roots(self) -> None:
        """Frechet distance of N(0, C) and N(0, s^2 C): (s - 1)^2 tr C."""
        features = normal(200, 4, 0)
        features = features - features.mean(dim=0)
        trace = float(torch.cov(features.T).diagonal().sum())
        assert RelativeFid(features)(features * 1.5) == pytest.approx(0.25 * trace, rel=1e-6)

    def test_bounded_by_the_paired_distance(self) -> None:
        """At most n / (n - 1) times the paired mean squared distance (docs/method.md 4)."""
        reference = normal(50, 8, 0)
        candidate = reference + 0.3 * normal(50, 8, 1)
        paired = float(squared_error(candidate, reference).mean()) * 8
        assert RelativeFid(reference)(candidate) <= 50 / 49 * paired

    def test_unequal_n_is_refused(self) -> None:
        with pytest.raises(ValueError, match="30 images against 40"):
            RelativeFid(normal(40, 3, 0))(normal(30, 3, 1))

    def test_used_again_it_forgets_the_first_candidate(self) -> None:
        fid = RelativeFid(normal(40, 3, 0))
        first = fid(normal(40, 3, 1))
        fid(normal(40, 3, 2) + 5)
        assert fid(normal(40, 3, 1)) == pytest.approx(first)

    def test_real_sets_may_differ_in_size(self) -> None:
        assert frechet_distance(normal(3000, 3, 0), normal(2000, 3, 1)) < 0.02


class Halves(nn.Module):
    num_features = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images[..., :4].mean((1, 2, 3)), images[..., 4:].mean((1, 2, 3))], dim=1)


class TestFeatureModules:
    def test_any_module_by_import_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(Path(__file__).parent)
        module = load_features("test_metrics:Halves")
        images = torch.rand(5, 3, 8, 8)
        assert torch.allclose(extract(module, images, batch=2), Halves()(images))

    def test_the_bundled_one(self) -> None:
        module = load_features("bundled")
        assert extract(module, torch.rand(3, 3, 32, 32)).shape == (3, module.num_features)

    def test_inception_from_a_local_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The real network of torch-fidelity, with random weights in the place of the published ones."""
        extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="extra inception")
        inception = extractor.FeatureExtractorInceptionV3
        weights = tmp_path / "weights.pth"
        torch.save({}, weights)
        with monkeypatch.context() as patch:
            patch.setattr(inception, "load_state_dict", lambda self, _: torch.save(self.state_dict(), weights))
            inception("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))
        module = load_features(f"inception:{weights}")
        features = extract(module, torch.rand(2, 3, 32, 32))
        assert features.shape == (2, 2048) and not torch.equal(features[0], features[1])

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("inception", "names no weights file"),
            ("inception:/no/such/file", "names no weights file"),
            ("resnet", "is not known"),
            ("no_such_package:Class", "cannot be imported"),
            ("torch.nn:NoSuchClass", "cannot be imported"),
            ("torch.nn:ReLU", "integer num_features"),
        ],
    )
    def test_bad_names(self, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_features(name)


class OnMeta(torch.nn.Module):
    """A module on another device than the images, which says where it was given them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(1, device="meta"))
        self.given: set[str] = set()

    def forward(self, images: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        self.given |= {tensor.device.type for tensor in (images, other) if tensor is not None}
        return torch.zeros(len(images), 2)


def test_features_are_computed_where_their_module_is() -> None:
    """Not on the CPU beside an idle GPU."""
    module = OnMeta()
    assert extract(module, torch.rand(3, 3, 8, 8), batch=2).shape == (3, 2)
    assert module.given == {"meta"}
    assert device_of(torch.nn.Identity()) == torch.device("cpu")


def test_the_runs_features_are_on_the_models_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(Settings(steps=6, speedups=(2.0,)), tmp_path)
    device = experiment.model.device
    moved: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: moved.append(device) or module)
    _ = experiment.features
    assert moved == [device]
