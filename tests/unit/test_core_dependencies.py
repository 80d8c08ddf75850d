"""The core runs inside hosts: nothing third-party but torch and numpy, which every host has, not even in a function.

A list of forbidden packages, as import-linter has it (pyproject.toml: which modules do without torch, and which arrows
there are), cannot name beforehand what somebody will import. What importing really loads: test_imports.py.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALLOWED = {*sys.stdlib_module_names, "torch", "numpy"}


def absolute_imports(path: Path) -> set[str]:
    """Top-level names of every absolute import, wherever in the file it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).partition(".")[0])
    return names


def test_the_core_imports_relatively_or_the_standard_library_torch_or_numpy() -> None:
    core = sorted((ROOT / "flexiffusion").rglob("*.py"))
    found = {path.relative_to(ROOT).as_posix(): sorted(absolute_imports(path) - ALLOWED) for path in core}
    assert {place: names for place, names in found.items() if names} == {}
    assert "torch" in set().union(*map(absolute_imports, core))  # imports are seen at all
