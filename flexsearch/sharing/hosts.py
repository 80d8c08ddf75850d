"""Which hosts are on this machine, and whether this pack is in them: for `flexsearch doctor`. Nothing is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# host -> (folder for extensions, files that only this host has in its root): as in install.py
HOSTS = {
    "comfyui": ("custom_nodes", ("main.py", "folder_paths.py")),
    "webui": ("extensions", ("launch.py", "modules")),
}
ENVIRONMENT = ("COMFYUI_PATH", "WEBUI_PATH", "FORGE_PATH")
_USUAL = ("ComfyUI", "comfyui", "stable-diffusion-webui", "stable-diffusion-webui-forge", "forge", "Documents/ComfyUI")
_VERSION = re.compile(r'^__version__ = "([^"]{1,40})"', re.MULTILINE)


@dataclass(frozen=True)
class Copy:
    """The pack in a host: its place, what that is a link to (None: no link), its version (None: it cannot be read)."""

    place: Path
    target: Path | None
    version: str | None


@dataclass(frozen=True)
class Host:
    """A host's folder. `copies` is empty where the pack is not installed; two are one too many.

    named: by the user, not only found in a usual place
    """

    kind: str
    folder: Path
    copies: tuple[Copy, ...]
    named: bool

    @property
    def presets(self) -> Path:
        """Where this host's own users keep schedules."""
        return self.folder / "models" / "flexiffusion"


def kind_of(folder: Path) -> str | None:
    """`comfyui`, `webui`, or None for a folder that is no host's."""
    for kind, (_, marks) in HOSTS.items():
        if all((folder / mark).exists() for mark in marks):
            return kind
    return None


def find(given: Iterable[Path] = (), environment: Mapping[str, str] | None = None) -> tuple[Host, ...]:
    """The hosts in the folders given, those that the environment names, around this checkout, in the usual places."""
    variables = os.environ if environment is None else environment
    checkout = Path(__file__).resolve().parents[2]
    named = [*given, *(Path(variables[name]) for name in ENVIRONMENT if variables.get(name))]
    usual = [*checkout.parents[1:2], *(Path.home() / name for name in _USUAL)]  # parents[1:2]: of custom_nodes/pack
    hosts: dict[Path, Host] = {}
    for place in (*named, *usual):
        kind, real = kind_of(place), place.resolve()
        if kind is not None and real not in hosts:
            hosts[real] = Host(kind, real, tuple(_copies(real / HOSTS[kind][0])), place in named)
    return tuple(hosts.values())


def _copies(folder: Path) -> Iterable[Copy]:
    """Everything in a host's folder for extensions that is this pack, or was a link to it."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        core = entry / "flexiffusion" / "__init__.py"
        dangling = entry.name == "flexiffusion" and not entry.exists()
        if dangling or (core.is_file() and (entry / "comfy_nodes").is_dir()):
            yield Copy(entry, entry.resolve() if entry.is_symlink() else None, _version(core))


def _version(core: Path) -> str | None:
    try:
        found = _VERSION.search(core.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return found.group(1) if found else None
