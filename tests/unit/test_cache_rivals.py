"""diffusers' own caches as rivals: what they leave out is counted, and nothing of them stays on the network."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

from flexiffusion.search.candidate import plain
from flexsearch.evaluators.local import Outcome
from flexsearch.models.diffusers_caches import FORMS, Form, Meter, first_block_cache, taylorseer
from flexsearch.models.quiet import quiet_models
from flexsearch.runs import cache_rivals as cache_rivals_module
from flexsearch.runs import final_table
from flexsearch.runs.cache_rivals import cache_rivals, caching, cost, nearest_first_block_cache
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings
from tests.pipeline_folders import write_transformer_pipeline

PROMPTS = ("a red heart", "one yellow star", "a slice of pizza", "the face of a dog")
STEPS, IMAGES = 10, 2


def made(folder: Path, name: str) -> Experiment:
    quiet_models()
    settings = Settings(
        model=str(write_transformer_pipeline(folder / name, name)), device="cpu", size=(32, 32), guidance=3.0,
        steps=STEPS, speedups=(2.0,), images=IMAGES, held_out=2, prompts=PROMPTS, held_out_prompts=PROMPTS[:2],
    )  # fmt: skip
    return Experiment(dataclasses.replace(settings, teacher_solver="euler"), folder / "references")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return made(tmp_path_factory.mktemp("caches"), "flux")


def sampled(experiment: Experiment, cache: final_table.DiffusersCache, meter: Meter | None = None) -> Outcome:
    with caching(experiment.search_evaluator, cache, meter) as evaluator:
        return evaluator.evaluate(plain(experiment.teacher), solver="euler")


@pytest.fixture(scope="module")
def untouched(experiment: Experiment) -> torch.Tensor:
    return experiment.search_evaluator.evaluate(plain(experiment.teacher), solver="euler").trajectory.latents


def test_a_threshold_of_nothing_leaves_nothing_out(experiment: Experiment, untouched: torch.Tensor) -> None:
    meter = Meter()
    outcome = sampled(experiment, first_block_cache(0.0), meter)
    assert torch.allclose(outcome.trajectory.latents, untouched, atol=1e-5)
    assert meter.full == 1 and meter.macs(IMAGES) == pytest.approx(STEPS * experiment.macs.full)


def test_all_but_the_first_block_is_left_out_of_all_but_the_first_step(experiment: Experiment) -> None:
    meter = Meter()
    sampled(experiment, first_block_cache(1e9), meter)
    table = experiment.macs
    assert meter.full == pytest.approx(1 / STEPS)
    assert meter.macs(IMAGES) == pytest.approx(table.full + (STEPS - 1) * table.partial[0])


@pytest.mark.parametrize("form", FORMS)
def test_taylorseers_full_steps(form: Form, experiment: Experiment, untouched: torch.Tensor) -> None:
    """The first three, and from the fifth on one in the interval: diffusers' own rule."""
    meter = Meter()
    outcome = sampled(experiment, taylorseer(form, 1, 4, torch.float32), meter)
    assert meter.full == pytest.approx(5 / STEPS)  # 0, 1, 2, 4, 8 of 10
    assert not torch.allclose(outcome.trajectory.latents, untouched, atol=1e-5)


def test_the_lite_form_runs_no_block(experiment: Experiment) -> None:
    meter = Meter()
    sampled(experiment, taylorseer("lite", 1, 4, torch.float32), meter)
    table = experiment.macs
    assert meter.macs(IMAGES) <= 5 * table.full + (STEPS - 5) * table.partial[-1]


def test_each_trajectory_begins_anew_and_the_cache_is_off_afterwards(
    experiment: Experiment, untouched: torch.Tensor
) -> None:
    cache = first_block_cache(0.3)
    first, second = (sampled(experiment, cache).trajectory.latents for _ in range(2))
    assert torch.equal(first, second)
    again = experiment.search_evaluator.evaluate(plain(experiment.teacher), solver="euler").trajectory.latents
    assert torch.equal(again, untouched)


@pytest.mark.slow
def test_the_threshold_is_that_of_the_nearest_cost(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_rivals_module, "HALVINGS", 4)  # thresholds side by side are then a factor of 1.6 apart
    cache = nearest_first_block_cache(experiment, 6.0)
    assert cache is not None
    found = abs(cost(experiment, cache, IMAGES) - 6.0)
    for factor in (0.5, 2.0):
        other = first_block_cache(cache.config.threshold * factor)
        assert found <= abs(cost(experiment, other, IMAGES) - 6.0)


@pytest.mark.slow
def test_their_rows_have_the_cost_that_was_counted(experiment: Experiment) -> None:
    steps = plain(experiment.teacher)
    caches = {
        cache.kind: final_table.Entry(cache.kind, 2.0, cache.label, steps, "euler", cache=cache)
        for cache in cache_rivals(experiment, 6.0)
    }
    assert set(caches) == {"taylorseer", "first_block_cache"}
    evaluator = experiment.held_out_evaluator
    measured = final_table.measure(evaluator, [final_table.teacher(experiment), *caches.values()], lambda _: None)
    seconds = final_table.timed(evaluator, measured, lambda _: None)
    rows = {row.kind: row for row in final_table.rows(evaluator, measured, seconds, {})}
    assert 0.8 * 6 <= rows["taylorseer"].cost_full_steps <= 6
    for kind in caches:
        row = rows[kind]
        assert row.full + row.partial == STEPS and row.partial > 0
        assert row.macs == pytest.approx(row.cost_full_steps * experiment.macs.full)
        assert row.errors["latent/teacher"].mean > 0 and row.seconds_per_image is not None


def test_says_where_the_hooks_do_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = made(tmp_path, "chroma")
    with caplog.at_level(logging.WARNING, "flexiffusion"):
        assert list(cache_rivals(experiment, 6.0)) == []
    assert caplog.text.count("does not run on ChromaTransformer2DModel") == 2
    evaluator = experiment.search_evaluator
    assert not evaluator.model.network.is_cache_enabled
