"""Found schedules as files, with what was measured on held-out images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from flexiffusion import __version__
from flexiffusion.fingerprint import fingerprint_of
from flexiffusion.schedule import (
    Cost,
    Metric,
    ModelInfo,
    Provenance,
    Sampling,
    Schedule,
    SegmentsPlan,
    StepsPlan,
)
from flexiffusion.search.candidate import Candidate
from flexiffusion.search.paired import estimate
from flexiffusion.solver import Weights
from flexsearch.evaluators.local import LocalEvaluator, Outcome
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.final_table import Entry
from flexsearch.runs.settings import short


def schedule_name(experiment: Experiment, entry: Entry) -> str:
    """Such as `tiny-fashion-fitted-30-2x`: family, solver, teacher steps, asked speed-up."""
    settings = experiment.settings
    return f"{experiment.model.family}-{settings.solver_name}-{settings.steps}-{entry.speedup:g}x"


def to_schedule(
    experiment: Experiment, evaluator: LocalEvaluator, entry: Entry, outcome: Outcome, evaluations: int
) -> Schedule:
    """The schedule file of a found entry, its metrics from `outcome` on the held-out `evaluator`.

    A metric that is not finite, of a schedule that diverged on a held-out image, is not claimed.
    """
    settings = experiment.settings
    assert entry.file_plan is not None
    n = settings.held_out
    metrics = []
    for against in ("teacher", "converged"):
        error = estimate(outcome.latent_errors(against))
        if math.isfinite(error.mean):
            interval = (error.low, error.high)
            metrics.append(Metric("latent_mse", error.mean, n, None, f"{against}, same noise, held out", interval))
    relative = outcome.relative_fid()
    if math.isfinite(relative):
        pictures = len(outcome.all_features)
        metrics.append(
            Metric("relative_fid", relative, pictures, experiment.features_name, "teacher, same noise, held out")
        )
    fid = outcome.real_fid()
    if fid is not None and math.isfinite(fid):
        metrics.append(Metric("fid", fid, len(outcome.all_features), experiment.features_name, "real pictures"))
    return schedule_file(
        experiment,
        schedule_name(experiment, entry),
        f"{entry.label}; asked for {entry.speedup:g}x, judged by "
        + ("FID to real pictures" if settings.real else f"the {settings.judged_by}"),
        entry.candidate,
        entry.file_plan if isinstance(entry.solver, str) else with_weights(entry.file_plan, entry.solver),
        evaluations,
        metrics,
    )


def with_weights(plan: SegmentsPlan | StepsPlan, weights: Weights) -> StepsPlan:
    """The plan with its own solver. Raises ValueError for a plan of segments, which can have none."""
    if isinstance(plan, SegmentsPlan):
        raise ValueError("segments suit any list of noise levels, weights only their own")
    steps = (replace(step, weights=row) for step, row in zip(plan.steps, weights, strict=True))
    return replace(plan, steps=tuple(steps))


def schedule_file(
    experiment: Experiment,
    name: str,
    description: str,
    candidate: Candidate,
    plan: SegmentsPlan | StepsPlan,
    evaluations: int,
    metrics: Sequence[Metric] = (),
) -> Schedule:
    """The schedule file of a candidate of this experiment's model; without metrics, if none are given."""
    settings, model = experiment.settings, experiment.model
    return Schedule(
        name=name,
        description=description,
        model=ModelInfo(model.family, model.branches, model.sha256, model.blocks, fingerprint_of(model.network)),
        sampling=Sampling(
            sampler=short(settings.usual_solver if settings.fits else settings.chosen_solver),
            scheduler=settings.spacing,
            steps=settings.steps,
            cfg=experiment.sampling.guidance,
            size=model.image_size,
            prediction=model.prediction,  # type: ignore[arg-type]
        ),
        plan=replace(plan, noise=model.levels.kind),
        levels=model.levels.sigmas(experiment.teacher) if isinstance(plan, SegmentsPlan) else None,
        metrics=tuple(metrics),
        cost=Cost(
            macs=experiment.macs.total(candidate.actions),
            speedup_macs=settings.steps / candidate.cost(experiment.macs),
        ),
        provenance=Provenance("searched", f"flexsearch {__version__}", settings.seed, evaluations),
        extra={} if model.frames is None else {"frames": model.frames},
    )
