"""The kinds of values that options and arguments take, beside click's own; the shell completes by them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from flexsearch.named import is_named


class Place(click.Path):
    """A path that may not be there yet: ~ is the home folder, also where no shell has read it (TOML, environment).

    What is wrong with it is said by what opens it, with its own exit code.
    """

    def __init__(self, folder: bool = False, words: Sequence[str] = (), **more: Any) -> None:
        """`folder`: the shell offers folders only. `words`: what may stand in place of a path."""
        super().__init__(readable=False, **more)
        self.folder, self.words = folder, words

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        # The words last: at a file bash forgets what came before it.
        return [CompletionItem(incomplete, type="dir" if self.folder else "file"), *_beginning(self.words, incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = os.fspath(value)
        if "\0" in text:
            return value  # the system refuses to look for it: so does what opens it
        return super().convert(os.path.expanduser(text), param, ctx)


class Word(click.ParamType):  # type: ignore[type-arg]  # as below
    """Any text; the shell offers the usual words. What is wrong with it is said by what uses it."""

    name = "text"

    def __init__(self, *words: str) -> None:
        self.words = words

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _beginning(self.words, incomplete)


class OpenChoice(click.Choice):  # type: ignore[type-arg]
    """One of some words, or an entry of one's own: `package.module:name`, which is imported when it is used."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, str) and is_named(value) else super().convert(value, param, ctx)


def _beginning(words: Sequence[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


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
