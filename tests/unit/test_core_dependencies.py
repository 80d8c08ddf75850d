"""What the core may import: it runs inside hosts, so nothing of ours above it, and nothing third-party but torch
and numpy, which every host has.

The arrows between modules are import-linter's (pyproject.toml); this finds packages that no list can name beforehand,
also where they are imported inside a function. What importing really loads: test_imports.py.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "flexiffusion").rglob("*.py"))
# of the modules outside of search/
WITH_TORCH = {"cache", "cut", "fit", "host", "layout", "predictor", "run", "solver"}


def absolute_imports(path: Path) -> set[str]:
    """Top-level names of every absolute import, wherever in the file it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return names


def allowed(path: Path) -> set[str]:
    if path.parent.name != "flexiffusion":
        return {"numpy", "torch"}
    return {"torch"} if path.stem in WITH_TORCH else {"numpy"} if path.stem == "noise" else set()


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(ROOT / "flexiffusion").as_posix())
def test_core_imports_relatively_or_the_standard_library_or_torch(path: Path) -> None:
    assert absolute_imports(path) - set(sys.stdlib_module_names) <= allowed(path)
