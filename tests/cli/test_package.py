"""The wheel holds what an installed copy needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_holds_code_assets_and_schedules(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"flexiffusion", "flexsearch"}
    data = {"flexiffusion/py.typed", "flexsearch/py.typed", "flexiffusion/schedules/schema/schedule-1.schema.json"}
    data |= {f"flexiffusion/schedules/{path.name}" for path in (ROOT / "schedules").glob("*.json")}
    assets = [path for path in (ROOT / "flexsearch" / "assets").rglob("*") if path.is_file()]
    data |= {path.relative_to(ROOT).as_posix() for path in assets}
    assert data <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_base_install_has_no_dependencies(wheel: zipfile.ZipFile) -> None:
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = wheel.read(metadata).decode().split("\n\n")[0].splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:")]
    assert required
    assert all("extra ==" in line for line in required)
    assert "License-Expression: Apache-2.0" in lines
