"""A schedule file as a candidate for a loaded model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from flexiffusion.errors import ModelMismatch
from flexiffusion.fit import require_noise
from flexiffusion.layouts import find_layout
from flexiffusion.noise import SPACINGS, NoiseLevels, distinct
from flexiffusion.plan import is_fitted_level, plan_for
from flexiffusion.schedule import Schedule, SegmentsPlan, StepsPlan
from flexiffusion.search.candidate import Candidate, make_candidate
from flexiffusion.solver import Weights
from flexsearch.choices import FITTED
from flexsearch.errors import ConfigError
from flexsearch.models.checkpoint import Checkpoint
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.final_table import Entry
from flexsearch.runs.progress import Progress
from flexsearch.runs.settings import Settings
from flexsearch.sampling.solvers import SOLVERS


def to_candidate(schedule: Schedule, model: Checkpoint, teacher: Sequence[int]) -> tuple[Candidate, str | None]:
    """What a host would run of the file over the teacher's steps, on this model's levels; and the host's warning.

    The file is planned as every host plans it (`flexiffusion.plan.plan_for`), over its recorded levels where it is made
    of segments and records them. Each level is then the model's nearest one; levels that fall on one place are moved
    apart by single places. `teacher` are places, falling.

    Raises ModelMismatch when the file is for another family or another number of branches, or drops layers that the
    model has not.
    """
    if schedule.model.family != model.family or schedule.model.branches != model.branches:
        raise ModelMismatch(
            f"{schedule.name}: made for {schedule.model.family} with {schedule.model.branches} branches, but "
            f"{model.source} is {model.family} with {model.branches}. Choose a schedule of the model's own family"
        )
    require_noise(schedule, model.levels.kind, model.source)
    layout = find_layout(model.network)
    layout.named({name for action in schedule.plan.actions() for name in action.drop})
    grid = tuple(teacher)
    if isinstance(schedule.plan, SegmentsPlan) and schedule.levels is not None:
        grid = _places(schedule.levels, model)
    plan = plan_for(schedule, [*model.levels.sigmas(grid), 0.0], own_solver=True)
    return make_candidate(_places(plan.levels, model), plan.actions, layout.reached), plan.warning


def solver_in(schedule: Schedule, candidate: Candidate, levels: NoiseLevels, usual: str) -> str | Weights:
    """What a file's candidate is sampled with: the weights that the file brings, or the usual solver.

    Raises ModelMismatch where the file's noise levels are not the model's: its weights are of no use at others; and for
    more steps than the teacher has.
    """
    plan = schedule.plan
    if isinstance(plan, SegmentsPlan) or plan.weights is None:
        return usual
    here = levels.sigmas(candidate.places)
    steps, teacher = len(plan.levels), schedule.sampling.steps
    if len(here) < steps and teacher < steps:
        raise ModelMismatch(
            f"{schedule.name}: it has {steps} steps, more than its teacher's {teacher}. It may make no more calls "
            f"than are asked for, so it cannot be measured beside this teacher. Hosts run it at {steps} steps or more"
        )
    if plan.noise != levels.kind or len(here) != len(plan.levels) or not all(map(is_fitted_level, here, plan.levels)):
        raise ModelMismatch(
            f"{schedule.name}: its solver is fitted to noise levels that this model has not. Use it with a checkpoint "
            "of the same noise schedule, or a schedule without weights"
        )
    return plan.weights


def entry_of(name: str, schedule: Schedule, experiment: Experiment, progress: Progress) -> Entry:
    """The row of a file for an experiment's model and teacher; a warning becomes a line."""
    candidate, warning = to_candidate(schedule, experiment.model, experiment.teacher)
    if warning is not None:
        progress.say(f"note: {warning}")
    solver = solver_in(schedule, candidate, experiment.model.levels, experiment.settings.usual_solver)
    speedup = experiment.settings.steps / candidate.cost(experiment.macs)
    return Entry("found", speedup, name, candidate, solver)


def _places(sigmas: Sequence[float], model: Checkpoint) -> tuple[int, ...]:
    """The model's nearest places, made to fall strictly."""
    return distinct([model.levels.place(sigma) for sigma in sigmas], len(model.levels) - 1)


def with_fitted_rivals(settings: Settings, schedules: Iterable[Schedule]) -> Settings:
    """Where a file brings its own solver, its rivals have one too."""
    brings = any(isinstance(schedule.plan, StepsPlan) and schedule.plan.weights for schedule in schedules)
    return replace(settings, solver=FITTED, teacher_solver=settings.usual_solver) if brings else settings


def settings_of(schedule: Schedule, base: Settings) -> Settings:
    """`base` with the sampler, steps, spacing, guidance, size and frames that the file was made with, where it says so.

    Raises ConfigError for a sampler that this tool has not.
    """
    sampling = schedule.sampling
    solver = sampling.sampler or base.usual_solver
    if solver not in SOLVERS:
        raise ConfigError(
            schedule.name, f"its sampler {solver!r} is not one of this tool", f"Known: {', '.join(SOLVERS)}"
        )
    return Settings(
        **{
            **base.to_dict(),
            "solver": solver,
            "teacher_solver": None,
            "steps": sampling.steps,
            "spacing": sampling.scheduler if sampling.scheduler in SPACINGS else base.spacing,
            "guidance": base.guidance if base.guidance is not None else sampling.cfg,
            "size": base.size or sampling.size,
            "frames": base.frames or _frames(schedule),
        }
    )


def shared_settings(schedules: Sequence[tuple[str, Schedule]], base: Settings) -> Settings:
    """The settings that all files share. Raises ConfigError when they were made for different samplings."""
    wanted = [settings_of(schedule, base) for _, schedule in schedules]
    first = schedules[0][0]
    for (file, _), settings in zip(schedules, wanted, strict=True):
        if settings != wanted[0]:
            raise ConfigError(file, f"it was made for another sampling than {first}", "Compare files of one teacher")
    return with_fitted_rivals(wanted[0], [schedule for _, schedule in schedules])


def _frames(schedule: Schedule) -> int | None:
    """Of the videos that a file was made for, as `export` writes it."""
    frames = schedule.extra.get("frames")
    return frames if isinstance(frames, int) and frames > 0 else None
