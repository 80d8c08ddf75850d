"""`flexsearch completion SHELL`: the script that makes the shell complete commands, flags and preset names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from flexsearch.cli.command import Command

_SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL: bash, zsh or fish.

    bash: add `eval "$(flexsearch completion bash)"` to ~/.bashrc; zsh: the same with zsh to ~/.zshrc; fish: write it to
    ~/.config/fish/completions/flexsearch.fish.
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "flexsearch", "_FLEXSEARCH_COMPLETE").source())
