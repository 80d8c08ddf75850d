"""Schedule files as candidates of a loaded model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flexiffusion.errors import ModelMismatch
from flexiffusion.layouts import find_layout
from flexiffusion.noise import spaced_places
from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action, ModelInfo, Sampling, Schedule, Step, StepsPlan
from flexsearch.models.load import load_model
from flexsearch.models.model import DiffusionModel
from flexsearch.runs.from_file import solver_in, to_candidate


@pytest.fixture(scope="module")
def tiny() -> DiffusionModel:
    return load_model("tiny", "cpu")


def file(model: DiffusionModel, *actions: Action) -> Schedule:
    steps = StepsPlan(tuple(Step(sigma, action) for sigma, action in zip((14.0, 6.0, 2.0, 0.5), actions, strict=True)))
    return Schedule(
        "test", ModelInfo(model.family, model.branches), Sampling(None, None, 20, None, None, None), plan=steps
    )


def test_files_that_run_the_same_are_one_candidate(tiny: DiffusionModel) -> None:
    """Fault 12: units dropped below the branch of a partial step never run there, whatever the file says."""
    units = find_layout(tiny.unet).reached
    deep = tuple(name for name, lowest in units.items() if lowest is None or lowest > 0)
    shallow = tuple(name for name, lowest in units.items() if name not in deep)
    assert deep and shallow
    partial = Action("partial", 0)
    plain, deeper, other = (
        file(tiny, FULL, replace(partial, drop=drop), FULL, partial) for drop in ((), deep, shallow)
    )
    teacher = spaced_places(tiny.levels, 20, "uniform")
    keys = [to_candidate(schedule, tiny, teacher)[0].key for schedule in (plain, deeper, other)]
    assert keys[0] == keys[1] != keys[2]
    results = [sampled(tiny, schedule) for schedule in (plain, deeper, other)]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


class TestItsOwnSolver:
    WEIGHTS = ((1.0,), (1.3, -0.3), (1.2, -0.1, -0.1), (0.9, 0.1))

    def own(self, model: DiffusionModel) -> Schedule:
        schedule = file(model, FULL, FULL, FULL, FULL)
        assert isinstance(schedule.plan, StepsPlan)
        levels = [model.levels.sigma(model.levels.place(step.sigma)) for step in schedule.plan.steps]
        steps = (Step(level, FULL, row) for level, row in zip(levels, self.WEIGHTS, strict=True))
        return replace(schedule, plan=StepsPlan(tuple(steps)))

    def solver(self, model: DiffusionModel, schedule: Schedule) -> object:
        teacher = (model.levels.place(14.0), *spaced_places(model.levels, 20, "uniform")[1:])
        candidate, _ = to_candidate(schedule, model, teacher)
        return solver_in(schedule, candidate, model.levels, "dpmpp_2m")

    def test_is_the_files_weights(self, tiny: DiffusionModel) -> None:
        assert self.solver(tiny, self.own(tiny)) == self.WEIGHTS
        assert self.solver(tiny, file(tiny, FULL, FULL, FULL, FULL)) == "dpmpp_2m"

    def test_is_refused_at_other_levels_than_it_is_fitted_to(self, tiny: DiffusionModel) -> None:
        own = self.own(tiny)
        assert isinstance(own.plan, StepsPlan)
        first, *rest = own.plan.steps
        for steps in ((replace(first, sigma=1000.0), *rest), (replace(first, sigma=14.5), *rest)):
            with pytest.raises(ModelMismatch, match="test: its solver is fitted to noise levels"):
                self.solver(tiny, replace(own, plan=StepsPlan(steps)))


@torch.inference_mode()
def sampled(model: DiffusionModel, schedule: Schedule) -> torch.Tensor:
    """What the network returns at the file's partial step, as the file says it. # (1, C, H, W)"""
    assert isinstance(schedule.plan, StepsPlan)
    x = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    told = model.encode(["shirt"]).positive
    with Run(model.unet, Plan(schedule.plan.levels, schedule.plan.actions(), 0)) as run:
        for sigma in schedule.plan.levels[:2]:
            run.evaluate(sigma)
            result = run(lambda: model.call(x, model.levels.place(2.0), told), x)
    return result
