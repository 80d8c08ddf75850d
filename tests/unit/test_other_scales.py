"""Images at other guidance scales: which scales, and where the teacher ends there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings
from flexsearch.sampling import guidance
from flexsearch.sampling.guidance import other_scales

SMALL = Settings(model="tiny", steps=5, speedups=(2.0,), images=10, held_out=2, guidance=2.0, batch=16, planner=False)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(SMALL, tmp_path_factory.mktemp("references"))


def test_scales_that_people_draw_with_but_the_searchs_own(experiment: Experiment) -> None:
    assert other_scales(experiment.model, 2.0) == other_scales(experiment.model, 1.5) == (4.0, 7.5)
    assert other_scales(experiment.model, 3.0) == (7.5,)
    assert other_scales(experiment.model, 7.0) == (2.0, 4.0)


def test_without_guidance_there_are_none(experiment: Experiment, tmp_path: Path) -> None:
    assert other_scales(experiment.model, 1.0) == ()
    unconditional = Experiment(replace(SMALL, model="pixel", guidance=None), tmp_path)
    assert other_scales(unconditional.model, 4.0) == ()
    assert unconditional.refined_images == 10


def test_the_teacher_ends_where_a_search_at_that_scale_has_it(experiment: Experiment) -> None:
    first, second = experiment.search_evaluator.elsewhere
    assert experiment.refined_images == 10 + len(first.noise) + len(second.noise) == 16
    there = Experiment(replace(SMALL, guidance=4.0), experiment.folder).search_evaluator
    torch.testing.assert_close(first.noise, there.noise[:3], rtol=0, atol=0)
    torch.testing.assert_close(first.wanted, there.references["teacher"].latents[:3], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first.wanted, second.wanted, atol=0.01)


def test_a_scale_at_which_samples_are_not_finite_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "SCALES", (4.0, 1e30))
    (only,) = Experiment(replace(SMALL, images=2), tmp_path).search_evaluator.elsewhere
    assert only.wanted.isfinite().all()
