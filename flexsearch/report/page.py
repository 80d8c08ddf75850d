"""A run as one HTML file that needs nothing else: no network, no other file, and no program but a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flexiffusion import __version__, codec, strip
from flexiffusion.cost import CostTable
from flexiffusion.errors import ScheduleError
from flexiffusion.schedule import Schedule
from flexiffusion.search.objective import Objective, paired_reference
from flexiffusion.strip import Look, legend, look, sign
from flexiffusion.summary import step_text
from flexsearch.errors import RunFolderError
from flexsearch.report import palette, pictures, plot
from flexsearch.report.public_settings import public_settings
from flexsearch.report.rows import KIND_WORDS, UNCLEAR, Comparison, Row, comparisons, groups, rivals_met, rows_from
from flexsearch.report.table import ERROR_TITLES, NOTE, error_text, multiply_adds, searched_words

_TEMPLATES = Path(__file__).parent / "templates"
# The WebUI's and ComfyUI's names of this tool's solvers; others are named as they are.
_HOST_SAMPLERS = {
    "ddim": ("DDIM", "ddim"),
    "plms": ("PLMS", "plms"),
    "dpmpp_2m": ("DPM++ 2M", "dpmpp_2m"),
    "euler": ("Euler", "euler"),
    "uni_pc": ("UniPC", "uni_pc"),
}


@dataclass(frozen=True)
class Found:
    """A schedule that the run found, its row, and its file."""

    name: str
    row: Row
    schedule: Schedule
    text: str

    @property
    def download(self) -> str:
        return "data:application/json;base64," + base64.b64encode(self.text.encode()).decode()

    @property
    def strip(self) -> list[tuple[str, str, str, str]]:
        """Of every step: colour, ink, sign, words."""
        steps = []
        for number, action in enumerate(self.schedule.plan.actions(), 1):
            drawn = look(action)
            steps.append((drawn.colour, drawn.ink, sign(action), f"step {number}: {step_text(action)}"))
        return steps

    @property
    def legend(self) -> tuple[Look, ...]:
        return legend(self.schedule.plan.actions())

    @property
    def webui_sampler(self) -> str:
        name = self.schedule.sampling.sampler or "any"
        return _HOST_SAMPLERS.get(name, (name, name))[0]

    @property
    def comfyui_sampler(self) -> str:
        name = self.schedule.sampling.sampler or "any"
        return _HOST_SAMPLERS.get(name, (name, name))[1]


def found_in(run: Path, rows: Sequence[Row]) -> list[Found]:
    """The found schedules of a run, by rising speed-up, wherever the folder has been moved to. Raises ScheduleError."""
    listed = [row for row in rows if row.kind == "found" and row.schedule_file is not None]
    made = []
    for row in sorted(listed, key=lambda row: row.speedup_asked or 0.0):
        path = run / "schedules" / Path(str(row.schedule_file)).name
        schedule = codec.read(path)
        made.append(Found(path.stem, row, schedule, codec.dumps(schedule).decode()))
    return made


def read_result(run: Path) -> dict[str, Any]:
    """A finished run's `result.json`. Raises RunFolderError."""
    path = run / "result.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows_from(document["rows"])
        _ = document["settings"]
    except FileNotFoundError:
        known = (run / "settings.json").is_file()
        raise RunFolderError(
            str(run),
            "the run is not finished" if known else "there is no run in it",
            f"Run `flexsearch resume {run}` first" if known else "Give a folder that `flexsearch run` made",
        ) from None
    except (OSError, ValueError) as error:
        raise RunFolderError(
            str(path), f"it cannot be read ({error})", f"Run `flexsearch resume {run}` again"
        ) from error
    except (KeyError, TypeError) as error:
        remedy = f"Run `flexsearch resume {run}` again: it writes the file anew"
        raise RunFolderError(str(path), f"it lacks {_lacking(error)}", remedy) from error
    return dict(document)


def _lacking(error: KeyError | TypeError) -> str:
    """The name of what was looked for, where Python's words have it."""
    named = re.findall(r"'(\w+)'", str(error))
    return ", ".join(map(repr, named)) if named else "what a result has"


def render(run: Path) -> str:
    """The page of a finished run. Raises RunFolderError, ScheduleError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    result = read_result(run)
    rows, settings = rows_from(result["rows"]), result["settings"]
    found = found_in(run, rows)
    shown = {item.name: _uris(run, item.name) for item in found}
    teacher = _uris(run, pictures.TEACHER)
    minimised = result.get("objective")
    titles = {key: title.replace("\n", " ") for key, title in ERROR_TITLES.items()}
    searched = []
    if minimised is not None and settings.get("cost", "macs") == "macs":  # which is the plot's axis
        searched = [(point["cost"], point["error"]) for point in result.get("front", ())]
        titles[plot.SEARCHED] = f"{searched_words(Objective(**minimised))}, on the search images"
    error = f"latent/{paired_reference(settings['reference'])}"
    found_against = comparisons(rows)
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,  # every text of the run's files: also those of a stranger
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=f"{_family(run)}, {settings['solver']}, {settings['steps']} steps",
        made=f"{datetime.now():%Y-%m-%d}, flexsearch {__version__}",
        style=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=(_TEMPLATES / "report.js").read_text(encoding="utf-8"),
        rows=rows,
        groups=groups(rows),
        number=lambda row: next(i for i, other in enumerate(rows) if other is row),
        found=found,
        pairs={name: list(zip(teacher, uris, strict=False)) for name, uris in shown.items()},
        small=_small(run),
        compared=_compared(found_against),
        unclear=UNCLEAR,
        front=plot.front(rows, searched, float(settings["steps"])),
        main_error=error,
        plot=plot,
        palette=palette,
        strip=strip,
        kinds=plot.kinds(rows),
        kind_words=KIND_WORDS,
        rivals=rivals_met(found_against),
        error_titles=titles,
        error_text=lambda e: error_text(e.mean, (e.low, e.high)),
        multiply_adds=multiply_adds,
        note=NOTE,
        result=result,
        settings=_settings(settings),
        costs=_costs(run),
        run=str(run),
    )


def _uris(run: Path, name: str) -> list[str]:
    return [pictures.data_uri(image) for image in pictures.read(run / "pictures" / name)]


def _small(run: Path) -> bool:
    """Whether the pictures are so small that a page must show their pixels."""
    images = pictures.read(run / "pictures" / pictures.TEACHER)[:1]
    return bool(images) and max(images[0].size) <= 128


def _family(run: Path) -> str:
    try:
        return str(json.loads((run / "model.json").read_text(encoding="utf-8"))["family"])
    except (OSError, ValueError, KeyError, TypeError):
        return "a run"


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every setting that others may read, in words."""
    return [(key.replace("_", " "), _in_words(value)) for key, value in public_settings(settings).items()]


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _compared(found: Sequence[Comparison]) -> dict[tuple[float, str, str], Comparison]:
    return {(item.speedup_asked, item.error, item.rival): item for item in found}


def _costs(run: Path) -> tuple[str, list[tuple[str, float, float]]] | None:
    """The unit in words, and of every kind of step its name, cost and share of a full one; None without a table."""
    try:
        table = CostTable.from_dict(json.loads((run / "costs.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, ScheduleError):
        return None
    steps = [("full", table.full, 1.0)]
    steps += [(f"partial, branch {b}", cost, cost / table.full) for b, cost in sorted(table.partial.items())]
    return "multiply-adds" if table.unit == "macs" else "milliseconds", steps
