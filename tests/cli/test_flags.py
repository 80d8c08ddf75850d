"""Flags are a promise to scripts: they do not change unnoticed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from flexsearch.cli.app import main

GOLDEN = Path(__file__).parents[1] / "golden" / "cli_flags.json"


def described(command: click.Command) -> dict[str, Any]:
    """What a script can depend on: names, value types, defaults and choices of every parameter."""
    parameters: dict[str, Any] = {}
    for parameter in command.params:
        facts: dict[str, Any] = {
            "type": parameter.type.name,
            "many": parameter.multiple or parameter.nargs == -1,
            "required": parameter.required,
        }
        if isinstance(parameter, click.Option):
            facts["flag"] = parameter.is_flag
            # Any other default is a function, or click's own mark for "none".
            default = parameter.default
            facts["default"] = default if isinstance(default, (str, int, float, list, tuple)) else None
        if isinstance(parameter.type, click.Choice):
            facts["choices"] = list(parameter.type.choices)
        parameters[" ".join([*parameter.opts, *parameter.secondary_opts])] = facts
    return parameters


def below(group: click.Group) -> dict[str, click.Command]:
    """Every command by what is typed, those of groups too."""
    context, found = click.Context(group), {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": entry for inner, entry in below(command).items()}
    return found


def test_flags_are_those_of_the_golden_file() -> None:
    """After a wanted change: `UPDATE_GOLDEN=1 pytest tests/cli/test_flags.py`, then read the diff as a flag's user."""
    flags = {name: described(command) for name, command in {"": main, **below(main)}.items()}
    text = json.dumps(flags, indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert json.loads(text) == json.loads(GOLDEN.read_text(encoding="utf-8")), "see the docstring of this test"
