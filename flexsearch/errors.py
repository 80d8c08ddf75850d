"""What the headless tool refuses, each with the place, the problem and the remedy."""

from __future__ import annotations

from flexiffusion.errors import FlexiffusionError


class FlexsearchError(FlexiffusionError):
    """A refusal of the tool: "PLACE: PROBLEM. REMEDY".

    place:   where, as a file, an option or a setting
    problem: what is wrong, with the value
    remedy:  what to do about it
    """

    def __init__(self, place: str, problem: str, remedy: str) -> None:
        super().__init__(place, problem, remedy)  # all three in args, so that the error survives pickling
        self.place = place
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}. {self.remedy}"


class ConfigError(FlexsearchError):
    """A setting that cannot be used, from a flag, the environment or a configuration file."""


class ModelError(FlexsearchError):
    """A model that cannot be loaded, or does not fit the device."""


class RunFolderError(FlexsearchError):
    """A run folder or a trial store that is missing, damaged, in use, full, or belongs to other settings."""


class SourceError(FlexsearchError):
    """A place that presets come from or go to: it cannot be reached, or gives what is not taken."""


class ClusterError(FlexsearchError):
    """A cluster that cannot be reached, or whose workers cannot be started or were lost."""
