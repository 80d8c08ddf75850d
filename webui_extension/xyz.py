"""Axes of the host's X/Y/Z plot."""

from __future__ import annotations

from typing import Any

from modules import scripts

from . import host
from .generation import ATTRIBUTE
from .library import NONE
from .settings import AUTO, OFF, SAME


def add_axes() -> None:
    """Adds the axes to the plot's list, once. The plot is a script of the host; without it there is nothing to add."""
    module = next((data.module for data in scripts.scripts_data if data.script_class.__module__ == "xyz_grid.py"), None)
    if module is None or any(option.label.startswith("[Flexiffusion]") for option in module.axis_options):
        return
    module.axis_options.extend(
        [
            module.AxisOption("[Flexiffusion] Speed-up (auto)", float, _speedup),
            module.AxisOption(
                "[Flexiffusion] Schedule",
                str,
                _schedule,
                choices=lambda: [NONE, AUTO, *host.library.choices(host.checkpoint_family())],
            ),
            module.AxisOption(
                "[Flexiffusion] Hires schedule",
                str,
                _hires,
                choices=lambda: [SAME, OFF, AUTO, *host.library.choices(host.checkpoint_family())],
            ),
        ]
    )


def _speedup(p: Any, value: float, values: Any) -> None:
    _put(p, {"enabled": True, "schedule": AUTO, "speedup": value})


def _schedule(p: Any, value: str, values: Any) -> None:
    _put(p, {"enabled": False} if value.lower() == NONE else {"enabled": True, "schedule": value})


def _hires(p: Any, value: str, values: Any) -> None:
    _put(p, {"hires": value})


def _put(p: Any, changes: dict[str, Any]) -> None:
    # a new dictionary: the plot's cells are shallow copies of one `p`
    name = f"{ATTRIBUTE}_axis"
    setattr(p, name, {**getattr(p, name, {}), **changes})
