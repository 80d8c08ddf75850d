"""A schedule file as a candidate for a loaded model."""

from __future__ import annotations

from flexiffusion.errors import ModelMismatch
from flexiffusion.layout import find_layout
from flexiffusion.noise import SPACINGS, spaced_places
from flexiffusion.schedule import Schedule, StepsPlan
from flexiffusion.search.candidate import Candidate, make_candidate
from flexsearch.errors import ConfigError
from flexsearch.models.model import DiffusionModel
from flexsearch.runs.settings import Settings
from flexsearch.sampling.solvers import SOLVERS


def to_candidate(schedule: Schedule, model: DiffusionModel) -> Candidate:
    """What the file's plan evaluates on the model's training timesteps, the nearest in log-SNR to each noise level.

    Raises ModelMismatch when the file is for another family or another number of branches, or drops layers that the
    model has not.
    """
    if schedule.model.family != model.family or schedule.model.branches != model.branches:
        raise ModelMismatch(
            f"{schedule.name}: made for {schedule.model.family} with {schedule.model.branches} branches, but "
            f"{model.source} is {model.family} with {model.branches}. Choose a schedule of the model's own family"
        )
    plan = schedule.plan
    layout = find_layout(model.unet)
    layout.named({name for action in plan.actions() for name in action.drop})
    if isinstance(plan, StepsPlan):
        timesteps = [model.levels.place(sigma) for sigma in plan.levels]
        return make_candidate(timesteps, plan.actions(), layout.reached)
    if schedule.levels is not None:
        grid = [model.levels.place(sigma) for sigma in schedule.levels]
    else:
        spacing = schedule.sampling.scheduler if schedule.sampling.scheduler in SPACINGS else "uniform"
        grid = list(spaced_places(model.levels, plan.total_steps, spacing))
    kept = [(t, a) for t, a in zip(grid, plan.actions(), strict=True) if a.kind != "null"]
    return make_candidate([t for t, _ in kept], [a for _, a in kept], layout.reached)


def settings_of(schedule: Schedule, base: Settings) -> Settings:
    """`base` with the sampler, steps, spacing, guidance and size that the file was made with, where it says so.

    Raises ConfigError for a sampler that this tool has not.
    """
    sampling = schedule.sampling
    solver = sampling.sampler or base.solver
    if solver not in SOLVERS:
        raise ConfigError(
            schedule.name, f"its sampler {solver!r} is not one of this tool", f"Known: {', '.join(SOLVERS)}"
        )
    return Settings(
        **{
            **base.to_dict(),
            "solver": solver,
            "steps": sampling.steps,
            "spacing": sampling.scheduler if sampling.scheduler in SPACINGS else base.spacing,
            "guidance": base.guidance if base.guidance is not None else sampling.cfg,
            "size": base.size or sampling.size,
        }
    )
