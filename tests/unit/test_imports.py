"""The core is free to import: no torch, nothing third party, under 50 ms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MODULES = (
    "errors", "checks", "metadata", "steps", "schedule", "strip", "validation", "codec", "presets", "plan", "cost",
)  # fmt: skip


def python(code: str, **variables: str) -> str:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
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


def test_the_pure_modules_import_in_50_ms(tmp_path: Path) -> None:
    imports = ", ".join(f"flexiffusion.{module}" for module in MODULES)
    # processor time, the best of nine: a busy machine must not fail the build; bytecode is kept, as in an installation
    cache = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    code = f"import time; start = time.process_time(); import {imports}\nprint(time.process_time() - start)"
    assert min(float(python(code, **cache)) for _ in range(9)) < 0.050
