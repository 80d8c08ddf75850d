"""Output streams that cannot take everything: another encoding, a full disk, a reader that has gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexsearch.cli import exit_codes

SCHEDULE = str(Path(__file__).parents[2] / "schedules" / "sd15-deepcache-3.json")
COMMANDS = (["presets", "list"], ["show", SCHEDULE], ["presets", "list", "--json"], ["--help"])
ASCII = ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flexsearch", *arguments]


@pytest.mark.parametrize("environment", ASCII, ids=["PYTHONIOENCODING", "LC_ALL"])
@pytest.mark.parametrize("arguments", COMMANDS[:2], ids=" ".join)
def test_characters_that_the_output_lacks_are_replaced(arguments: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command(*arguments), capture_output=True, env=os.environ | environment, check=False)
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout.isascii() and b"sd15-deepcache-3" in done.stdout


def test_json_is_escaped_where_the_output_lacks_characters(tmp_path: Path) -> None:
    """Replaced characters would be other data."""
    missing = tmp_path / "über.json"
    done = subprocess.run(
        command("validate", str(missing), "--json"), capture_output=True, env=os.environ | ASCII[0], check=False
    )
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["files"][0]["file"] == str(missing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_disk_behind_the_output(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command(*arguments), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == exit_codes.RUN_FOLDER
    (line,) = done.stderr.splitlines()
    assert "the disk is full" in line


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_that_has_gone_ends_the_command_quietly(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command(*arguments), stdout=write, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write)
    assert done.returncode == exit_codes.CLOSED_PIPE == 141
    assert done.stderr == b""
