"""The repository as ComfyUI loads it: a package under the name of its folder, whatever that is."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def load_pack(name: str = "a pack under_x_any name") -> ModuleType:
    """The repository as the host loads it: a package under the name of its folder."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def part(name: str) -> Any:
    """A module of the pack, as `comfy_nodes.apply`. Its classes are not those of the `flexiffusion` on the path."""
    return importlib.import_module(f"{load_pack().__name__}.{name}")
