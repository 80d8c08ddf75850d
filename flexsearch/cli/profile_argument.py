"""A cost table of another device as a command gets it: a file of `flexsearch profile --out`."""

from __future__ import annotations

import json
from pathlib import Path

from flexiffusion.cost import CostTable
from flexiffusion.errors import ScheduleError
from flexsearch.errors import ConfigError


def read_profile(path: Path) -> CostTable:
    """The milliseconds in a file of `flexsearch profile --out`. Raises ConfigError."""
    place = f"--profile {path}"
    try:
        return CostTable.from_dict(json.loads(path.read_text(encoding="utf-8"))["ms"])
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(place, f"it cannot be read ({error})", "Give another file") from error
    except (ValueError, KeyError, TypeError, ScheduleError) as error:
        raise ConfigError(place, f"it is no profile ({error})", "Make one with `flexsearch profile --out`") from error
