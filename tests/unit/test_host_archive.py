"""The archive for hosts: everything that they load, nothing else, and the same bytes every time."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tools.host_archive import FOLDER, ROOT, members, write


def test_it_holds_what_hosts_load_and_is_small(tmp_path: Path) -> None:
    names = set(members())
    for needed in (
        "__init__.py",
        "comfy_nodes/extension.py",
        "flexiffusion/plan.py",
        "flexiffusion/layouts/ldm.py",
        "locales/zh/nodeDefs.json",
        "metadata.ini",
        "schedules/sd15-turns-10.json",
        "scripts/flexiffusion_webui.py",
        "web/flexiffusion.js",
        "webui_extension/script.py",
    ):
        assert needed in names
    assert not any(name.startswith(("flexsearch/", "tests/", "benchmarks/", "docs/", "tools/")) for name in names)
    write(tmp_path / "a.zip")
    assert (tmp_path / "a.zip").stat().st_size < 2_000_000
    write(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_what_is_unpacked_is_the_pack(tmp_path: Path) -> None:
    """The door of ComfyUI imports from it alone, and its schedules are found and read."""
    write(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path)
    script = f"""
import importlib.util, sys
sys.path = [p for p in sys.path if p not in ("", {str(ROOT)!r})]
spec = importlib.util.spec_from_file_location("pack", {str(tmp_path / FOLDER / "__init__.py")!r},
    submodule_search_locations=[{str(tmp_path / FOLDER)!r}])
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import pack.comfy_nodes.apply, pack.flexiffusion.presets as presets
print(len(list(presets.bundled_folder().glob("*.json"))), presets.bundled_folder())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    count, folder = done.stdout.split(maxsplit=1)
    assert int(count) == len(list((ROOT / "schedules").glob("*.json")))
    assert Path(folder.strip()).is_relative_to(tmp_path)


def test_an_export_of_the_repository_leaves_tests_and_benchmarks_out() -> None:
    said = subprocess.run(
        ["git", "check-attr", "export-ignore", "tests", "benchmarks", ".ci", "flexiffusion", "comfy_nodes", "web"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [line.rsplit(" ", 1)[1] for line in said] == ["set", "set", "set", *["unspecified"] * 3]
