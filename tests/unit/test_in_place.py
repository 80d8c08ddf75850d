"""A search that is a sampler: on a tiny denoiser of a formula and on the bundled model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from search_fixtures import FormulaDenoiser

from flexiffusion.codec import dumps, loads
from flexiffusion.errors import FlexiffusionError
from flexiffusion.metadata import ModelInfo, Sampling
from flexiffusion.search.in_place import Found, Progress, find, schedule_of
from flexiffusion.search.methods.space import PlacementSpace
from flexiffusion.search.paired import mean_root, squared_error
from flexiffusion.solver import euler

LEVELS = [14.0 * 0.75**i for i in range(20)]


def noise(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def denoiser() -> Iterator[FormulaDenoiser]:
    made = FormulaDenoiser()
    forwards = [vars(module).get("forward") for module in made.network.modules()]
    yield made
    assert [vars(module).get("forward") for module in made.network.modules()] == forwards


def searched(denoiser: FormulaDenoiser, count: int = 4, **more: Any) -> Found:
    given: dict[str, Any] = {"evaluations": 12, "solver": euler} | more
    return find(denoiser, noise(count), LEVELS, (2.0, 3.0), **given)


def test_it_finds_schedules_within_the_asked_cost_that_beat_fewer_steps(denoiser: FormulaDenoiser) -> None:
    found = searched(denoiser, evaluations=30)
    assert [one.speedup for one in found.schedules] == [2.0, 3.0]
    for one in found.schedules:
        assert one.cost <= 20 / one.speedup * 1.01
        assert one.error < one.plain
    assert found.teacher.shape == found.latents[0].shape == (4, 4, 8, 8)
    assert "30 candidates on 4 images" in found.report and "the limit was reached" in found.report


def test_no_candidate_has_more_steps_than_the_list(denoiser: FormulaDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts run no more steps than their user asked for."""
    spaces: list[PlacementSpace] = []

    def kept(*bounds: int) -> PlacementSpace:
        spaces.append(PlacementSpace(*bounds))
        return spaces[-1]

    monkeypatch.setattr("flexiffusion.search.in_place.PlacementSpace", kept)
    find(denoiser, noise(1), LEVELS[::4], (1.2,), evaluations=1, solver=euler)
    assert spaces[0].slots == 5


def test_the_samples_are_those_of_the_schedule(denoiser: FormulaDenoiser) -> None:
    found = searched(denoiser)
    one = found.schedules[0]
    errors = squared_error(found.latents[0], found.teacher)
    assert one.error == pytest.approx(mean_root(errors), rel=1e-4)


def test_more_evaluations_are_never_worse_and_one_seed_gives_one_result(denoiser: FormulaDenoiser) -> None:
    short, long, again = (searched(denoiser, evaluations=count) for count in (8, 25, 25))
    assert long.schedules[0].error <= short.schedules[0].error
    assert [one.candidate for one in long.schedules] == [one.candidate for one in again.schedules]


def test_progress_has_the_best_so_far_and_time_left(denoiser: FormulaDenoiser) -> None:
    told: list[Progress] = []
    searched(denoiser, on_progress=told.append)
    assert len(told) == 12 and told[-1].part == 1 and told[-1].seconds_left == 0
    assert all(later.best[2.0] <= earlier.best[2.0] for earlier, later in itertools.pairwise(told))
    assert told[-1].latents is not None and told[-1].latents.shape == (4, 4, 8, 8)


@pytest.mark.parametrize("limit", [{"seconds": 1e-6}, {"calls": 1}])
def test_a_limit_that_the_teacher_alone_reaches_leaves_the_rules_schedules(
    denoiser: FormulaDenoiser, limit: dict[str, float]
) -> None:
    """Three minutes are gone before the first candidate where a step takes a second: it ended with nothing."""
    found = searched(denoiser, evaluations=None, **limit)
    assert [one.speedup for one in found.schedules] == [2.0, 3.0] and found.evaluations == 2
    for one in found.schedules:
        assert one.cost <= 20 / one.speedup * 1.01 and one.error < one.plain
    assert "the limit was reached" in found.report


def test_an_interrupt_returns_what_was_found(denoiser: FormulaDenoiser) -> None:
    class Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.evaluations == 5:
            denoiser.raises = Stopped()

    found = searched(denoiser, interrupts=(Stopped,), on_progress=stop)
    assert found.evaluations == 5 and found.schedules and "it was interrupted" in found.report


def test_before_the_first_result_an_interrupt_goes_on(denoiser: FormulaDenoiser) -> None:
    denoiser.raises = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        searched(denoiser)
    denoiser.raises = None


def test_a_batch_that_does_not_fit_is_halved(denoiser: FormulaDenoiser) -> None:
    denoiser.room = 2
    found = searched(denoiser)
    assert found.schedules and denoiser.largest == 2
    denoiser.room = 0
    with pytest.raises(MemoryError, match="not even one image"):
        searched(denoiser)
    denoiser.room = None


def test_a_teacher_that_is_not_finite_is_said(denoiser: FormulaDenoiser) -> None:
    denoiser.broken_from = 0
    with pytest.raises(FlexiffusionError, match="not finite"):
        searched(denoiser)


def test_candidates_that_are_not_finite_are_never_the_best(denoiser: FormulaDenoiser) -> None:
    denoiser.broken_from = 20 + 2 * 2 + 10 + 6  # after the teacher, what is counted, and fewer steps
    found = searched(denoiser)
    assert not found.schedules and "12 candidates did not stay finite" in found.report
    assert "2x: nothing was found" in found.report


def test_no_limit_and_no_list_are_refused(denoiser: FormulaDenoiser) -> None:
    with pytest.raises(FlexiffusionError, match="no limit"):
        searched(denoiser, evaluations=None)
    with pytest.raises(FlexiffusionError, match="no falling list"):
        find(denoiser, noise(), [1.0, 2.0], (2.0,), evaluations=1)


@pytest.mark.parametrize("count", [1, 4, 16])
def test_solvers_are_fitted_on_any_number_of_images(denoiser: FormulaDenoiser, count: int) -> None:
    found = searched(denoiser, count=count)
    assert any(one.weights for one in found.schedules) and "with a fitted solver" in found.report


def test_none_is_fitted_where_a_host_could_not_run_it(denoiser: FormulaDenoiser) -> None:
    found = searched(denoiser, fits=False)
    assert found.schedules and not any(one.weights for one in found.schedules)


def test_the_own_solver_stays_where_it_is_nearer(denoiser: FormulaDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexiffusion.search.fitting.fitted_row", lambda predictions, *rest: (0.5,))  # a poor fit
    found = searched(denoiser)
    assert found.schedules and not any(one.weights for one in found.schedules)
    for one, latents in zip(found.schedules, found.latents, strict=True):
        assert one.error == pytest.approx(mean_root(squared_error(latents, found.teacher)), rel=1e-6)


def test_what_is_found_is_a_file(denoiser: FormulaDenoiser) -> None:
    found = searched(denoiser, count=16)
    sampling = Sampling("euler", "normal", 20, 7.0, (64, 64), "epsilon")
    for one in found.schedules:
        made = schedule_of(one, denoiser, "found", ModelInfo("any", 9), sampling, found.evaluations)
        assert loads(dumps(made)) == made and made.provenance.kind == "searched"
        assert made.cost is not None and math.isclose(made.cost.speedup_macs or 0, 20 / one.cost)
