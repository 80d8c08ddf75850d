"""A folder of presets that others can add: schedule files, a README that says who found them how, pictures."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
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
        strips = {}
        for stem, schedule in zip(stems, schedules, strict=True):
            codec.write(out / "schedules" / f"{stem}.json", schedule)
            strips[stem] = figures.schedule_strip(out / "strips" / f"{stem}.png", schedule)
            files += [f"schedules/{stem}.json", f"strips/{stem}.png"]
        for name, data in pictures.items():
            (out / name).write_bytes(data)
            files.append(name)
        readme = _readme(title or schedules[0].name, schedules, stems, strips, list(pictures), runs, repo)
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
    strips: Mapping[str, int],
    pictures: Sequence[str],
    runs: Sequence[Path],
    repo: str | None,
) -> str:
    """The repository's card. `strips`: how wide each strip is shown, in pixels."""
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
    lines += ["| schedule | model | speed-up (multiply-adds) | measured | by |", "|---|---|---|---|---|"]
    for schedule, stem in zip(schedules, stems, strict=True):
        cells = (_model(schedule), _speedup(schedule), _headline(schedule), _plain(schedule.author))
        lines.append(f"| [{stem}](#{_anchor(stem)}) | " + " | ".join(cells) + " |")
    source = f"hf:{repo}" if repo else "hf:OWNER/NAME"
    lines += ["", "## Use", "", "```sh", f"flexsearch presets add {source}", "```", ""]
    lines += [
        "Or put a file into ComfyUI's or the WebUI's `models/flexiffusion/`, or paste its text. Then measure it on",
        "your own checkpoint: `flexsearch verify NAME --model FILE`.",
        "",
        "## The schedules",
        "",
    ]
    for schedule, stem in zip(schedules, stems, strict=True):
        lines += [*_section(schedule, stem, strips[stem]), ""]
    if FRONT in pictures:
        lines += ["## How they were found", "", f"![Error against cost]({FRONT})", ""]
    for run in runs:
        document = json.loads((run / "result.json").read_text(encoding="utf-8"))
        lines += [markdown(rows_from(document["rows"])), ""]
        settings = json.dumps(public_settings(document["settings"]), indent=2)
        lines += [
            "<details><summary>Settings of the search</summary>",
            "",
            "```json",
            settings,
            "```",
            "",
            "</details>",
            "",
        ]
    return "\n".join(lines)


def _model(schedule: Schedule) -> str:
    digest = schedule.model.sha256
    return schedule.model.family + (f", SHA-256 {digest[:10]}" if digest else ", any checkpoint")


def _speedup(schedule: Schedule) -> str:
    known = schedule.cost.speedup_macs if schedule.cost else None
    return f"{known:.2f}x" if known else "not stated"


def _section(schedule: Schedule, stem: str, strip_width: int) -> list[str]:
    """All about one schedule: its steps as a picture, what it was made for, every figure, its file."""
    known = [f"- {_plain(_metric(metric))}" for metric in schedule.metrics]
    return [
        f"### {stem}",
        "",
        *([_plain(schedule.description), ""] if schedule.description else []),
        f'<img src="strips/{stem}.png" width="{strip_width}" alt="The steps of {stem}, from noise to picture">',
        "",
        f"- made for {_plain(sampling_text(schedule.sampling))}",
        *known,
        f"- file: [{stem}.json](schedules/{stem}.json), {_plain(schedule.license)}",
    ]


def _headline(schedule: Schedule) -> str:
    """The first figure of a schedule, or why there is none."""
    if not schedule.metrics:
        return "a hand-made rule, nothing measured" if schedule.provenance.kind == "heuristic" else "nothing measured"
    return _plain(_figure(schedule.metrics[0]))


def _figure(metric: Metric) -> str:
    return f"{metric.name.replace('_', ' ')} {error_text(metric.value, metric.interval)}, n = {metric.n}"


def _metric(metric: Metric) -> str:
    return _figure(metric) + (f", to {metric.reference}" if metric.reference else "")


def _anchor(stem: str) -> str:
    """Of a heading, as Hugging Face and GitHub make it."""
    return stem.lower().replace(".", "")


def _plain(text: str) -> str:
    """A stranger's text in Markdown: no table cell, tag, link or heading of its own."""
    return "".join(f"&#{ord(char)};" if char in "|<>[]*_`#\\&!\n" else char for char in text)
