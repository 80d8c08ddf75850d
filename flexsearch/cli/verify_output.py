"""What `verify` reads and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flexiffusion.presets import named
from flexsearch.cli import output
from flexsearch.cli.progress import Terminal
from flexsearch.errors import ConfigError
from flexsearch.report.rows import comparisons
from flexsearch.report.table import FinalTable, error_text
from flexsearch.runs.claims import Finding, Word, overall
from flexsearch.runs.settings import Settings
from flexsearch.runs.verify import Verification, unused_seed, usual_images, verify
from flexsearch.sampling.prompts import given_prompts
from flexsearch.sharing.measurement import write

_STYLES: dict[Word | None, str] = {"confirmed": "green", "weaker": "yellow", "refuted": "red", None: "dim"}


def conduct(
    preset: str,
    images: int | None,
    choose_on: int,
    prompts_file: str | None,
    seed: int | None,
    share: str | None,
    **options: Any,
) -> tuple[Finding, ...]:
    """Measure, show and share; the findings."""
    if share is not None and not Path(share).absolute().parent.is_dir():
        raise ConfigError(f"--share {share}", "there is no such folder", "Make it, or give another place")
    schedule = named(preset).schedule
    prompts, held_out = given_prompts(prompts_file)
    asked = Settings(
        **options,
        prompts=prompts,
        held_out_prompts=held_out,
        images=choose_on,
        held_out=usual_images(schedule) if images is None else images,
        seed=unused_seed(schedule) if seed is None else seed,
    )
    made = verify(schedule, asked, Terminal())
    _show(made)
    if share is not None:
        if made.measurement is None:
            raise ConfigError(f"--share {share}", "an error is not finite: there is no measurement", "See the table")
        write(Path(share), made.measurement)
        output.say(f"shared: {share}")
    return made.findings


def _show(made: Verification) -> None:
    name, found, settings = made.name, made.findings, made.settings
    word = overall(found)
    if output.wants_json():
        documents = [{**item.to_dict(), "measured": None if item.measured != item.measured else item.measured}
                     for item in found]  # fmt: skip
        output.emit(
            {
                "preset": name,
                "verdict": word,
                "same_checkpoint": made.same_checkpoint,
                "images": settings.held_out,
                "seed": settings.seed,
                "claims": documents,
                "rows": [row.to_dict() for row in made.rows],
                "comparisons": [item.to_dict() for item in comparisons(made.rows)],
            }
        )
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(FinalTable(made.rows))
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
    said = word or "it claims nothing that can be checked; the table shows what it does"
    click.echo(output.printable(f"{name}: {said}"))


def _value(finding: Finding, value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.2f}x" if finding.claim.startswith("speed-up") else error_text(value, interval)
