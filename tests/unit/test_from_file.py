"""Schedule files as candidates of a loaded model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flexiffusion.layouts import find_layout
from flexiffusion.noise import spaced_places
from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action, ModelInfo, Sampling, Schedule, Step, StepsPlan
from flexsearch.models.load import load_model
from flexsearch.models.model import DiffusionModel
from flexsearch.runs.from_file import to_candidate


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
