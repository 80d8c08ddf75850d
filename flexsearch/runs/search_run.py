"""A run from its settings to its files: search to the end, measure on held-out images, write, draw."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from optuna.trial import TrialState

from flexiffusion import __version__, codec
from flexiffusion.search.front import front
from flexiffusion.search.method import Evaluated
from flexsearch.devices import peak_memory
from flexsearch.metrics.real_fid import require_pictures
from flexsearch.named import callable_of, is_named
from flexsearch.report import figures, pictures
from flexsearch.report.rows import KINDS, Comparison, Row, comparisons
from flexsearch.report.table import searched_words
from flexsearch.runs import final_table, trial_store
from flexsearch.runs.driver import search
from flexsearch.runs.expected_work import (
    FINAL_TABLE,
    REFERENCES,
    REFINING,
    RIVALS,
    SEARCH,
    TABLES,
    expected_work,
)
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.export import schedule_name, to_schedule
from flexsearch.runs.open_evaluator import opened
from flexsearch.runs.optuna_sampler import MethodSampler
from flexsearch.runs.progress import Progress
from flexsearch.runs.run_folder import RunFolder, newer
from flexsearch.runs.settings import Settings


@dataclass(frozen=True)
class Result:
    """What a finished run gave: the final table's rows, and where its files are.

    `error` names the kind of error that its schedules were chosen by, as keys of `Row.errors` are; `peak_memory` is in
    bytes.
    """

    folder: Path
    rows: tuple[Row, ...]
    error: str
    peak_memory: int

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Each found schedule against its rivals."""
        return comparisons(self.rows)

    @property
    def schedules(self) -> tuple[Path, ...]:
        """The files of the found schedules, by rising speed-up."""
        found = sorted((row for row in self.rows if row.schedule_file), key=lambda row: row.speedup_asked or 0.0)
        return tuple(Path(str(row.schedule_file)) for row in found)


def start(path: Path, settings: Settings, progress: Progress) -> Result:
    """A new run, to its end: search, measure on held-out images, write everything into the folder at `path`.

    The folder is made when everything that the settings name is known to be usable, the model above all. Raises
    ConfigError, what loading a model raises, and RunFolderError where the folder or the trial store cannot be used.
    """
    settings = replace(settings, solver=settings.chosen_solver, teacher_solver=settings.usual_solver)  # for good
    experiment = Experiment(settings, RunFolder(path).references)
    _require(experiment)
    return _conduct(RunFolder.create(path, settings), experiment, progress)


def resume(folder: RunFolder, settings: Settings, progress: Progress) -> Result:
    """An interrupted run, which ends like one that never was; or a finished one once more."""
    if newer(folder.version):
        progress.say(f"note: flexiffusion {folder.version} made this run, and this is {__version__}")
    return _conduct(folder, Experiment(settings, folder.references), progress)


def _require(experiment: Experiment) -> None:
    """Raises what a setting, the model or the trial store is refused with; nothing is sampled for it."""
    settings = experiment.settings
    named = {
        "--method": settings.method,
        "--solver": settings.solver,
        "--teacher-solver": settings.teacher_solver,
        "--error": settings.error,
    }
    for flag, value in named.items():
        if value is not None and is_named(value):
            callable_of(flag, value)
    _ = experiment.model, experiment.batch, experiment.prompts, experiment.features, experiment.teacher
    if settings.real is not None:
        require_pictures(Path(settings.real))
    if settings.cost != "latency" or settings.profile is not None:  # nothing is timed here
        _ = experiment.costs
        if settings.method == "autodiffusion":
            _ = experiment.method
    if settings.storage is not None:
        trial_store.open_store(settings.storage)


def _conduct(folder: RunFolder, experiment: Experiment, progress: Progress) -> Result:
    """Search until the run's evaluations are done, then measure on held-out images and write everything."""
    settings = experiment.settings
    try:
        with folder.locked(), folder.guarded(settings):
            evaluated = _search(folder, experiment, progress)
            rows = _measure(folder, experiment, evaluated, progress)
    except KeyboardInterrupt:
        progress.say(f"What was finished is kept. Go on with: flexsearch resume {shlex.quote(str(folder.path))}")
        raise
    return Result(folder.path, rows, f"latent/{settings.judged_by}", peak_memory(experiment.model.device))


def _search(folder: RunFolder, experiment: Experiment, progress: Progress) -> list[Evaluated]:
    settings = experiment.settings
    progress.say(f"run folder: {folder.path}")
    progress.say(f"model: {experiment.described()}")
    folder.keep_model(experiment.model.family, experiment.model.sha256)
    progress.expect(expected_work(experiment))
    with progress.stage(REFERENCES, experiment.reference_calls, "network calls") as at:
        experiment.draw_references(at.advance)
    if settings.uses_planner:
        with progress.stage(TABLES, experiment.step_error_levels, "levels") as at:
            experiment.step_errors(at.advance)
    folder.write_json("costs.json", experiment.costs.to_dict())
    sampler = MethodSampler(experiment.method, settings.seed)
    study = folder.study(settings, sampler)
    done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    with progress.stage(SEARCH, settings.evaluations, "evaluations", done) as at:
        if done < settings.evaluations:
            with opened(experiment, at.say) as evaluator:
                search(
                    study,
                    sampler,
                    evaluator,
                    experiment.costs,
                    settings.evaluations,
                    settings.racing,
                    lambda number, error, cost: at.advance(note=evaluator.note),
                )
    evaluated = list(sampler.evaluated(study.get_trials(deepcopy=False)))
    made = sum(item.calls for item in evaluated)
    whole = sum(len(item.candidate.places) for item in evaluated) * settings.images
    progress.say(f"network calls: {made}, {made / whole:.0%} of what every schedule on every image takes")
    return evaluated


def _measure(
    folder: RunFolder, experiment: Experiment, evaluated: list[Evaluated], progress: Progress
) -> tuple[Row, ...]:
    settings, evaluator = experiment.settings, experiment.held_out_evaluator
    with progress.stage(RIVALS, len(settings.speedups), "speed-ups") as at:
        entries = final_table.choose(experiment, evaluated, lambda label: at.advance(note=label))
    if settings.fits:
        count = final_table.refinements(experiment, entries, evaluated)
        with progress.stage(REFINING, count, "schedules") as at:
            entries = final_table.with_refined(experiment, entries, evaluated, lambda label: at.advance(note=label))
    with progress.stage(FINAL_TABLE, len(entries), "schedules") as at:
        measured = final_table.measure(evaluator, entries, lambda label: at.advance(note=label))
    seconds = final_table.time_all(evaluator, measured, progress)
    files: dict[final_table.Key, str] = {}
    for entry, outcome in measured:
        if entry.kind == "found":
            schedule = to_schedule(experiment, evaluator, entry, outcome, len(evaluated))
            path = folder.schedules / f"{schedule_name(experiment, entry)}.json"
            codec.write(path, schedule)
            files[entry.key] = str(path)
    rows = final_table.rows(evaluator, measured, seconds, files)
    folder.write_json(
        "result.json",
        {
            "settings": settings.to_dict() | {"storage": settings.storage and trial_store.shown(settings.storage)},
            "objective": asdict(settings.objective),
            "evaluations": len(evaluated),
            "network_calls": sum(item.calls for item in evaluated),
            "peak_memory": peak_memory(experiment.model.device),
            "rows": [row.to_dict() for row in rows],
            "comparisons": [item.to_dict() for item in comparisons(rows)],
            "front": [
                {"error": evaluated[i].error, "cost": evaluated[i].cost, "schedule": evaluated[i].candidate.text()}
                for i in front([(item.error, item.cost) for item in evaluated])
            ],
        },
    )
    objective = settings.objective
    key = "features/teacher" if objective.error == "features" else f"latent/{settings.judged_by}"
    figures.front(
        folder.front,
        [
            figures.FrontPoint(row.cost_full_steps, error.mean, row.kind, low=error.low, high=error.high)
            for row, error in ((row, row.errors[key]) for row in rows)
        ],
        # where both costs are of one kind
        evaluated=[(item.cost, item.error) for item in evaluated] if settings.cost == "macs" else (),
        evaluated_name=f"{searched_words(objective)},\n{settings.images} search images",
        title=f"{experiment.model.family}, {settings.solver_name}, {settings.held_out} held-out images",
        error_name=f"paired {key.replace('/', ' error to the ')}",
        teacher_cost=float(settings.steps),
    )
    # of the same cost, plain steps stand below what was found
    shown = [
        (entry, outcome, row)
        for (entry, outcome), row in zip(measured, rows, strict=True)
        if entry.kind in ("teacher", "found", "plain")
    ]
    shown.sort(key=lambda item: (item[0].speedup or 0.0, KINDS.index(item[0].kind)))
    figures.samples(folder.samples, [(_beside(row), outcome.pictures) for _, outcome, row in shown])
    for entry, outcome, _ in shown:
        if entry.kind == "plain":
            continue
        name = pictures.TEACHER if entry.speedup is None else schedule_name(experiment, entry)
        pictures.write(folder.pictures / name, outcome.pictures)
    return rows


def _beside(row: Row) -> str:
    """What stands beside a row of pictures: what made them, and in how many seconds each."""
    heading = [] if row.speedup_asked is None else [f"{row.speedup_asked:g}x {row.kind}"]
    seconds = [] if row.seconds_per_image is None else [f"{row.seconds_per_image:.3g} s a picture"]
    return "\n".join([*heading, row.label, *seconds])
