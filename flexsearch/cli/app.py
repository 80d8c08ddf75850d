"""`main`, the group: a table of commands that are imported when they are called, and one place for errors."""

from __future__ import annotations

import importlib
import traceback
from typing import Any, NamedTuple

import click

from flexiffusion import __version__
from flexsearch.cli import exit_codes, output, settings
from flexsearch.cli.command import DEBUG_KEY, config_option, debug_option


class Entry(NamedTuple):
    """Where a command lives (`module:attribute`) and its line in `flexsearch --help`."""

    target: str
    summary: str


# The order is the order of use. Add a command by adding its line.
COMMANDS: dict[str, Entry] = {
    "run": Entry("flexsearch.cli.run:run", "Search a model's schedules and export them."),
    "resume": Entry("flexsearch.cli.resume:resume", "Go on with an interrupted run."),
    "dashboard": Entry("flexsearch.cli.dashboard:dashboard", "Look at a run's trials in a browser."),
    "plan": Entry("flexsearch.cli.plan:plan", "Plan schedules in seconds, from tables of a model."),
    "evaluate": Entry("flexsearch.cli.evaluate:evaluate", "Measure one schedule against its teacher."),
    "compare": Entry("flexsearch.cli.compare:compare", "Measure schedules beside their rivals."),
    "profile": Entry("flexsearch.cli.profile:profile", "Cost of every kind of step on this device."),
    "report": Entry("flexsearch.cli.report:report", "Write a run as one page for the browser."),
    "verify": Entry("flexsearch.cli.verify:verify", "Measure a preset's claims on your checkpoint."),
    "show": Entry("flexsearch.cli.show:show", "Show what a schedule file does."),
    "validate": Entry("flexsearch.cli.validate:validate", "Check schedule files."),
    "presets": Entry("flexsearch.cli.presets:presets", "List, add, remove, share and update presets."),
    "doctor": Entry("flexsearch.cli.doctor:doctor", "Look at the installation, and say what to fix."),
    "completion": Entry("flexsearch.cli.completion:completion", "Print a shell's completion script."),
}


class LazyGroup(click.Group):
    """Imports a command only when it is called, and turns every error into a message and a documented exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name].target} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in exit_codes.MEANING.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, BrokenPipeError):  # click's own ways out
            raise
        except (Exception, KeyboardInterrupt) as error:
            _say_error(ctx, error)
            output.emit_error(ctx, error, exit_codes.exit_code_of(error))
            ctx.exit(exit_codes.exit_code_of(error))


def _say_error(ctx: click.Context, error: BaseException) -> None:
    if ctx.meta.get(DEBUG_KEY, False):
        traceback.print_exception(error)
    code = exit_codes.exit_code_of(error)
    if isinstance(error, click.ClickException):
        error.show()
    elif code == exit_codes.INTERRUPTED:
        output.say("interrupted")
    elif code == exit_codes.INTERNAL:
        output.say(f"internal error: {type(error).__name__}: {error}")
        output.say("This is a fault of flexsearch. Run again with --debug for the traceback.")
    else:
        output.say(f"Error: {error}")


@click.group(
    cls=LazyGroup,
    context_settings={"auto_envvar_prefix": settings.ENVIRONMENT, "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="flexsearch")
@config_option
@debug_option
def main() -> None:
    """Search faster sampling schedules for a diffusion model and export them as small files.

    Settings come from a TOML file (./flexsearch.toml or --config), then the environment
    (FLEXSEARCH_<COMMAND>_<OPTION>), then flags; the later one wins.
    """
