"""What `presets gather` reads, shows and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flexiffusion import codec, presets
from flexsearch.cli import exit_codes, output
from flexsearch.errors import ConfigError
from flexsearch.report.table import error_text
from flexsearch.sharing import own_presets
from flexsearch.sharing.measurement import Evidence, Measurement, gathered, read, schedule_hash, with_evidence


def conduct(folder: Path, out: Path | None) -> int:
    """Gather, show, write; the exit code."""
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise ConfigError(f"FOLDER {folder}", "there is no .json file in it", "Give files that verify --share wrote")
    found: list[Measurement] = []
    refused: list[ConfigError] = []
    for path in files:
        try:
            found.append(read(path))
        except ConfigError as error:
            refused.append(error)
    evidence = gathered(found)
    written, unknown = _write(out, evidence) if out is not None else ([], [])
    if output.wants_json():
        rows = [{"name": item.name, "schedule": item.schedule, **item.to_dict()} for item in evidence]
        output.emit({"evidence": rows, "refused": [str(reason) for reason in refused],
                     "written": written, "unknown": unknown})  # fmt: skip
    else:
        _show(evidence)
    for reason in refused:
        output.say(f"refused: {reason}")
    for name in unknown:
        output.say(f"not written: no preset here is the schedule that was measured as {name}. Add it first")
    for name in written:
        output.say(f"written: {name}")
    return exit_codes.SCHEDULE if refused else exit_codes.OK


def _write(out: Path, evidence: Sequence[Evidence]) -> tuple[list[str], list[str]]:
    """The files written, and the names of schedules that are not here."""
    known = {schedule_hash(preset.schedule): preset.schedule for preset in presets.find()[0]}
    written, unknown = [], []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for item in evidence:
            schedule = known.get(item.schedule)
            if schedule is None:
                unknown.append(item.name)
                continue
            path = out / f"{own_presets.stem_of(schedule.name)}.json"
            codec.write(path, with_evidence(schedule, item))
            written.append(str(path))
    except OSError as error:
        raise ConfigError(f"--out {out}", f"it cannot be written ({error})", "Give another folder") from error
    return written, unknown


def _show(evidence: Sequence[Evidence]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("preset", "checkpoints", "images", "error", "of fewer plain steps' error", "faster by the clock"):
        table.add_column(heading, overflow="fold")
    for item in evidence:
        table.add_row(
            Text(output.printable(item.name)),  # never as markup: it is a stranger's
            str(item.checkpoints),
            str(item.images),
            " – ".join(error_text(value, None) for value in item.error),
            "–" if item.to_plain is None else " – ".join(f"{value:.2f}" for value in item.to_plain),
            "–" if item.speedup_measured is None else " – ".join(f"{value:.2f}x" for value in item.speedup_measured),
        )
    Console(highlight=False).print(table)
