"""`flexsearch report RUN`: a finished run as one page, and its figures as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexsearch.cli import output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place
from flexsearch.errors import ConfigError, RunFolderError

if TYPE_CHECKING:
    from flexsearch.report.page import Found


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=Place(path_type=Path))
@click.option("--out", type=Place(dir_okay=False, path_type=Path), help="File of the page. [default: RUN/report.html]")
@click.option("--open", "opened", is_flag=True, help="Show it in the browser.")
@output.json_option
def report(folder: Path, out: Path | None, opened: bool) -> None:
    """Write a finished run as one HTML file that needs no network, and its figures as PNG.

    It holds the front, the schedules with their pictures beside the teacher's, the final table, costs, settings, and
    how to install each schedule. The pictures of a run made before flexsearch kept them are sampled once more.
    """
    from flexsearch.report import figures, page
    from flexsearch.report.rows import rows_from
    from flexsearch.runs.run_folder import RunFolder

    if not (folder / "result.json").exists() and RunFolder(folder).in_use():
        raise RunFolderError(str(folder), "the run is still going on", "Wait until it ends")
    found = page.found_in(folder, rows_from(page.read_result(folder)["rows"]))
    page_file = out or folder / "report.html"
    strips = page_file.parent / "strips"  # beside the page: the run's folder may not be writable
    files = [page_file, folder / "front.png", folder / "samples.png"]
    try:
        _keep_pictures(folder, found)
        strips.mkdir(exist_ok=True)
        for item in found:
            path = strips / f"{item.name}.png"
            figures.schedule_strip(path, item.schedule)
            files.append(path)
        page_file.write_text(page.render(folder), encoding="utf-8")
    except OSError as error:
        place = str(error.filename or page_file)
        remedy = "Give --out" if out is None else "Give another --out"
        raise ConfigError(place, f"it cannot be written ({error.strerror or error})", remedy) from error
    if output.wants_json():
        output.emit({"report": str(page_file), "files": [str(file) for file in files if file.is_file()]})
    else:
        for file in files:
            if file.is_file():
                click.echo(str(file))
    if opened:
        import webbrowser

        webbrowser.open(page_file.absolute().as_uri())


def _keep_pictures(folder: Path, found: list[Found]) -> None:
    """Samples what the run's folder has no pictures of."""
    from flexsearch.report import pictures

    place = folder / "pictures"
    if all(pictures.read(place / name) for name in (pictures.TEACHER, *(item.name for item in found))):
        return
    from flexsearch.cli.quiet import quiet
    from flexsearch.runs.experiment import Experiment
    from flexsearch.runs.redraw import pictures as drawn
    from flexsearch.runs.run_folder import RunFolder

    output.say("no pictures in the run's folder: sampling them again")
    quiet()
    opened, settings = RunFolder.open(folder)
    with opened.locked():
        experiment = Experiment(settings, opened.references)
        opened.keep_model(experiment.model.family, experiment.model.sha256)
        schedules = {item.name: item.schedule for item in found}
        for name, images in drawn(experiment, schedules, pictures.TEACHER).items():
            pictures.write(place / name, images)
