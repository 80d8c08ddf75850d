"""Packs what the hosts need, and nothing of the headless search, tests and history: half a megabyte.

    python -m tools.host_archive [FILE]      # flexiffusion-hosts-VERSION.zip

Unpacked into ComfyUI's `custom_nodes/` or the WebUI's `extensions/` it is the whole pack, in a folder of its own.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from flexiffusion import __version__

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "flexiffusion-hosts"
# What a host loads, shows or needs to know its rights.
FOLDERS = (
    "comfy_nodes", "example_workflows", "flexiffusion", "locales", "schedules", "scripts", "web", "webui_extension",
)  # fmt: skip
FILES = ("LICENSE", "README.md", "__init__.py", "install.py", "metadata.ini", "pyproject.toml")


def members(root: Path = ROOT) -> list[str]:
    """The files of the archive, from the root, in order: those that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, text=True).stdout
    names = [name for name in listed.split("\0") if name]
    return sorted(name for name in names if name in FILES or PurePosixPath(name).parts[0] in FOLDERS)


def write(target: Path, root: Path = ROOT) -> None:
    """Writes the archive. The same files give the same bytes: times and rights are always the same."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in members(root):
            entry = zipfile.ZipInfo(f"{FOLDER}/{name}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (root / name).read_bytes())


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else f"flexiffusion-hosts-{__version__}.zip")
    write(target)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {len(members())} files")


if __name__ == "__main__":
    main()
