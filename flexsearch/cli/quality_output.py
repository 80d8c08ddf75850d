"""What `quality` reads and shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexiffusion.presets import named
from flexsearch.cli import output
from flexsearch.cli.progress import Terminal
from flexsearch.report.rows import KIND_WORDS
from flexsearch.report.table import DIVERGED
from flexsearch.runs.quality import Quality, quality, read_captions, with_steps
from flexsearch.runs.settings import Settings
from flexsearch.sampling.prompts import BUNDLED, read_prompts

COCO = "coco:"
_TITLES = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "clip": "CLIP score"}


def conduct(
    presets: Sequence[str],
    count: int,
    prompts_file: str | None,
    steps: int | None,
    clip: Path | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Draw, measure and show."""
    schedules = with_steps([(name, named(name).schedule) for name in presets], steps)
    prompts = _prompts(prompts_file)
    settings = Settings(**options, prompts=prompts, held_out_prompts=prompts)
    found = quality(schedules, settings, prompts, count, Terminal(), folder=out, clip=clip)
    _show(found)


def _prompts(given: str | None) -> tuple[str, ...]:
    if given is not None and given.startswith(COCO):
        return read_captions(Path(given.removeprefix(COCO)))
    path = BUNDLED if given is None else Path(given)
    return tuple(prompt for part in read_prompts(path, f"--prompts {path}") for prompt in part)


def _show(found: Quality) -> None:
    for sentence in found.left_out:
        output.say(f"note: {sentence}")
    if output.wants_json():
        output.emit({"count": found.count, "rows": [row.to_dict() for row in found.rows]})
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = [name for name in _TITLES if any(name in row.means for row in found.rows)]
    table = Table(box=SIMPLE_HEAD, header_style="bold", title=f"{found.count} pictures beside the teacher's")
    table.add_column("schedule", overflow="fold")
    for heading in ("kind", "speed-up", *(_TITLES[name] for name in names), "FID"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for row in found.rows:
        cells = [_number(row.means[name].mean if name in row.means else None) for name in names]
        style = "bold" if row.kind == "found" else ""
        label = Text(output.printable(row.label))  # never as markup: it is a stranger's
        table.add_row(label, KIND_WORDS[row.kind], f"{row.speedup_macs:.2f}x", *cells, _number(row.fid), style=style)
    Console(highlight=False).print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}" if math.isfinite(value) else DIVERGED
