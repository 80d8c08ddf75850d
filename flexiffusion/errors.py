"""What can go wrong, as exceptions whose message names the place, the problem with its value, and the remedy."""

from __future__ import annotations


class FlexiffusionError(Exception):
    """Root of everything that this package raises on purpose."""


class Refusal(FlexiffusionError):
    """What is refused, in three parts: "PLACE: PROBLEM. REMEDY".

    place:   where, as a file, an option, a setting or a JSON path
    problem: what is wrong, with the value
    remedy:  what to do about it
    """

    def __init__(self, place: str, problem: str, remedy: str) -> None:
        super().__init__(place, problem, remedy)  # all three in args: the exception survives pickling between processes
        self.place = place
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}. {self.remedy}"


class ScheduleError(Refusal):
    """A schedule, or a value that was to become part of one, is refused.

    Its place is a JSON path (`sd15.json: $.plan.segments[2].active`), or `Segment.active` for an object made in code.
    """

    def moved(self, old: str, new: str) -> ScheduleError:
        """The same error with `old` at the beginning of its place replaced: `Segment.` by `$.plan.segments[2].`."""
        if not self.place.startswith(old):
            return self
        return type(self)(new + self.place[len(old) :], self.problem, self.remedy)


class VersionError(ScheduleError):
    """A schedule file of a format version that this release does not know."""


class ModelMismatch(FlexiffusionError):
    """A network is not one that a schedule can run on; the message names its class and what was looked for."""
