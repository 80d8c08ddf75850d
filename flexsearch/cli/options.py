"""Options that several commands share: which model, how it is sampled, on which images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from flexsearch.errors import ConfigError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

MODEL = (
    click.option("--model", default="tiny", show_default=True, metavar="MODEL",
                 help="A diffusers folder, or `tiny`: the bundled model."),
    click.option("--device", default="auto", show_default=True, help="A torch device; auto: the GPU if there is one."),
    click.option("--dtype", default="auto", show_default=True, help="float32, float16, bfloat16; auto: by device."),
    click.option("--guidance", type=float, help="Classifier-free guidance scale. [default: the model's]"),
    click.option("--batch", type=int, default=64, show_default=True, help="Images sampled together."),
)  # fmt: skip
IMAGES = (
    click.option("--features", default="bundled", show_default=True, metavar="MODULE",
                 help="Feature module: bundled, inception:FILE or package.module:Class."),
    click.option("--prompts", "prompts_file", metavar="FILE",
                 help="Prompts, one a line; the last third is held out. [default: the model's]"),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the noise and of the search."),
)  # fmt: skip


def with_options(*groups: tuple[Callable[[Any], Any], ...]) -> Callable[[Decorated], Decorated]:
    """Add groups of options to a command, in the order in which --help shows them."""

    def add(command: Decorated) -> Decorated:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add


def read_prompts(path: str | None) -> tuple[str, ...]:
    """The lines of a prompts file that are not empty; () without a file. Raises ConfigError."""
    if path is None:
        return ()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {path}", f"it cannot be read ({error})", "Give a UTF-8 text file") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ConfigError(f"--prompts {path}", "it has no prompts", "Write one a line")
    return prompts
