"""What `verify` does: sample teacher, schedule and rivals on fresh noise, and hold the file's claims against it."""

from __future__ import annotations

from typing import Any

import click

from flexiffusion.search.objective import REFERENCES, ReferenceName
from flexsearch.cli import output
from flexsearch.cli.measuring import time_all
from flexsearch.cli.progress import stage
from flexsearch.engines.local import Outcome
from flexsearch.models.identity import cache_folder
from flexsearch.report.rows import Row, comparisons
from flexsearch.report.table import FinalTable, error_text
from flexsearch.runs import final_table as verdict
from flexsearch.runs.claims import Finding, Word, findings, overall, plain_ratios
from flexsearch.runs.final_table import Choice
from flexsearch.runs.from_file import settings_of, to_candidate
from flexsearch.runs.session import Session
from flexsearch.runs.settings import Settings
from flexsearch.sampling.prompts import given_prompts
from flexsearch.sharing import shelf

FEWEST, MOST = 16, 256  # images, where the user does not say

_STYLES: dict[Word | None, str] = {"confirmed": "green", "weaker": "yellow", "refuted": "red", None: "dim"}


def conduct(
    preset: str, images: int | None, choose_on: int, prompts_file: str | None, seed: int | None, **options: Any
) -> tuple[Finding, ...]:
    """Measure and show; the findings."""
    schedule = shelf.find(preset).schedule
    if images is None:
        claimed = max((metric.n for metric in schedule.metrics), default=64)
        images = min(max(claimed, FEWEST), MOST)
    if seed is None:
        # The claim's own noise would only be counted again.
        seed = (schedule.provenance.seed or 0) % (2**31 - 1) + 1
    prompts, held_out = given_prompts(prompts_file)
    asked = Settings(
        **options, prompts=prompts, held_out_prompts=held_out, images=choose_on, held_out=images, seed=seed
    )
    session = Session(settings_of(schedule, asked), cache_folder() / "references")
    output.say(f"model: {session.described()}")
    same = schedule.model.sha256 == session.model.sha256
    if schedule.model.sha256 is not None and not same:
        output.say(f"note: searched on another checkpoint of {schedule.model.family}, {schedule.model.sha256[:10]}")
    candidate, warning = to_candidate(schedule, session.model, session.teacher)
    if warning is not None:
        output.say(f"note: {warning}")
    cost = candidate.cost(session.table)
    speedup = session.settings.steps / cost
    found_one = Choice("found", speedup, schedule.name, candidate)
    choices = [verdict.teacher(session), found_one, *verdict.rivals(session, speedup, cost, {})]
    with stage("measure", len(choices), "schedules") as at:
        measured = verdict.measure(session.held_out_engine, choices, lambda label: at.advance(note=label))
    rows = verdict.rows(session.held_out_engine, measured, time_all(session.held_out_engine, measured), {})
    outcomes = {choice.kind: outcome for choice, outcome in measured}
    ratios = plain_ratios(_errors(outcomes["found"]), _errors(outcomes["plain"])) if "plain" in outcomes else {}
    found = findings(schedule, next(row for row in rows if row.kind == "found"), ratios)
    _show(schedule.name, same, found, rows, session.settings)
    return found


def _errors(outcome: Outcome) -> dict[ReferenceName, Any]:
    return {name: outcome.latent_errors(name) for name in REFERENCES}


def _show(name: str, same: bool, found: tuple[Finding, ...], rows: tuple[Row, ...], settings: Settings) -> None:
    word = overall(found)
    if output.wants_json():
        documents = [{**item.to_dict(), "measured": None if item.measured != item.measured else item.measured}
                     for item in found]  # fmt: skip
        output.emit(
            {
                "preset": name,
                "verdict": word,
                "same_checkpoint": same,
                "images": settings.held_out,
                "seed": settings.seed,
                "claims": documents,
                "rows": [row.to_dict() for row in rows],
                "comparisons": [item.to_dict() for item in comparisons(rows)],
            }
        )
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(FinalTable(rows))
    table = Table(title=Text(output.printable(f"{name}: {settings.held_out} images, seed {settings.seed}")))
    for heading in ("claim", "claimed", "measured", "verdict"):
        table.add_column(heading, overflow="fold")
    for item in found:
        judged = item.word or "not judged"
        table.add_row(
            Text(output.printable(item.claim)),  # never as markup: it is a stranger's
            _value(item, item.claimed, item.claimed_interval),
            "–" if item.measured != item.measured else _value(item, item.measured, item.interval),
            Text(f"{judged}: {output.printable(item.why)}", style=_STYLES[item.word]),
        )
    if found:
        console.print(table)
    click.echo(output.printable(f"{name}: {word or 'it claims nothing that can be judged; the table is what it does'}"))


def _value(finding: Finding, value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.2f}x" if finding.claim.startswith("speed-up") else error_text(value, interval)
