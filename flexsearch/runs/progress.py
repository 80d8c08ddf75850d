"""How work tells of itself: stages with a total, and lines for a person."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol


class Stage(Protocol):
    """One stage of the work while it runs."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done; `note` is a few words on how it goes."""

    def say(self, message: str) -> None:
        """A line that stays."""


class Progress(Protocol):
    """What is told of the work."""

    def expect(self, work: Mapping[str, float]) -> None:
        """The stages to come, in their order: by label, about how much each takes, all in one unit."""

    def stage(self, label: str, total: int, unit: str = "steps", done: int = 0) -> AbstractContextManager[Stage]:
        """A stage of `total` units, `done` of which an earlier, interrupted call has done."""

    def say(self, message: str) -> None:
        """One line for the person."""


class Silent:
    """Progress that nobody looks at."""

    def expect(self, work: Mapping[str, float]) -> None:
        pass

    @contextlib.contextmanager
    def stage(self, label: str, total: int, unit: str = "steps", done: int = 0) -> Iterator[Stage]:
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        pass

    def say(self, message: str) -> None:
        pass
