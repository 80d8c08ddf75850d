"""`main`, the group: a table of commands that are imported when they are called, and one place for errors."""

from __future__ import annotations

import contextlib
import importlib
import sys
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
    "resume": Entry("flexsearch.cli.resume:resume", "Continue an interrupted run."),
    "dashboard": Entry("flexsearch.cli.dashboard:dashboard", "Show a run's trials in a browser."),
    "plan": Entry("flexsearch.cli.plan:plan", "Plan schedules in seconds, without a search."),
    "evaluate": Entry("flexsearch.cli.evaluate:evaluate", "Measure one schedule against its teacher."),
    "compare": Entry("flexsearch.cli.compare:compare", "Measure schedules beside their rivals."),
    "quality": Entry("flexsearch.cli.quality:quality", "Compare many pictures with the teacher's."),
    "profile": Entry("flexsearch.cli.profile:profile", "Measure what every kind of step costs."),
    "report": Entry("flexsearch.cli.report:report", "Write a run's results as one HTML page."),
    "verify": Entry("flexsearch.cli.verify:verify", "Check a preset's claims on your checkpoint."),
    "show": Entry("flexsearch.cli.show:show", "Show what a schedule file does."),
    "validate": Entry("flexsearch.cli.validate:validate", "Check schedule files."),
    "presets": Entry("flexsearch.cli.presets:presets", "List, add, remove, share and update presets."),
    "doctor": Entry("flexsearch.cli.doctor:doctor", "Check the installation, and say what to fix."),
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

    def main(self, *args: Any, **extra: Any) -> Any:
        output.forgive_encodings()
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except OSError as error:  # --help and --version write already here
            raise click.exceptions.Exit(_end(None, error)) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a full disk still has its message
        except click.exceptions.Exit as end:
            _flush(ctx, end)
            raise
        except (Exception, KeyboardInterrupt) as error:
            ctx.exit(_end(ctx, error))
        except SystemExit as end:
            if not isinstance(end.__context__, BrokenPipeError):
                raise
            ctx.exit(_end(ctx, end.__context__))  # rich has caught it, and ends with 1
        return result


def _flush(ctx: click.Context, end: click.exceptions.Exit) -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        raise click.exceptions.Exit(_end(ctx, error)) from end


def _end(ctx: click.Context | None, error: BaseException) -> int:
    """Say what ended the command, wherever that can still be said; the exit code."""
    code = exit_codes.exit_code_of(error)
    output.abandon_broken_stdout()
    with contextlib.suppress(OSError):
        if code != exit_codes.CLOSED_PIPE:
            _say_error(ctx, error)
        if ctx is not None:
            output.emit_error(ctx, error, code)
    return code


def _say_error(ctx: click.Context | None, error: BaseException) -> None:
    if ctx is not None and ctx.meta.get(DEBUG_KEY, False):
        traceback.print_exception(error)
    code = exit_codes.exit_code_of(error)
    if isinstance(error, click.ClickException):
        error.show()
    elif code == exit_codes.INTERRUPTED:
        output.say("interrupted")
    elif exit_codes.disk_is_full(error):
        place = getattr(error, "filename", None) or "the output"
        output.say(f"Error: {place}: the disk is full ({getattr(error, 'strerror', error)}). Free some, then try again")
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
