"""`Command`: a click command that takes its settings from a file, the environment and flags, in this order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flexsearch.cli import settings
from flexsearch.cli.kinds import Place

DEBUG_KEY = "flexsearch.debug"
_CONFIG_KEY = "flexsearch.config"


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[DEBUG_KEY] = value or ctx.meta.get(DEBUG_KEY, False)


def _remember_config(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    """Remembers the file; a command, the innermost context, also takes its defaults from it."""
    if value is not None:
        ctx.meta[_CONFIG_KEY] = Path(value)
    if not isinstance(ctx.command, click.Group):
        settings.require_known_variables(ctx)
        path = ctx.meta.get(_CONFIG_KEY) or settings.default_file()
        ctx.meta[_CONFIG_KEY] = path
        if path is not None:
            ctx.default_map = settings.read_defaults(path, ctx)


config_option = click.option(
    "--config",
    type=Place(),
    metavar="FILE",
    is_eager=True,  # before the options that it sets
    expose_value=False,
    callback=_remember_config,
    help=f"Read settings from this TOML file instead of ./{settings.DEFAULT_FILE}.",
)
debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)


class Command(click.Command):
    """Use as `@click.command(cls=Command)`: adds --config, --debug, and FLEXSEARCH_<COMMAND>_<OPTION> for each.

    group: the name of the group that the command is in, if not in `flexsearch` itself: FLEXSEARCH_<GROUP>_<COMMAND>_...
    """

    def __init__(self, *args: Any, group: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = [settings.ENVIRONMENT, *([group] if group else []), str(self.name)]
        for add in (config_option, debug_option):
            add(self)  # click's decorators extend `params` of a finished command
        for option in self.params:
            if isinstance(option, click.Option) and settings.key_of(option) not in settings.NOT_SETTINGS:
                # click would name it after the parameter; the flag is the only name that a user sees.
                option.envvar = "_".join([*names, settings.key_of(option)]).upper()
