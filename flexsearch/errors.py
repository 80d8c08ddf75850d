"""What the headless tool refuses, each with the place, the problem and the remedy."""

from __future__ import annotations

from flexiffusion.errors import Refusal


class FlexsearchError(Refusal):
    """A refusal of the tool."""


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
