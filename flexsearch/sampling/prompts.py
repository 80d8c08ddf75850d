"""Prompts: a file of them, the bundled list, and their split into those searched on and those held out.

A prompts file is UTF-8 text, one prompt a line; empty lines are skipped. A line of three dashes parts the search
prompts above it from the held-out ones below. Without such a line the last third is held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flexsearch.errors import ConfigError
from flexsearch.models.assets import ASSETS

PART = "---"
BUNDLED = ASSETS / "prompts.txt"  # 96 search prompts and 32 held-out ones, written for this project

Split = tuple[tuple[str, ...], tuple[str, ...]]


def read_prompts(path: Path, place: str) -> Split:
    """Search prompts and held-out prompts of a file. Raises ConfigError that begins with `place`."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(place, f"it cannot be read ({error})", "Give a UTF-8 text file") from error
    cuts = [number for number, line in enumerate(lines) if line == PART]
    if len(cuts) > 1:
        raise ConfigError(place, f"it has {len(cuts)} lines {PART}", "Write one, between search and held-out prompts")
    prompts = tuple(line for line in lines if line and line != PART)
    if not prompts:
        raise ConfigError(place, "it has no prompts", "Write one a line")
    if not cuts:
        return split_prompts(prompts)
    first = sum(bool(line) for line in lines[: cuts[0]])
    search, held_out = prompts[:first], prompts[first:]
    if not search or not held_out:
        raise ConfigError(place, f"there is no prompt on one side of {PART}", "Write some, or leave the line out")
    if both := set(search) & set(held_out):
        raise ConfigError(place, f"{min(both)!r} is searched on and held out", "Keep one of the two")
    return search, held_out


def split_prompts(prompts: Sequence[str]) -> Split:
    """Search and held-out prompts: the last third of the list is held out. A single prompt serves for both."""
    if len(prompts) < 2:
        return tuple(prompts), tuple(prompts)
    cut = len(prompts) - max(1, len(prompts) // 3)
    return tuple(prompts[:cut]), tuple(prompts[cut:])


def given_prompts(path: str | None) -> Split:
    """Search and held-out prompts of `--prompts FILE`; none without a file. Raises ConfigError."""
    return ((), ()) if path is None else read_prompts(Path(path), f"--prompts {path}")
