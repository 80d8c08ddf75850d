"""Writes docs/cli/: a page for every command, from the commands themselves; tests/docs keeps them current.

python -m tools.make_cli_docs
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from flexsearch.cli import exit_codes, settings
from flexsearch.cli.app import COMMANDS, main

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "cli"
_MADE = "<!-- Made by `python -m tools.make_cli_docs` from the command itself: do not edit. -->"


def pages() -> dict[str, str]:
    """File name -> Markdown."""
    context = click.Context(main, info_name="flexsearch")
    index = [_MADE, "", "# Commands", "", _prose(main.help or ""), "", "| command | what it does |", "|---|---|"]
    made = {}
    for name, entry in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        index.append(f"| [`flexsearch {name}`]({name}.md) | {entry.summary} |")
        made[f"{name}.md"] = "\n".join([_MADE, "", *_page(f"flexsearch {name}", command, "#")])
    index += ["", "## Exit codes", "", "| code | meaning |", "|---|---|"]
    index += [f"| {code} | {meaning} |" for code, meaning in exit_codes.MEANING.items()]
    made["README.md"] = "\n".join([*index, ""])
    return made


def _page(called: str, command: click.Command, heading: str) -> Iterator[str]:
    arguments = [_metavar(p) for p in command.params if isinstance(p, click.Argument)]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    group = isinstance(command, click.Group)
    usage = " ".join([called, *(["COMMAND"] if group else []), *(["[OPTIONS]"] if options else []), *arguments])
    yield from (f"{heading} {called}", "", "```text", usage, "```", "", _prose(command.help or ""), "")
    if options:
        yield from ("| option | what it does | default | environment |", "|---|---|---|---|")
        for option in options:
            yield f"| {_flags(option)} | {_cell(option.help or '')} | {_default(option)} | {_variable(option)} |"
        yield ""
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=command.name)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _page(f"{called} {name}", inner, heading + "#")


def _metavar(argument: click.Argument) -> str:
    name = argument.metavar or str(argument.name).upper()
    if isinstance(argument.type, click.Choice):
        return "|".join(str(choice) for choice in argument.type.choices)
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _flags(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return names if option.is_flag else f"{names} {_cell(_value(option))}"


def _value(option: click.Option) -> str:
    return option.metavar or option.type.name.upper()


def _default(option: click.Option) -> str:
    default = option.default
    if isinstance(default, bool):
        return f"`{option.opts[0] if default else (option.secondary_opts or ['off'])[0]}`"
    if isinstance(default, (tuple, list)):
        return ", ".join(f"`{entry}`" for entry in default)
    return f"`{default}`" if isinstance(default, (str, int, float)) else ""


def _variable(option: click.Option) -> str:
    return f"`{option.envvar}`" if settings.key_of(option) not in settings.NOT_SETTINGS else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """A docstring's paragraphs, each on its line."""
    return "\n\n".join(" ".join(part.split()) for part in text.replace("\b", "").split("\n\n") if part.strip())


def write() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for stale in FOLDER.glob("*.md"):
        stale.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
