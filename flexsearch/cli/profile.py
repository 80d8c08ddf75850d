"""`flexsearch profile`: what a full and a partial step of every branch cost on this device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from flexsearch.cli import output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place
from flexsearch.cli.options import MODEL, with_options
from flexsearch.cli.places import require_file
from flexsearch.errors import ConfigError


@click.command(cls=Command)
@with_options(MODEL)
@click.option(
    "--repeats", type=click.IntRange(1, 1000), default=5, show_default=True, help="Timings of each kind of step."
)
@click.option("--out", type=Place(), metavar="FILE", help="Save both cost tables as JSON.")
@output.json_option
def profile(
    model: str, guidance: float | None, batch: int | None, repeats: int, out: str | None, **options: Any
) -> None:
    """Measure what every kind of step costs: multiply-adds (of one image) and milliseconds (of a batch)."""
    from flexsearch.runs.settings import Settings

    Settings(model, guidance=guidance, batch=batch)  # refuses what `run` refuses
    if out is not None:
        require_file("--out", Path(out))
    from flexsearch.cli.quiet import quiet
    from flexsearch.devices import in_words, peak_memory
    from flexsearch.models.costs import count_macs, device_name, measure_ms
    from flexsearch.models.load import load_model

    quiet()
    loaded = load_model(model, **options)
    for line in loaded.note_lines():
        output.say(line)
    scale = loaded.default_guidance if guidance is None else guidance
    macs = count_macs(loaded, scale)
    ms, batch = measure_ms(loaded, scale, 1 if batch is None else batch, repeats)
    peak = peak_memory(loaded.device)
    document = {
        "model": loaded.source,
        "family": loaded.family,
        "sha256": loaded.sha256,
        "prediction": loaded.prediction,
        "device": device_name(loaded),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "size": list(loaded.image_size),
        "batch": batch,
        "guidance": scale,
        "compiled": options["compiled"],
        "macs": macs.to_dict(),
        "ms": ms.to_dict(),
        "peak_memory": peak,
    }
    if out is not None:
        try:
            Path(out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--out {out}", f"it cannot be written ({error})", "Give another file") from error
    if output.wants_json():
        output.emit(document)
        return
    from rich.console import Console
    from rich.table import Table

    width, height = loaded.image_size
    compiled = ", compiled" if options["compiled"] else ""
    table = Table(
        title=f"{loaded.source} ({loaded.family}): {document['device']}, {document['dtype']}{compiled}, "
        f"{width}x{height}, batch {batch}, guidance {scale:g}"
    )
    for heading in ("step", "multiply-adds", "share", "ms", "share"):
        table.add_column(heading, justify="right")
    table.add_row("full", f"{macs.full / 1e6:,.1f} M", "100 %", f"{ms.full:.1f}", "100 %")
    for branch, count in sorted(macs.partial.items()):
        took = ms.partial[branch]
        table.add_row(
            f"branch {branch}",
            f"{count / 1e6:,.1f} M",
            f"{count / macs.full:.1%}",
            f"{took:.1f}",
            f"{took / ms.full:.1%}",
        )
    Console().print(table)
    click.echo(f"peak memory  {in_words(peak)}")
