"""install.py: the links that it makes in a host, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def install(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # -I: neither the environment nor the user's packages; -S: not even site-packages
    command = [sys.executable, "-I", "-S", str(ROOT / "install.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(params=["comfyui", "webui"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """The host's flag, a folder that looks like it, and where the link belongs."""
    for name in ("main.py", "folder_paths.py") if request.param == "comfyui" else ("launch.py", "modules"):
        (tmp_path / name).touch()
    inside = "custom_nodes" if request.param == "comfyui" else "extensions"
    return f"--{request.param}", tmp_path, tmp_path / inside / "flexiffusion"


def test_without_arguments_it_does_nothing_as_hosts_call_it_at_every_launch() -> None:
    done = install()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_links_once_and_removes(host: tuple[str, Path, Path]) -> None:
    flag, folder, link = host
    for text in ("linked ", f"{link} is linked already"):
        done = install(flag, folder)
        assert done.returncode == 0 and done.stdout.startswith(text), done.stderr
        assert link.resolve() == ROOT
    for text in (f"removed {link}", f"{link} is not there"):
        done = install(flag, folder, "--remove")
        assert done.returncode == 0 and done.stdout.startswith(text), done.stderr
        assert not link.is_symlink()
    assert (ROOT / "install.py").exists()


def test_what_is_not_ours_stays(host: tuple[str, Path, Path]) -> None:
    flag, folder, link = host
    link.mkdir(parents=True)
    (link / "precious").touch()
    for more in ((), ("--remove",)):
        done = install(flag, folder, *more)
        assert done.returncode == 1 and str(link) in done.stderr
        assert (link / "precious").exists()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    for flag, mark in (("--comfyui", "main.py"), ("--webui", "launch.py")):
        done = install(flag, tmp_path)
        assert done.returncode == 1 and mark in done.stderr and str(tmp_path) in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--remove",), ("--comfyui", "a", "--webui", "b"), ("more",)])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    assert install(*arguments).returncode == 2
