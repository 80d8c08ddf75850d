"""`flexsearch presets ...`: schedules that travel. Hosts read the same folder: what is added is there at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from flexsearch.cli import exit_codes, output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place
from flexsearch.errors import ConfigError

if TYPE_CHECKING:
    from flexiffusion.errors import FlexiffusionError
    from flexiffusion.presets import Preset
    from flexiffusion.schedule import Schedule
    from flexsearch.sharing.own_presets import OwnPresets

_FOLDER = click.option(
    "--folder",
    type=Place(folder=True, file_okay=False, path_type=Path),
    help="Another folder than the one of your own presets, such as a host's models/flexiffusion.",
)


def complete_name(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Preset names for the shell."""
    from flexsearch.sharing.own_presets import names

    return [CompletionItem(name) for name in names() if name.startswith(incomplete)]


@click.group("presets")
def presets() -> None:
    """List, show, add, remove, share and update presets.

    Presets that you add lie in one folder, which ComfyUI, AUTOMATIC1111, Forge and flexsearch all read.
    """


@presets.command("list", cls=Command, group="presets")
@click.option("--family", help="Only those for this model family, such as sd15.")
@output.json_option
def list_presets(family: str | None) -> None:
    """List all presets: the bundled ones, your own, and files that cannot be read."""
    from flexiffusion import presets as found

    entries, errors = found.find()
    notes = {path: note for folder in found.own_folders() for path, note in _notes(folder).items()}
    shown = [entry for entry in entries if family in (None, entry.schedule.model.family)]
    if family is not None and not shown:
        known = ", ".join(sorted({entry.schedule.model.family for entry in entries}))
        raise ConfigError("--family", f"no preset is for {family!r}", f"There are some for {known}")
    if output.wants_json():
        output.emit(
            {
                "presets": [_entry(entry, notes.get(entry.path)) for entry in shown],
                "errors": [str(error) for error in errors],
                "folder": str(found.own_folders()[0]),
            }
        )
        return
    _print_list(shown, notes)
    unlisted = {error.place for error in errors if error.problem.startswith(found.UNLISTED)}
    for error in errors:
        if error.place not in unlisted:
            output.say(f"broken  {error}")
    for folder in found.own_folders()[:1] + tuple(f for f in found.own_folders()[1:] if str(f) in unlisted):
        click.echo(output.printable(f"your own: {folder}{' (it cannot be listed)' if str(folder) in unlisted else ''}"))


@presets.command("show", cls=Command, group="presets")
@click.argument("preset", metavar="PRESET", shell_complete=complete_name)
@output.json_option
def show_preset(preset: str) -> None:
    """Show what a preset does, who made it on which checkpoint, what was measured, and where you got it."""
    from flexiffusion.presets import named
    from flexsearch.cli.show import document, print_sheet

    found = named(preset)
    note = _notes(found.path.parent).get(found.path)
    if output.wants_json():
        output.emit({**document(str(found.path), found.schedule), "source": note})
        return
    from rich.console import Console

    more = [("file", str(found.path))]
    if note is not None:
        more += [("from", note["origin"]), ("added", note["added"])]
    print_sheet(Console(highlight=False), found.schedule, more)


@presets.command("export", cls=Command, group="presets")
@click.argument("preset", metavar="PRESET", shell_complete=complete_name)
@click.option(
    "--to",
    "target",
    type=click.Choice(("cache-dit", "sd.cpp", "sigmas", "steps")),
    required=True,
    help="cache-dit: its steps_computation_mask; sd.cpp: options of stable-diffusion.cpp; sigmas: noise levels for the "
    "text boxes of ComfyUI and others; steps: numbers of the full steps, counted from 0.",
)
@output.json_option
def export_preset(preset: str, target: Any) -> None:
    """Print a preset in the form that another program reads.

    What they cannot express is said, and with it that no measurement of the preset holds there.
    """
    from flexiffusion.presets import named
    from flexsearch.sharing.formats import export

    found = named(preset)
    exported = export(found.schedule, target)
    if output.wants_json():
        output.emit({"preset": found.path.stem, "to": target, "text": exported.text, "lost": list(exported.lost)})
        return
    click.echo(output.printable(exported.text))
    for lost in exported.lost:
        output.say(f"lost  {lost}")


@presets.command("add", cls=Command, group="presets")
@click.argument("source", type=Place(), metavar="SOURCE")
@click.option("--name", help="Add it under this name; for a source that holds one schedule.")
@click.option("--replace", is_flag=True, help="Replace a preset that has the same name.")
@_FOLDER
@output.json_option
@click.pass_context
def add(ctx: click.Context, source: str, name: str | None, replace: bool, folder: Path | None) -> None:
    """Add what SOURCE holds: a file, a folder, an https address, a Hugging Face repository, or a PNG picture.

    A repository is hf:OWNER/NAME or hf:OWNER/NAME@REVISION; the commit that it is at is kept with the preset. A picture
    is one that flexsearch drew, or that ComfyUI or the WebUI made from a schedule's text. Files are data only: checked
    strictly, never executed. Of several files the good ones are added, and the others told; exit code 3 then.
    """
    from flexsearch.sharing.own_presets import OwnPresets
    from flexsearch.sharing.sources import fetch

    fetched = fetch(source)
    found = fetched.found
    if name is not None:
        if len(found) != 1:
            raise ConfigError("--name", f"the source holds {len(found)} schedules", "Give the address of one of them")
        found = (dataclasses.replace(found[0], schedule=dataclasses.replace(found[0].schedule, name=name)),)
    own = OwnPresets(folder)
    kept = source if _is_remote(source) else str(Path(source).absolute())
    done: list[dict[str, Any]] = []
    refused: list[FlexiffusionError] = list(fetched.refused)
    for item in found:
        try:
            outcome, path = own.add(item.schedule, item.origin, kept, replace)
        except ConfigError as error:
            if len(found) == 1 and not refused:
                raise
            refused.append(error)
            continue
        done.append({"outcome": outcome, "name": path.stem, "file": str(path), "origin": item.origin})
        if not output.wants_json():
            click.echo(output.printable(f"{outcome:13}  {path.stem}  ({_words(item.schedule)})"))
    _end(ctx, own, done, refused)


@presets.command("remove", cls=Command, group="presets")
@click.argument("names", metavar="PRESET...", nargs=-1, required=True, shell_complete=complete_name)
@_FOLDER
@output.json_option
def remove(names: tuple[str, ...], folder: Path | None) -> None:
    """Delete presets of your own."""
    from flexsearch.sharing.own_presets import OwnPresets

    paths = [str(path) for path in OwnPresets(folder).remove(tuple(dict.fromkeys(names)))]
    if output.wants_json():
        output.emit({"removed": paths})
    else:
        for path in paths:
            click.echo(f"removed  {path}")


@presets.command("pull", cls=Command, group="presets")
@click.argument("names", metavar="[PRESET...]", nargs=-1, shell_complete=complete_name)
@click.option("--replace", is_flag=True, help="Also replace presets that you have edited.")
@_FOLDER
@output.json_option
@click.pass_context
def pull(ctx: click.Context, names: tuple[str, ...], replace: bool, folder: Path | None) -> None:
    """Fetch again what came from an address or a repository, and take what has changed there.

    Without PRESET all of them. A repository that was added with @REVISION stays at it.
    """
    from flexiffusion.errors import FlexiffusionError
    from flexsearch.errors import SourceError
    from flexsearch.sharing.own_presets import OwnPresets
    from flexsearch.sharing.sources import Fetched, fetch

    own = OwnPresets(folder)
    notes = {name: note for name, note in own.notes().items() if _is_remote(note.source)}
    for name in names:
        if name not in notes:
            raise ConfigError(name, "it did not come from an address or a repository", f"Those: {', '.join(notes)}")
    if not notes and not output.wants_json():
        click.echo(f"nothing to pull: no preset in {own.folder} came from an address or a repository")
    done: list[dict[str, Any]] = []
    refused: list[FlexiffusionError] = []
    fetched: dict[str, Fetched] = {}
    for name in names or tuple(notes):
        note = notes[name]
        try:
            if own.changed_here(name) and not replace:
                raise ConfigError(name, "you have edited it since it was added", "Give --replace to lose that")
            if note.source not in fetched:
                fetched[note.source] = fetch(note.source)
                refused += fetched[note.source].refused
            same = [item for item in fetched[note.source].found if _file_of(item.origin) == _file_of(note.origin)]
            if not same:
                raise SourceError(note.origin, "it is no longer there", f"Keep {name} as it is, or remove it")
            schedule = dataclasses.replace(same[0].schedule, name=own.schedule(name).name)
            outcome, path = own.add(schedule, same[0].origin, note.source, replace=True)
        except FlexiffusionError as error:
            refused.append(error)
            continue
        word = "unchanged" if outcome == "there already" else "updated"
        done.append({"outcome": word, "name": name, "file": str(path), "origin": same[0].origin})
        if not output.wants_json():
            click.echo(output.printable(f"{word:13}  {name}  ({_words(schedule)})"))
    _end(ctx, own, done, refused)


@presets.command("share", cls=Command, group="presets")
@click.argument("sources", metavar="PRESET|RUN...", nargs=-1, required=True, shell_complete=complete_name)
@click.option("--out", required=True, type=Place(path_type=Path), help="The new folder to write.")
@click.option("--author", help="Author of the presets; needed where a file names none.")
@click.option("--title", help="Title of the README. [default: the first preset's name]")
@click.option(
    "--picture",
    type=Place(path_type=Path),
    help="A PNG that compares pictures with and without. [default: the run's own]",
)
@click.option("--repo", metavar="OWNER/NAME", help="Upload to this Hugging Face repository, with your token.")
@output.json_option
def share(
    sources: tuple[str, ...],
    out: Path,
    author: str | None,
    title: str | None,
    picture: Path | None,
    repo: str | None,
) -> None:
    """Write a repository folder of presets, or of a run's schedules: files, README, pictures; upload it if asked.

    Others add it with `flexsearch presets add hf:OWNER/NAME`, or from the folder.
    """
    from flexsearch.sharing import hub, repository

    if repo is not None:
        hub.repository(f"hf:{repo}")  # a wrong name is told before anything is written
    files = repository.write(out, sources, author, title, picture, repo)
    address = hub.upload(out, repo) if repo is not None else None
    if output.wants_json():
        output.emit({"folder": str(out), "files": files, "uploaded": address})
        return
    for file in files:
        click.echo(f"wrote  {out / file}")
    click.echo(f"uploaded to {address}" if address else "Not uploaded: give --repo OWNER/NAME for that.")


def _end(ctx: click.Context, own: OwnPresets, done: list[dict[str, Any]], refused: Sequence[FlexiffusionError]) -> None:
    if output.wants_json():
        problems = [str(error) for error in refused]
        output.emit({"presets": done, "refused": problems, "folder": str(own.folder)})
    for error in refused:
        output.say(f"refused  {error}")
    if done and not output.wants_json():
        click.echo(f"in {own.folder}\nComfyUI: press R. AUTOMATIC1111, Forge: the button beside the list.")
    if refused:
        codes = [exit_codes.exit_code_of(error) for error in refused]
        ctx.exit(exit_codes.SCHEDULE if exit_codes.SCHEDULE in codes else codes[0])


def _is_remote(source: str) -> bool:
    from flexsearch.sharing.sources import is_remote

    return is_remote(source)


@presets.command("gather", cls=Command, group="presets")
@click.argument("folder", type=Place(folder=True, file_okay=False, path_type=Path), metavar="FOLDER")
@click.option(
    "--out",
    metavar="DIR",
    type=Place(folder=True, file_okay=False, path_type=Path),
    help="Write each schedule that you have with its evidence there, to share again.",
)
@output.json_option
@click.pass_context
def gather(ctx: click.Context, folder: Path, out: Path | None) -> None:
    """Put together what others measured: the files of `verify --share` in FOLDER, and what they say of each preset.

    Each checkpoint counts once for a schedule. Spreads are smallest, median and largest over checkpoints. Files that
    are no measurements are told, the others gathered; exit code 3 then.
    """
    from flexsearch.cli.gather_output import conduct

    ctx.exit(conduct(folder, out))


def _file_of(origin: str) -> str:
    """An origin without the commit, which is what may change."""
    if not origin.startswith("hf:"):
        return origin
    name, _, rest = origin.partition("@")
    return f"{name}:{rest.partition(':')[2]}"


def _notes(folder: Path) -> dict[Path, dict[str, str]]:
    from flexsearch.sharing.own_presets import OwnPresets

    notes = OwnPresets(folder).notes()
    return {folder / f"{name}.json": dataclasses.asdict(note) for name, note in notes.items()}


def _words(schedule: Schedule) -> str:
    """Who, for what, with which evidence: what a stranger's preset is judged by."""
    origin = schedule.provenance
    words = [schedule.model.family, "searched" if origin.kind == "searched" else "a hand-made rule"]
    words.append(f"by {schedule.author}" if schedule.author else "no author named")
    if schedule.metrics:
        words.append(f"measured on {max(metric.n for metric in schedule.metrics)} images")
    else:
        words.append("nothing measured")
    return ", ".join(words)


def _entry(preset: Preset, note: dict[str, str] | None) -> dict[str, Any]:
    schedule = preset.schedule
    return {
        "name": preset.path.stem,
        "file": str(preset.path),
        "family": schedule.model.family,
        "steps": schedule.sampling.steps,
        "speedup_macs": schedule.cost.speedup_macs if schedule.cost else None,
        "kind": schedule.provenance.kind,
        "author": schedule.author,
        "source": note,
    }


def _print_list(found: Sequence[Preset], notes: dict[Path, dict[str, str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from flexiffusion.presets import bundled_folder

    rows: list[tuple[str, ...]] = [("preset", "family", "steps", "speed-up", "kind", "from")]
    for preset in found:
        schedule, note = preset.schedule, notes.get(preset.path)
        speedup = schedule.cost.speedup_macs if schedule.cost else None
        place = "bundled" if preset.path.parent == bundled_folder() else str(preset.path.parent)
        cells = (
            preset.path.stem,
            schedule.model.family,
            str(schedule.sampling.steps),
            f"{speedup:.2f}x" if speedup else "–",
            schedule.provenance.kind,
            note["origin"] if note else place,
        )
        rows.append(tuple(output.printable(cell) for cell in cells))
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    console = Console()
    if console.is_terminal:  # where it is narrow only the last column is cut: `presets show` has it whole
        widths[-1] = min(widths[-1], max(8, console.width - sum(widths[:-1]) - len(widths) - 1))
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=0)
    for heading, width in zip(rows[0], widths, strict=True):
        numbers = heading in ("steps", "speed-up")
        table.add_column(heading, justify="right" if numbers else "left", no_wrap=True, width=width)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    console.width = max(console.width, sum(widths) + len(widths) + 1)
    console.print(table)
