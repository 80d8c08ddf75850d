"""A number that is not finite is never the best, and never ends a run: in every layer that compares or writes."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from flexiffusion.search.front import front
from flexiffusion.search.objective import Objective
from flexiffusion.search.paired import Estimate, estimate, mean_root, ratio_interval, resampled_means
from flexiffusion.search.racing import race
from flexsearch.errors import ModelError
from flexsearch.metrics.perceptual import lpips_errors
from flexsearch.metrics.relative_fid import RelativeFid, frechet_distance
from flexsearch.models.load import load_model
from flexsearch.report import figures, plot
from flexsearch.report.rows import Row, comparisons, rows_from
from flexsearch.report.table import DIVERGED, FinalTable, error_text, markdown
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings

FINE = np.linspace(1e-4, 2e-4, 16)
BAD = np.where(np.arange(16) == 3, np.nan, FINE)
INFINITE = np.where(np.arange(16) == 3, np.inf, FINE)


def row(kind: str, speedup: float | None, images: np.ndarray, fid: float = 0.5) -> Row:
    key = "latent/teacher"
    return Row(kind, kind, speedup, 6, 0, 6.0, 1e9, 5.0, 0.1, 4.0, {key: estimate(images)}, fid, 16,
               image_errors={key: tuple(images.tolist())})  # type: ignore[arg-type]  # fmt: skip


ROWS = (row("teacher", None, FINE), row("found", 5.0, BAD, math.inf), row("plain", 5.0, FINE),
        row("deepcache", 5.0, INFINITE, math.inf))  # fmt: skip


class TestMetrics:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_relative_fid_of_features_that_are_not_finite_is_no_perfect_score(self, value: float) -> None:
        reference = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        features = reference.clone()
        assert RelativeFid(reference)(features) == pytest.approx(0, abs=1e-6)
        features[2, 1] = value
        assert RelativeFid(reference)(features) == math.inf
        assert frechet_distance(features, reference) == math.inf

    def test_lpips_of_a_diverged_picture_is_infinite(self) -> None:
        class Distance(torch.nn.Module):
            def forward(self, image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
                if not image.isfinite().all():
                    raise ValueError("Expected both input arguments to be normalized")  # as torchmetrics does
                return (image - other).abs().mean()

        images = torch.rand(2, 3, 8, 8)
        other = images.clone()
        images[1, 0, 0, 0] = math.nan
        assert lpips_errors(Distance(), images, other).tolist() == [0.0, math.inf]

    @pytest.mark.parametrize("errors", [BAD, INFINITE])
    def test_an_estimate_is_infinite_and_json(self, errors: np.ndarray) -> None:
        made = estimate(errors)
        assert made.mean == made.low == made.high == made.worst_decile == math.inf
        assert Estimate.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made

    def test_ratios(self) -> None:
        assert ratio_interval(BAD, FINE) == (math.inf,) * 3
        assert ratio_interval(FINE, BAD) == (0.0,) * 3
        assert all(map(math.isnan, ratio_interval(BAD, INFINITE)))
        assert all(map(math.isnan, ratio_interval(FINE, np.zeros(16))))

    def test_resamples_are_the_same_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Many images are resampled in parts: the memory is bounded, the numbers are the same."""
        whole = resampled_means(FINE)
        monkeypatch.setattr("flexiffusion.search.paired.AT_ONCE", 100)
        np.testing.assert_array_equal(resampled_means(FINE), whole)


class TestSearch:
    @pytest.mark.parametrize("errors", [BAD, INFINITE])
    def test_a_diverged_candidate_does_not_win_its_race(self, errors: np.ndarray) -> None:
        judged = race(lambda first, last: errors[first:last], 16, FINE, Objective("latent"))
        assert not judged.error <= mean_root(FINE)

    def test_it_is_not_on_the_front(self) -> None:
        assert front([(math.inf, 5.0), (1e-4, 6.0), (math.inf, 7.0)]) == [1]

    def test_a_vae_of_nan_is_refused_after_the_first_pictures(self, tmp_path: Path) -> None:
        experiment = Experiment(Settings(images=2, steps=5, speedups=(2.0,)), tmp_path)
        weight = next(experiment.model.vae.decoder.parameters())
        weight.data = weight.data.clone().fill_(math.nan)
        with pytest.raises(ModelError, match="the pictures that its VAE makes of them are not"):
            _ = experiment.search_evaluator


class TestShown:
    def test_words_instead_of_a_number(self) -> None:
        assert error_text(math.inf, (math.inf, math.inf)) == error_text(math.nan, None) == DIVERGED
        console = Console(width=200, file=io.StringIO(), color_system=None)
        console.print(FinalTable(ROWS))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert DIVERGED in shown and "nan" not in shown and "inf" not in shown
        assert DIVERGED in markdown(ROWS)

    def test_it_is_worse_than_every_rival_that_is_finite(self) -> None:
        words = {item.rival: item.verdict for item in comparisons(ROWS)}
        assert words == {"plain": "worse", "deepcache": "no clear difference"}
        turned = (ROWS[0], replace(ROWS[2], kind="found"), replace(ROWS[1], kind="plain"))
        assert [item.verdict for item in comparisons(turned)] == ["better"]

    def test_a_finished_run_can_be_written_and_read(self) -> None:
        document = json.loads(json.dumps([item.to_dict() for item in ROWS], allow_nan=False))
        assert rows_from(document) == ROWS or repr(rows_from(document)) == repr(_infinite(ROWS))
        json.dumps([item.to_dict() for item in comparisons(ROWS)], allow_nan=False)

    def test_pictures_leave_it_out(self, tmp_path: Path) -> None:
        points = [figures.FrontPoint(6.0, item.errors["latent/teacher"].mean, item.kind) for item in ROWS]
        figures.front(tmp_path / "front.png", points, evaluated=[(5.0, 1e30), (5.0, math.inf), (6.0, 1e-4)])
        assert (tmp_path / "front.png").stat().st_size > 1000
        panels = plot.front(ROWS, [(5.0, math.inf), (5.0, 1e-3)], 30.0).panels
        assert len(panels[0].marks) == 2 and len(panels[-1].cloud) == 1


def _infinite(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """As they are read again: what was not finite is infinite."""
    return tuple(
        replace(item, image_errors={key: tuple(value if math.isfinite(value) else math.inf for value in values)
                                    for key, values in item.image_errors.items()})
        for item in rows
    )  # fmt: skip


def test_a_claim_of_a_schedule_that_diverges_is_refuted() -> None:
    from flexiffusion.schedule import Metric, ModelInfo, Provenance, Sampling, Schedule, Segment, SegmentsPlan
    from flexsearch.runs.claims import findings

    schedule = Schedule(
        name="mine",
        model=ModelInfo("tiny-fashion", 9),
        sampling=Sampling(
            sampler="dpmpp_2m", scheduler="uniform", steps=6, cfg=2.0, size=(32, 32), prediction="epsilon"
        ),
        plan=SegmentsPlan((Segment(6, 6, 0),)),
        metrics=(Metric("latent_mse", 1e-4, 64, None, "teacher", (9e-5, 2e-4)),),
        provenance=Provenance("searched", "flexsearch", 0, 1),
    )
    (found,) = findings(schedule, ROWS[1], {"teacher": (math.inf,) * 3})
    assert found.word == "refuted" and "diverged" in found.why


def test_a_finite_model_is_not_refused() -> None:
    assert load_model("tiny", "cpu", "float32").vae is not None
