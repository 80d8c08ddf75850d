"""The notebooks run from their first to their last cell, without any network."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run(notebook: Path) -> dict[str, Any]:
    """Runs the code cells as a kernel does, in one namespace; what each printed is in `__printed__`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {"__name__": "__main__", "__printed__": []}
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        code = ast.parse("".join(cell["source"]), f"{notebook.name}, cell {number}")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{notebook.name}, cell {number}", "exec"), names)
        names["__printed__"].append(printed.getvalue())
    return names


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["diffusers.ipynb"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_no_output_of_somebody_s_machine(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_the_diffusers_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(ROOT / "examples"))  # bundled presets only
    names = run(ROOT / "examples" / "diffusers.ipynb")
    printed = "".join(names["__printed__"])
    assert "full 14, partial 15, null 1, misses 0" in printed
    assert "rule-3x full 10, partial 20, null 0, misses 0" in printed and "Auto: the rule for 3x" in printed
    assert "made for sd15 with 12 branches" in printed
    assert names["plain"][0].tobytes() != names["fast"][0].tobytes()
