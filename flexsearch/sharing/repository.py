"""A folder of presets that others can add: schedule files, a README that says who found them how, pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from flexiffusion import codec
from flexiffusion.presets import named
from flexiffusion.schedule import Metric, Schedule
from flexiffusion.summary import sampling_text
from flexsearch.errors import ConfigError
from flexsearch.report import figures
from flexsearch.report.public_settings import public_settings
from flexsearch.report.rows import rows_from
from flexsearch.report.table import error_text, markdown
from flexsearch.sharing import own_presets, png

COMPARISON, FRONT = "comparison.png", "front.png"


def write(
    out: Path,
    sources: Sequence[str],
    author: str | None = None,
    title: str | None = None,
    picture: Path | None = None,
    repo: str | None = None,
) -> list[str]:
    """Writes presets, or the schedules of runs, as a repository folder; the files written, relative to `out`.

    Raises ConfigError for a folder that is not empty, and for a schedule whose author nobody tells.
    """
    runs = [Path(source) for source in sources if (Path(source) / "result.json").is_file()]
    schedules = [_by(author, schedule) for schedule in _schedules(sources, runs)]
    stems = [own_presets.stem_of(schedule.name) for schedule in schedules]
    if double := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ConfigError("SOURCE", f"two schedules are named {', '.join(double)}", "Share one of them")
    pictures = _pictures(runs, picture)
    try:
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"--out {out}", "the folder is not empty", "Give a new one")
        (out / "schedules").mkdir(parents=True, exist_ok=True)
        (out / "strips").mkdir()
        files = []
        for stem, schedule in zip(stems, schedules, strict=True):
            codec.write(out / "schedules" / f"{stem}.json", schedule)
            figures.schedule_strip(out / "strips" / f"{stem}.png", schedule)
            files += [f"schedules/{stem}.json", f"strips/{stem}.png"]
        for name, data in pictures.items():
            (out / name).write_bytes(data)
            files.append(name)
        readme = _readme(title or schedules[0].name, schedules, stems, list(pictures), runs, repo)
        (out / "README.md").write_text(readme, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}", f"it cannot be written ({error})", "Give another folder") from error
    return ["README.md", *files]


def _schedules(sources: Sequence[str], runs: Sequence[Path]) -> list[Schedule]:
    found: list[Schedule] = []
    for source in sources:
        if Path(source) in runs:
            files = sorted((Path(source) / "schedules").glob("*.json"))
            if not files:
                raise ConfigError(source, "the run has found no schedule", "Share another")
            found += [codec.read(file) for file in files]
        else:
            found.append(named(source).schedule)
    return found


def _by(author: str | None, schedule: Schedule) -> Schedule:
    if schedule.author:
        return schedule
    if not author:
        raise ConfigError(schedule.name, "it does not say who made it", "Give --author")
    return dataclasses.replace(schedule, author=author)


def _pictures(runs: Sequence[Path], given: Path | None) -> dict[str, bytes]:
    """Name in the folder -> PNG: the picture that was given, else the first run's own."""
    wanted = {COMPARISON: given} if given else {}
    if runs:
        wanted = {COMPARISON: runs[0] / "samples.png", FRONT: runs[0] / FRONT, **wanted}
    read: dict[str, bytes] = {}
    for name, path in wanted.items():
        try:
            data = path.read_bytes()
        except OSError as error:
            if path is given:
                raise ConfigError(f"--picture {path}", f"it cannot be read ({error})", "Give a PNG") from error
            continue  # a run whose pictures were deleted
        if not data.startswith(png.SIGNATURE):
            raise ConfigError(str(path), "it is no PNG", "Give a PNG")
        read[name] = data
    return read


def _readme(
    title: str,
    schedules: Sequence[Schedule],
    stems: Sequence[str],
    pictures: Sequence[str],
    runs: Sequence[Path],
    repo: str | None,
) -> str:
    from huggingface_hub import ModelCardData

    licences = {schedule.license for schedule in schedules}
    card = ModelCardData(
        license=licences.pop().lower() if len(licences) == 1 else "other",
        library_name="flexiffusion",
        tags=["flexiffusion", "diffusion", "acceleration", *sorted({s.model.family for s in schedules})],
    )
    lines = ["---", card.to_yaml().strip(), "---", "", f"# {_plain(title)}", ""]
    lines += ["Schedules for faster sampling, for ComfyUI, AUTOMATIC1111, Forge and `flexsearch`.", ""]
    if COMPARISON in pictures:
        lines += [f"![The teacher above, the schedules below, the same seed in each column]({COMPARISON})", ""]
    lines += ["| schedule | model | made for | speed-up (multiply-adds) | evidence | by |", "|---|---|---|---|---|---|"]
    for schedule, stem in zip(schedules, stems, strict=True):
        cells = (
            _plain(sampling_text(schedule.sampling)),
            _speedup(schedule),
            _evidence(schedule),
            _plain(schedule.author),
        )
        lines.append(f"| [{stem}](schedules/{stem}.json) | {_model(schedule)} | " + " | ".join(cells) + " |")
    lines += ["", *(f"![{stem}](strips/{stem}.png)\n" for stem in stems)]
    source = f"hf:{repo}" if repo else "FOLDER-OR-ADDRESS"
    lines += ["## Use", "", "```sh", f"flexsearch presets add {source}", "```", ""]
    lines += [
        "Or put a file into ComfyUI's or the WebUI's `models/flexiffusion/`, or paste its text. Then measure it on",
        "your own checkpoint: `flexsearch verify NAME --model FILE`.",
        "",
    ]
    if FRONT in pictures:
        lines += [f"![Error against cost]({FRONT})", ""]
    for run in runs:
        document = json.loads((run / "result.json").read_text(encoding="utf-8"))
        lines += ["## How they were found", "", "```json", json.dumps(public_settings(document["settings"])), "```", ""]
        lines += [markdown(rows_from(document["rows"])), ""]
    return "\n".join(lines)


def _model(schedule: Schedule) -> str:
    digest = schedule.model.sha256
    return schedule.model.family + (f", SHA-256 {digest[:10]}" if digest else ", any checkpoint")


def _speedup(schedule: Schedule) -> str:
    known = schedule.cost.speedup_macs if schedule.cost else None
    return f"{known:.2f}x" if known else "not stated"


def _evidence(schedule: Schedule) -> str:
    if not schedule.metrics:
        return "a hand-made rule, nothing measured" if schedule.provenance.kind == "heuristic" else "nothing measured"
    return "<br>".join(_plain(_metric(metric)) for metric in schedule.metrics)


def _metric(metric: Metric) -> str:
    against = f" to {metric.reference}" if metric.reference else ""
    return f"{metric.name} {error_text(metric.value, metric.interval)}, n = {metric.n}{against}"


def _plain(text: str) -> str:
    """A stranger's text in Markdown: no table cell, tag, link or heading of its own."""
    return "".join(f"&#{ord(char)};" if char in "|<>[]*_`#\\&!\n" else char for char in text)
