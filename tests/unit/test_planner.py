"""The planner: exact for its sum, within the budget, and its tables are what sampling really does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from search_fixtures import TABLE

from flexiffusion.cost import CostTable
from flexiffusion.noise import initial_scale
from flexiffusion.schedule import FULL, Action
from flexiffusion.search import macro_steps
from flexiffusion.search.candidate import make_candidate
from flexiffusion.search.macro_steps import MACRO_STEPS, REACH, MacroStep, Measurer, StepErrors
from flexiffusion.search.planner import BINS, Planner, planned_at
from flexiffusion.search.trajectory import sample
from flexiffusion.solver import dpmpp_2m
from flexsearch.models.denoiser import ModelDenoiser
from flexsearch.models.load import load_model
from flexsearch.models.noise import initial_noise
from flexsearch.runs.step_errors import known_or_measured
from flexsearch.sampling.references import ImageSet
from flexsearch.sampling.solvers import SamplerSettings

GRID = (999, 800, 600, 400, 200, 50)


def step_errors(seed: int) -> StepErrors:
    stream = np.random.default_rng(seed)
    count = len(GRID)
    errors = np.full((len(MACRO_STEPS), count, REACH, REACH), np.inf, np.float32)
    for number, kind in enumerate(MACRO_STEPS):
        for i, gap, hop in itertools.product(range(count), range(REACH), range(REACH)):
            possible = (gap == 0 if i == 0 else gap < i) and i + hop + 1 <= count
            if possible and kind.places(i, i + hop + 1) is not None:
                errors[number, i, gap, hop] = (hop + 1) ** 2 / (1 + kind.partials) * stream.uniform(0.5, 2)
    return StepErrors(GRID, errors, stream.uniform(0.5, 2, count + 1).astype(np.float32), (0, 0, 0))


def chains(given: StepErrors, kinds: tuple[int, ...], i: int = 0, gap: int = 0) -> Iterator[tuple[int, float]]:
    """(cost in bins, error) of every chain from level i to the end."""
    if i == len(GRID):
        yield 0, 0.0
        return
    for number, hop in itertools.product(kinds, range(len(GRID) - i)):
        error = float(given.errors[number, i, gap, hop]) * float(given.gains[i + hop + 1])
        if math.isfinite(error):
            share = TABLE.partial[MACRO_STEPS[number].branch] / TABLE.full if MACRO_STEPS[number].partials else 0.0
            cost = math.ceil(BINS * (1 + MACRO_STEPS[number].partials * share) - 1e-6)
            for rest, more in chains(given, kinds, i + hop + 1, hop):
                yield cost + rest, error + more


@pytest.mark.parametrize("seed", range(3))
def test_no_chain_is_better(seed: int) -> None:
    given, kinds = step_errors(seed), (0, 2, 4)  # all seven kinds have too many chains to try
    planner = Planner(given, TABLE, 6.5, [MACRO_STEPS[number] for number in kinds])
    every = list(chains(given, kinds))
    for budget in (1.0, 1.5, 2.05, 3.0, 4.4, 6.0):
        affordable = [error for cost, error in every if cost <= budget * BINS]
        planned = planner.best(budget)
        assert planned is not None
        assert planned.error == pytest.approx(min(affordable))
        assert planned.candidate.cost(TABLE) <= budget + 1e-9


def test_what_is_too_cheap_has_no_plan() -> None:
    assert Planner(step_errors(0), TABLE, 3.0).best(0.9) is None


def test_a_head_only_step_is_affordable_after_every_full_step() -> None:
    """It costs two thousandths: costs that are rounded up to hundredths would leave it out of a tight budget."""
    table = CostTable("macs", 1000.0, {-1: 2.0, 0: 50.0})
    planned = Planner(
        step_errors(0), table, 3.01, [kind for kind in MACRO_STEPS if (kind.partials, kind.branch) == (1, -1)]
    )
    found = planned.best(3.01)
    assert found is not None
    assert [action.kind for action in found.candidate.actions] == ["full", "partial"] * 3


def test_another_device_another_plan() -> None:
    """The same tables, and partial steps that cost nearly as much as full ones."""
    dear = CostTable("ms", 100.0, dict.fromkeys(TABLE.partial, 99.0))
    cheap, costly = (Planner(step_errors(0), table, 4.0).best(4.0) for table in (TABLE, dear))
    assert cheap is not None and costly is not None
    assert cheap.candidate.key != costly.candidate.key
    assert costly.error > cheap.error


def test_plans_hold_the_plain_ones_too() -> None:
    found = planned_at(step_errors(0), TABLE, (3.0, 5.0))
    assert len({item.candidate.key for item in found}) == len(found)
    assert {len(item.candidate.places) for item in found if item.candidate.plain} == {3, 5}
    assert any(not item.candidate.plain for item in found)


@pytest.mark.parametrize(
    ("partials", "span", "places"), [(0, 1, ()), (1, 1, None), (1, 2, (5,)), (2, 3, (5, 6)), (3, 8, (6, 8, 10))]
)
def test_partial_steps_lie_evenly(partials: int, span: int, places: tuple[int, ...] | None) -> None:
    assert MacroStep(partials, 0).places(4, 4 + span) == places


@pytest.fixture(scope="module")
def measurer() -> Measurer:
    model = load_model("tiny", "cpu", "float32")
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(macro_steps, "LEVELS", 7)
        told = model.encode(list(model.prompts[:2]))
        noise = initial_noise(0, range(2), model.latent_shape)
        return Measurer(ModelDenoiser(model, told, 2.0), dpmpp_2m, noise, slice(0, 2), (-1, 0))


def test_a_short_plain_step_stays_on_the_trajectory(measurer: Measurer) -> None:
    with torch.inference_mode():
        for i in range(7):
            arrived = measurer.arrival(None if i == 0 else i - 1, i, i + 1, MACRO_STEPS[0])
            assert arrived is not None
            torch.testing.assert_close(arrived, measurer.states[i + 1], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("branch", [-1, 0])
def test_a_macro_step_is_what_sampling_does(measurer: Measurer, branch: int) -> None:
    """Two full steps on the trajectory, then a partial one: there sampling and table see the same states."""
    grid = measurer.grid
    chain = make_candidate(
        [grid[0], grid[1], grid[2], grid[4], grid[5]],
        [FULL, FULL, FULL, Action("partial", branch, "linear"), FULL],
    )
    noise = measurer.states[0] / initial_scale(measurer.sigmas[0], "vp")
    states = sample(measurer.denoiser, dpmpp_2m, noise, chain.places, chain.actions, keep_states=True).states
    assert states is not None
    with torch.inference_mode():
        torch.testing.assert_close(states[2], measurer.states[2], rtol=1e-4, atol=1e-4)
        # the table's partial step is evaluated at the trajectory's sample, sampling's at where it came to
        arrived = measurer.arrival(1, 2, 4, MACRO_STEPS[0])
        assert arrived is not None
        torch.testing.assert_close(states[3], arrived, rtol=1e-4, atol=1e-4)
        landed = measurer.arrival(1, 2, 5, MacroStep(1, branch))
        assert landed is not None
        plain = measurer.arrival(1, 2, 5, MACRO_STEPS[0])
        assert plain is not None
        truth = measurer.states[5]
        assert (landed - truth).square().mean() < (plain - truth).square().mean()


def test_tables_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macro_steps, "LEVELS", 4)
    model = load_model("tiny", "cpu", "float32")
    images = ImageSet(0, 0, 2, model.prompts)
    levels: list[None] = []
    first = known_or_measured(model, SamplerSettings("euler", 2.0), images, tmp_path, 1, lambda: levels.append(None))
    assert len(levels) == 2 * 4  # two batches
    with monkeypatch.context() as patched:
        patched.delattr(macro_steps, "measure")
        again = known_or_measured(
            model, SamplerSettings("euler", 2.0), images, tmp_path, 1, lambda: levels.append(None)
        )
    assert len(levels) == 16, "progress ends at its total, kept or not"
    assert again.grid == first.grid and again.calls == first.calls
    np.testing.assert_array_equal(again.errors, first.errors)
    np.testing.assert_array_equal(again.gains, first.gains)
    assert np.isfinite(first.errors[0, 0, 0, :4]).all() and np.isinf(first.errors[0, 0, 1]).all()
    (kept,) = tmp_path.glob("tables-*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    assert known_or_measured(model, SamplerSettings("euler", 2.0), images, tmp_path, 1).calls == first.calls
