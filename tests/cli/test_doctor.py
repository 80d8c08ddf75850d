"""`doctor` and `completion`: what a new user runs first."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from flexiffusion import __version__
from flexsearch.cli.app import COMMANDS, main
from flexsearch.cli.kinds import PictureSize
from flexsearch.sharing import hosts

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without hosts or presets."""
    monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(tmp_path / "presets"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in hosts.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def lines(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
    done = CliRunner().invoke(main, ["doctor", "--json", *map(str, arguments)])
    return done.exit_code, json.loads(done.stdout)["lines"]


def to_fix(*arguments: object) -> list[dict[str, Any]]:
    code, found = lines(*arguments)
    broken = [line for line in found if not line["ok"]]
    assert code == (2 if broken else 0)
    return broken


def host(folder: Path, kind: str) -> Path:
    inside, marks = hosts.HOSTS[kind]
    (folder / inside).mkdir(parents=True)
    for mark in marks:
        (folder / mark).touch()
    return folder


def test_a_sound_installation_has_nothing_to_fix(alone: Path) -> None:
    assert to_fix() == []
    words = CliRunner().invoke(main, ["doctor"]).stdout
    assert "nothing to fix" in words and "cpu," in words and "not there yet" in words and "none found" in words


@pytest.mark.parametrize("kind", sorted(hosts.HOSTS))
def test_hosts_are_linked_as_it_says(alone: Path, kind: str) -> None:
    folder = host(alone / kind, kind)
    (missing,) = to_fix("--host", folder)
    assert "not installed" in missing["what"]
    subprocess.run([sys.executable, *missing["fix"].split()[1:]], check=True, capture_output=True)
    assert to_fix("--host", folder) == []
    os.environ[f"{kind.upper()}_PATH"] = str(folder)
    assert any("a link to" in line["what"] for line in lines()[1])
    del os.environ[f"{kind.upper()}_PATH"]


def test_a_host_that_nobody_named_need_not_have_it(alone: Path) -> None:
    host(alone / "home" / "ComfyUI", "comfyui")
    assert to_fix() == []
    assert any("not installed" in line["what"] for line in lines()[1])


def test_what_is_wrong_in_a_host(alone: Path) -> None:
    folder = host(alone / "c", "comfyui")
    nodes = folder / "custom_nodes"
    (nodes / "flexiffusion").symlink_to(alone / "gone")
    assert "leads nowhere" in to_fix("--host", folder)[0]["what"]
    (nodes / "flexiffusion").unlink()
    for name, version in (("one", "0.0.1"), ("two", __version__)):
        (nodes / name / "flexiffusion").mkdir(parents=True)
        (nodes / name / "comfy_nodes").mkdir()
        (nodes / name / "flexiffusion" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    twice, old = to_fix("--host", folder)
    assert "installed twice" in twice["what"] and "version 0.0.1" in old["what"]
    assert "neither" in to_fix("--host", alone)[0]["what"]


def test_broken_presets_are_named(alone: Path) -> None:
    (alone / "presets").mkdir()
    (alone / "presets" / "bad.json").write_text("{")
    (broken,) = to_fix()
    assert "bad.json" in broken["what"] and broken["fix"]


def test_a_package_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = '; extra == "search"'
    wanted = [
        f"torch>=999{extra}",
        f"nothing-of-this-name>=1{extra}",
        f"click>=8{extra}",
        'pytest>=999; extra == "test"',
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    assert [line["fix"] for line in to_fix()] == [
        'pip install -U "torch>=999"',
        'pip install "nothing-of-this-name>=1"',
    ]


def test_hosts_are_recognised_as_by_install_py() -> None:
    found = importlib.util.spec_from_file_location("install", ROOT / "install.py")
    assert found is not None and found.loader is not None
    install = importlib.util.module_from_spec(found)
    found.loader.exec_module(install)
    assert install.HOSTS == hosts.HOSTS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0 and "_FLEXSEARCH_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [("flexsearch ", set(COMMANDS)), ("flexsearch verify sd15-turns-1", {"sd15-turns-10", "sd15-turns-12"}),
     ("flexsearch presets ", {"add", "list", "pull"}),
     ("flexsearch run --prediction ", {"auto", "epsilon", "v_prediction"}), ("flexsearch run --model t", {"tiny"})],
)  # fmt: skip
def test_the_shell_completes_commands_and_presets(words: str, expected: set[str]) -> None:
    environment = {**os.environ, "_FLEXSEARCH_COMPLETE": "bash_complete", "COMP_WORDS": words,
                   "COMP_CWORD": str(len(words.split(" ")) - 1)}  # fmt: skip
    code = "from flexsearch.cli import main; main(prog_name='flexsearch')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert expected <= {line.partition(",")[2] for line in done.stdout.splitlines()}, done.stderr


# What takes numbers, or texts that nobody can list.
NUMBERS = (click.types.IntParamType, click.types.FloatParamType, click.types.BoolParamType, PictureSize)
FREE = {"author", "family", "guidance", "host", "name", "ray_address", "repo", "storage", "title", "args"}


def test_the_shell_completes_every_parameter_that_has_words_or_files() -> None:
    group = main.make_context("flexsearch", ["doctor"], resilient_parsing=True)
    commands = [main.get_command(group, name) for name in main.list_commands(group)]
    seen = set()
    for command in commands:
        assert command is not None
        context = click.Context(command)
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        for parameter in (parameter for one in inner for parameter in one.params):
            if isinstance(parameter.type, NUMBERS) or parameter.name in FREE:
                continue
            seen.add(parameter.name)
            assert parameter.shell_complete(context, ""), (command.name, parameter.name)
    assert {"prediction", "device", "features", "reference", "method", "prompts_file"} <= seen
