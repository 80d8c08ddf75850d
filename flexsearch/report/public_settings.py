"""A run's settings for everybody: what of them leaves the machine that they were made on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given, a database's address, which may hold a password, and another device's whole table;
    of the model its file's name, of prompts how many there are."""
    public = {
        key: value
        for key, value in settings.items()
        if value not in (None, [], "") and key not in ("storage", "profile")
    }
    for key in ("prompts", "held_out_prompts"):
        if key in public:
            public[key] = len(public[key])
    return {**public, "model": Path(str(public.get("model", ""))).name}
