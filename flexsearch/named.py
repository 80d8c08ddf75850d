"""Objects that a setting names as `package.module:name`: an entry of one's own where the tool has a list of words."""

from __future__ import annotations

import importlib
from typing import Any

from flexsearch.errors import ConfigError


def is_named(value: str) -> bool:
    """Whether `value` has the form `package.module:name`; nothing is imported for it."""
    module, colon, name = value.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def imported(flag: str, value: str) -> Any:
    """What `package.module:name` names. Raises ConfigError, naming the flag, where it cannot be imported."""
    module, _, name = value.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(flag, f"{value!r} cannot be imported ({error})", "Check the path and PYTHONPATH") from error


def callable_of(flag: str, value: str) -> Any:
    """As `imported`. Raises ConfigError too where it cannot be called."""
    found = imported(flag, value)
    if not callable(found):
        raise ConfigError(flag, f"{value!r} cannot be called: it is {type(found).__name__}", "Name a function or class")
    return found
