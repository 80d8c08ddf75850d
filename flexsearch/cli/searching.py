"""What `run` and `resume` do with a run folder: search to the end, measure, write, show."""

from __future__ import annotations

import click
from optuna.trial import TrialState

from flexiffusion import codec
from flexiffusion.search.front import front
from flexiffusion.search.method import Evaluated
from flexsearch.cli import output
from flexsearch.cli.measuring import time_all
from flexsearch.cli.progress import stage
from flexsearch.devices import in_words, peak_memory
from flexsearch.report import figures, pictures
from flexsearch.report.advice import advice
from flexsearch.report.rows import Row, comparisons
from flexsearch.report.table import FinalTable
from flexsearch.runs import final_table as verdict
from flexsearch.runs import trial_store
from flexsearch.runs.driver import search
from flexsearch.runs.evaluators import opened, require
from flexsearch.runs.export import schedule_name, to_schedule
from flexsearch.runs.optuna_sampler import MethodSampler
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.session import Session
from flexsearch.runs.settings import Settings


def conduct(folder: RunFolder, settings: Settings) -> None:
    """Search until the run's evaluations are done, then measure on held-out images and write everything."""
    require(settings)
    with folder.locked(), folder.guarded(settings):
        session = Session(settings, folder.references)
        evaluated = _search(folder, session)
        rows = _measure(folder, session, evaluated)
    _show(folder, rows, f"latent/{settings.judged_by}", peak_memory(session.model.device))


def _search(folder: RunFolder, session: Session) -> list[Evaluated]:
    settings = session.settings
    output.say(f"run folder: {folder.path}")
    output.say(f"model: {session.described()}")
    folder.keep_model(session.model.family, session.model.sha256)
    with stage("teacher and converged reference", 2, "image sets") as at:
        _ = session.search_engine
        at.advance()
        _ = session.held_out_engine
        at.advance()
    if settings.plans:
        with stage("planner's tables", session.table_levels, "levels") as at:
            session.tables(at.advance)
    folder.write_json("costs.json", session.costs.to_dict())
    sampler = MethodSampler(session.method, settings.seed)
    study = folder.study(settings, sampler)
    done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    with stage("search", settings.evaluations, "evaluations", done) as at:
        if done < settings.evaluations:
            with opened(session, at.say) as evaluator:
                search(
                    study,
                    sampler,
                    evaluator,
                    session.costs,
                    settings.evaluations,
                    settings.racing,
                    lambda number, error, cost: at.advance(note=evaluator.note),
                )
    evaluated = list(sampler.evaluated(study.get_trials(deepcopy=False)))
    made = sum(item.calls for item in evaluated)
    whole = sum(len(item.candidate.places) for item in evaluated) * settings.images
    output.say(f"network calls: {made}, {made / whole:.0%} of what every schedule on every image takes")
    return evaluated


def _measure(folder: RunFolder, session: Session, evaluated: list[Evaluated]) -> tuple[Row, ...]:
    settings, engine = session.settings, session.held_out_engine
    choices = verdict.choose(session, evaluated)
    with stage("final table", len(choices), "schedules") as at:
        measured = verdict.measure(engine, choices, lambda label: at.advance(note=label))
    seconds = time_all(engine, measured)
    files = {}
    for choice, outcome in measured:
        if choice.kind == "found":
            schedule = to_schedule(session, engine, choice, outcome, len(evaluated))
            path = folder.schedules / f"{schedule_name(session, choice)}.json"
            codec.write(path, schedule)
            files[choice.candidate.key] = str(path)
    rows = verdict.rows(engine, measured, seconds, files)
    folder.write_json(
        "result.json",
        {
            "settings": settings.to_dict() | {"storage": settings.storage and trial_store.shown(settings.storage)},
            "evaluations": len(evaluated),
            "network_calls": sum(item.calls for item in evaluated),
            "peak_memory": peak_memory(session.model.device),
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
        # where both are of the rows' kinds
        evaluated=[(item.cost, item.error) for item in evaluated]
        if key.startswith(objective.error) and settings.cost == "macs"
        else (),
        title=f"{session.model.family}, {settings.solver}, {settings.held_out} held-out images",
        error_name=f"paired {key.replace('/', ' error to the ')}",
        teacher_cost=float(settings.steps),
    )
    shown = [(choice, outcome) for choice, outcome in measured if choice.kind in ("teacher", "found")]
    shown.sort(key=lambda item: item[0].speedup or 0.0)
    figures.samples(
        folder.samples,
        [
            (
                "teacher" if choice.speedup is None else f"{choice.speedup:g}x\n{choice.label}",
                outcome.pictures,
            )
            for choice, outcome in shown
        ],
    )
    for choice, outcome in shown:
        name = pictures.TEACHER if choice.speedup is None else schedule_name(session, choice)
        pictures.write(folder.pictures / name, outcome.pictures)
    return rows


def _show(folder: RunFolder, rows: tuple[Row, ...], error: str, peak: int) -> None:
    if output.wants_json():
        output.emit(
            {
                "run": str(folder.path),
                "peak_memory": peak,
                "rows": [row.to_dict() for row in rows],
                "comparisons": [item.to_dict() for item in comparisons(rows)],
            }
        )
        return
    from rich.console import Console

    Console().print(FinalTable(rows))
    for sentence in advice(rows, error):
        click.echo(sentence)
    click.echo(f"next         flexsearch report {folder.path}    flexsearch presets add {folder.schedules}/NAME.json")
    click.echo(f"schedules    {folder.schedules}\npictures     {folder.front}  {folder.samples}")
    click.echo(f"peak memory  {in_words(peak)}")
