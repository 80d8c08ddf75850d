"""The core is cheap to import: no torch, nothing third party, little of the standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MODULES = (
    "errors", "checks", "metadata", "steps", "schedule", "strip", "validation", "codec", "presets", "plan", "cost",
)  # fmt: skip


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_the_package_alone_imports_nothing() -> None:
    code = "import sys; a = set(sys.modules); import flexiffusion as f; print(set(sys.modules) - a, f.__version__)"
    assert python(code) == "{'flexiffusion'} 0.1.0\n"


def test_the_pure_modules_need_the_standard_library_only() -> None:
    imports = ", ".join(f"flexiffusion.{module}" for module in MODULES)
    code = (
        f"import sys; before = set(sys.modules); import {imports}\n"
        "tops = {name.split('.')[0] for name in set(sys.modules) - before} - {'flexiffusion'}\n"
        "print(sorted(tops - sys.stdlib_module_names))"
    )
    assert python(code) == "[]\n"


def test_the_pure_modules_import_few_of_the_standard_library() -> None:
    """What they import decides how long it takes; a clock would fail on a busy machine."""
    imports = ", ".join(f"flexiffusion.{module}" for module in MODULES)
    code = f"import sys; before = set(sys.modules); import {imports}\nprint(len(set(sys.modules) - before))"
    assert int(python(code)) < 120
