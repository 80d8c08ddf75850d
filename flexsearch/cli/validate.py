"""`flexsearch validate FILE...`: is each file a schedule that every host would take?"""

from __future__ import annotations

from typing import Any

import click

from flexiffusion.errors import ScheduleError
from flexsearch.cli import exit_codes, output
from flexsearch.cli.command import Command
from flexsearch.cli.kinds import Place
from flexsearch.cli.schedule_argument import read_schedule


@click.command(cls=Command)
@click.argument("files", type=Place(), metavar="FILE...", nargs=-1, required=True)
@output.json_option
@click.pass_context
def validate(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Check schedule files: ok, or what is wrong, where, and how to repair it.

    `-` as FILE reads standard input. Every file is checked, also after a bad one; exit code 3 if any is refused.
    """
    results = [_result(file) for file in files]
    refused = sum(not result["ok"] for result in results)
    if output.wants_json():
        output.emit({"files": results, "refused": refused})
    else:
        for result in results:
            if result["ok"]:
                click.echo(output.printable(f"ok     {result['file']}: {result['name']}"))
            else:
                click.echo(output.printable(f"error  {result['place']}: {result['problem']}. {result['remedy']}"))
    ctx.exit(exit_codes.SCHEDULE if refused else exit_codes.OK)


def _result(file: str) -> dict[str, Any]:
    try:
        schedule = read_schedule(file, pictures=False)
    except ScheduleError as error:
        return {"file": file, "ok": False, "place": error.place, "problem": error.problem, "remedy": error.remedy}
    return {"file": file, "ok": True, "name": schedule.name}
