"""Settings: a TOML file below the environment below flags. One table per command, keys named as its flags.

[run]
images = 64
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from flexsearch.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_FILE = "flexsearch.toml"
ENVIRONMENT = "FLEXSEARCH"  # what the names of environment variables begin with

# These say how one call reports, not what it does; a file that sets them would surprise every script.
NOT_SETTINGS = frozenset({"config", "debug", "help", "json"})


def default_file() -> Path | None:
    """`flexsearch.toml` of the working directory, if there is one."""
    path = Path(DEFAULT_FILE)
    return path if path.is_file() else None


def key_of(option: click.Option) -> str:
    """What a file and the environment call an option: its long flag with underscores."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def options_by_key(command: click.Command) -> dict[str, click.Option]:
    """The options of `command` that a file may set, by key."""
    options = {key_of(option): option for option in command.params if isinstance(option, click.Option)}
    return {key: option for key, option in options.items() if key not in NOT_SETTINGS}


def read_defaults(path: Path, ctx: click.Context) -> dict[str, Any]:
    """The settings of `path` for the command of `ctx`, by parameter name, checked.

    The whole file is checked for unknown names, so that a misspelt table is not a table without effect.
    Raises ConfigError for a file that cannot be read, an unknown table or key, and a value of a wrong type.
    """
    commands = _commands(ctx)
    tables = _tables(_read(path), {name.rpartition(".")[0] for name in commands})
    for name, table in tables.items():
        if name not in commands:
            raise ConfigError(f"{path}: {name}", "not a command", _remedy("table", name, commands))
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name}", f"{table!r} is not a table", f"Write [{name}] and its keys below it")
        allowed = options_by_key(commands[name])
        for key in table:
            if key.replace("-", "_") not in allowed:
                raise ConfigError(f"{path}: [{name}] {key}", "unknown key", _remedy("key", key, allowed))
    own = options_by_key(ctx.command)
    defaults: dict[str, Any] = {}
    called = _called(ctx)
    for key, value in tables.get(called, {}).items():
        option = own[key.replace("-", "_")]
        if option.name in defaults:
            raise ConfigError(f"{path}: [{called}] {key}", "given twice, with - and with _", "Keep one")
        defaults[str(option.name)] = _checked(f"{path}: [{called}] {key}", option, value, ctx)
    return defaults


def require_known_variables(ctx: click.Context) -> None:
    """Raises ConfigError for a variable FLEXSEARCH_... that is not a setting of any command: it has no effect.

    FLEXSEARCH_CONFIG and FLEXSEARCH_DEBUG, of all commands, are taken too.
    """
    given = [name for name in os.environ if name.startswith(f"{ENVIRONMENT}_")]
    if not given:
        return
    known = {f"{ENVIRONMENT}_CONFIG", f"{ENVIRONMENT}_DEBUG"}
    for command in _commands(ctx).values():
        known |= {str(option.envvar) for option in options_by_key(command).values()}
    for name in sorted(set(given) - known):
        close = difflib.get_close_matches(name, sorted(known), n=1)
        remedy = f"Did you mean {close[0]}?" if close else "Unset it; the settings are in docs/cli/"
        if name.endswith(tuple(f"_{key.upper()}" for key in NOT_SETTINGS)):
            remedy = f"Give --{name.rpartition('_')[2].lower()} on the command line"
        raise ConfigError(name, "no setting has this name", remedy)


def _commands(ctx: click.Context) -> Mapping[str, click.Command]:
    """Every command by the name of its table: `run`; `presets.add` for one of a group."""
    group = ctx.find_root().command
    return _below(group, ctx) if isinstance(group, click.Group) else {str(ctx.info_name): ctx.command}


def _below(group: click.Group, ctx: click.Context) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            found |= {f"{name}.{inner}": entry for inner, entry in _below(command, ctx).items()}
        elif command is not None:
            found[name] = command
    return found


def _called(ctx: click.Context) -> str:
    """The table of the command that `ctx` runs."""
    parent = ctx.parent
    outer = _called(parent) if parent is not None and parent.parent is not None else ""
    return f"{outer}.{ctx.info_name}" if outer else str(ctx.info_name)


def _tables(document: Mapping[str, Any], groups: set[str]) -> dict[str, Any]:
    """The document's tables by their command's name; those of a group's commands lie inside the group's."""
    tables: dict[str, Any] = {}
    for name, table in document.items():
        if name in groups and isinstance(table, dict):
            tables |= {f"{name}.{inner}": entry for inner, entry in table.items()}
        else:
            tables[name] = table
    return tables


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", "Give a TOML file that exists") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "not UTF-8 text", "Save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), f"not valid TOML: {error}", "Correct the file at that place") from error


def _remedy(what: str, given: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(given.replace("-", "_"), names, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Remove it, or use a {what} of: {', '.join(names)}" if names else "Remove it: there is nothing to set here"


def _checked(place: str, option: click.Option, value: Any, ctx: click.Context) -> Any:
    """`value` as click would get it from a command line, after a trial conversion by the option's own type."""
    takes_list = option.multiple or option.nargs != 1
    if option.is_flag:
        if not isinstance(value, bool):
            raise ConfigError(place, f"{value!r} is not true or false", "Write true or false, without quotes")
        return value
    if isinstance(value, list) != takes_list:
        remedy = "Write a list in [ ]" if takes_list else "Write one value, without [ ]"
        raise ConfigError(place, f"{value!r} is {'not ' if takes_list else ''}a list", remedy)
    # As text, so that the option's type reads 64.5 as it would on a command line: no integer, instead of 64.
    raw = [_text(place, item) for item in value] if takes_list else _text(place, value)
    try:
        option.type_cast_value(ctx, raw)
    except click.BadParameter as error:
        raise ConfigError(place, error.message.rstrip("."), "Correct the value in the file") from error
    return raw


def _text(place: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ConfigError(place, f"{value!r} is not a number or text", "Write a number or a quoted text")
    return str(value)
