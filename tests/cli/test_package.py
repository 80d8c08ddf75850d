"""The sdist makes a wheel, the wheel holds what an installed copy needs and nothing else, and runs where it is put."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m build` makes: the sdist, and the wheel from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(dist.glob("*.whl")))


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel alone, as pip lays it down."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, str(next(dist.glob("*.whl")))], check=True, capture_output=True)
    return folder


def test_the_package_index_takes_both_archives(dist: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, sorted(dist.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_the_long_description_needs_no_other_file(wheel: zipfile.ZipFile) -> None:
    """A package index has no files beside it: a relative link or picture would be broken there."""
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    text = wheel.read(metadata).decode().partition("\n\n")[2]
    assert text.startswith("# Flexiffusion")
    assert not re.findall(r"\]\((?!https:)|<img", text)


def test_the_wheel_holds_code_assets_and_schedules(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"flexiffusion", "flexsearch"}
    data = {"flexiffusion/py.typed", "flexsearch/py.typed", "flexiffusion/schedules/schema/schedule-1.schema.json"}
    data |= {"flexiffusion/schedules/schema/schedule-2.schema.json"}
    data |= {f"flexiffusion/schedules/{path.name}" for path in (ROOT / "schedules").glob("*.json")}
    assets = [path for path in (ROOT / "flexsearch" / "assets").rglob("*") if path.is_file()]
    data |= {path.relative_to(ROOT).as_posix() for path in assets}
    data |= {f"flexsearch/report/templates/report.{ending}" for ending in ("html.jinja", "css", "js")}
    assert data <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_base_install_has_no_dependencies(wheel: zipfile.ZipFile) -> None:
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = wheel.read(metadata).decode().split("\n\n")[0].splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:")]
    assert required
    assert all("extra ==" in line for line in required)
    assert "License-Expression: Apache-2.0" in lines


def test_the_sdist_holds_tests_and_documentation(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "docs/file-format.md", "tests/attacks/depth-9.json"} <= names
    assert not [name for name in names if name.startswith((".ci", "runs", "dist"))]


def test_the_core_runs_from_the_wheel_without_any_other_package(installed: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from flexiffusion import codec, presets\n"
        "found, errors = presets.find([presets.bundled_folder()])\n"
        "print(len(found), len(errors), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(list((ROOT / 'schedules').glob('*.json')))} 0 False\n"


def test_the_tool_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "FLEXIFFUSION_PRESETS": str(tmp_path)}
    command = [sys.executable, "-m", "flexsearch", "presets", "list", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    files = [Path(preset["file"]) for preset in json.loads(done.stdout)["presets"]]
    assert files and all(file.is_relative_to(installed) for file in files)
    assert (installed / "bin" / "flexsearch").exists() or (installed / "Scripts").exists()
