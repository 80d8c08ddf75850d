"""Checkpoints that are distilled to a few steps, by what they are called: their samplers leave no step to save."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Methods of distillation, as people write them into the names of files: anywhere in a name, or as a word of its own
# (`hyperrealism` is a style, `lcm` three letters).
ANYWHERE = ("turbo", "lightning", "schnell", "lightx2v", "causvid")
WORDS = ("hyper", "hypersd", "hypersdxl", "lcm", "dmd", "dmd2", "sprint", "distilled")
UNDONE = re.compile(r"(de|un|non|not)[-_ .]?distilled")  # back to many steps
BASE = "base"  # of FLUX.2 Klein, what is not distilled
SCHEDULERS = ("LCMScheduler", "TCDScheduler")
_WORD = re.compile(r"[A-Z]?[a-z]+\d?|[A-Z]+(?![a-z])\d?")


def few_step_notes(names: Iterable[str], scheduler: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """One note where a file's or folder's names, or its scheduler's configuration, say that it is such a checkpoint."""
    for name in names:
        if method := _method(name):
            return (_note(f"{name!r} says {method}"),)
    config = scheduler or {}
    maker = config.get("_class_name")
    if maker in SCHEDULERS:
        return (_note(f"its scheduler is {maker}"),)
    if maker == "EulerAncestralDiscreteScheduler" and config.get("timestep_spacing") == "trailing":
        return (_note("its scheduler is EulerAncestralDiscreteScheduler with trailing timesteps, as SDXL-Turbo's"),)
    return ()


def few_step_facts(family: str, network: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, ...]:
    """One note where a pipeline's own facts say so: the configurations of its network and of itself."""
    if options.get("is_distilled"):  # FLUX.2 Klein
        return (_note("its model_index.json says is_distilled"),)
    if family == "flux" and network.get("guidance_embeds") is False:
        return (_note("its network takes no guidance scale, like FLUX.1 schnell and unlike FLUX.1 dev"),)
    return ()


def names_of(path: Path) -> tuple[str, ...]:
    """What a file or folder is called; of a snapshot in the Hugging Face cache, what its repository is."""
    path = path.absolute()
    if path.parent.name == "snapshots":
        return (path.parent.parent.name.removeprefix("models--").replace("--", "/"),)
    return (path.name if path.is_dir() else path.stem,)


def _method(name: str) -> str | None:
    lower = UNDONE.sub("", name.lower())
    words = {word.lower() for word in _WORD.findall(UNDONE.sub("", name))}
    if "klein" in words and BASE not in words:
        return "Klein without base"
    found = [method for method in ANYWHERE if method in lower] + [word for word in WORDS if word in words]
    return found[0] if found else None


def _note(reason: str) -> str:
    return (
        f"{reason}: it looks distilled to a few steps. Sampled with 8 steps or fewer, as such models are, nothing is "
        "to be gained here: there are hardly any steps to save"
    )
