"""How long work of several stages still takes: one number for all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

KNOWN_S = 1.0  # a stage that ends faster had its results already: it tells nothing of the speed


class TimeLeft:
    """Seconds until the present stage and all that were expected after it are done.

    The present stage goes on at its own speed; those to come, at the speed that all the work so far had, by how much
    each was expected to take. Without expectations it is the time left of the present stage.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._to_come: dict[str, float] = {}
        self._work = self._spent = self._worked = 0.0

    def expect(self, work: Mapping[str, float]) -> None:
        """The stages to come, by label, and how much each takes, in any unit."""
        self._to_come = dict(work)

    def begin(self, label: str, total: int, done: int) -> None:
        """A stage of `total` units begins, `done` of which were done before."""
        self._total, self._before, self._began = total, done, self.clock()
        self._work = self._to_come.pop(label, 0.0)

    def end(self) -> None:
        """The stage is done."""
        taken = self.elapsed
        if taken >= KNOWN_S:
            self._spent += taken
            self._worked += self._work

    @property
    def elapsed(self) -> float:
        """Seconds since the present stage began."""
        return self.clock() - self._began

    def seconds(self, done: int) -> float | None:
        """The time left after `done` units of the present stage; None where nothing is done that tells of it."""
        made, elapsed = done - self._before, self.elapsed
        if made <= 0:
            return None
        own = elapsed / made * (self._total - done)
        worked = self._worked + self._work * made / (self._total - self._before)
        speed = (self._spent + elapsed) / worked if worked else 0.0
        return own + speed * sum(self._to_come.values())
