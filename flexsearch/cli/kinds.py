"""The kinds of values that options and arguments take, beside click's own; the shell completes by them."""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import CompletionItem


class Place(click.Path):
    """A path that may not be there yet: ~ is the home folder, also where no shell has read it (TOML, environment).

    What is wrong with it is said by what opens it, with its own exit code.
    """

    def __init__(self, folder: bool = False, **more: Any) -> None:
        """`folder`: the shell offers folders only."""
        super().__init__(readable=False, **more)
        self.folder = folder

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="dir" if self.folder else "file")]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = os.fspath(value)
        if "\0" in text:
            return value  # the system refuses to look for it: so does what opens it
        return super().convert(os.path.expanduser(text), param, ctx)


class PictureSize(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """`512`, or width x height: `768x512`."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        sides = str(value).lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) <= 65536 for side in sides):
            self.fail(f"{value!r} is no picture size. Give pixels, 512 or 768x512", param, ctx)
        return int(sides[0]), int(sides[-1])
