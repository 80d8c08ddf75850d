"""The command line as a whole: cheap help, exit codes, errors, --json."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from flexiffusion import __version__
from flexiffusion.errors import ModelMismatch, ScheduleError, VersionError
from flexsearch.cli import exit_codes, output
from flexsearch.cli.app import COMMANDS, Entry, main
from flexsearch.cli.command import Command
from flexsearch.errors import ConfigError, ModelError, RunFolderError, SourceError

HEAVY = {"torch", "rich", "optuna", "numpy", "matplotlib", "diffusers", "transformers", "scipy", "sqlalchemy"}


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, arguments, **options)


# --- help ---


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    entry = main.get_command(click.Context(main), name)
    assert entry is not None and entry.name == name
    commands = entry.commands if isinstance(entry, click.Group) else {"": entry}
    for inner, command in commands.items():
        assert isinstance(command, Command)  # else it has no settings file and no --debug
        assert command.help
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, option.opts
        assert run(name, *([inner] if inner else []), "--help").exit_code == 0


HELP = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]


@pytest.fixture(scope="module")
def imported() -> list[list[str]]:
    """The heavy libraries that one process has imported after each of `HELP` in turn."""
    code = (
        "import contextlib, io, json, sys\n"
        "from flexsearch.cli import main\n"
        "found = []\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        try: main(arguments)\n"
        "        except SystemExit as end: assert not end.code, (arguments, end.code)\n"
        f"    found.append(sorted({HEAVY!r} & sys.modules.keys()))\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(HELP)], capture_output=True, text=True, check=True)
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", range(len(HELP)), ids=[arguments[0] for arguments in HELP])
def test_help_imports_nothing_heavy(case: int, imported: list[list[str]]) -> None:
    assert imported[case] == []


def test_help_lists_every_command_and_exit_code() -> None:
    shown = run("--help").output
    assert all(name in shown for name in COMMANDS)
    assert all(str(code) in shown for code in exit_codes.MEANING)


def test_version() -> None:
    assert run("--version").output == f"flexsearch, version {__version__}\n"


def test_module_entry() -> None:
    done = subprocess.run([sys.executable, "-m", "flexsearch", "--version"], capture_output=True, text=True, check=True)
    assert __version__ in done.stdout


def test_without_the_extra_the_tool_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; import flexsearch.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == exit_codes.USAGE
    assert done.stderr.strip() == 'flexsearch: not installed whole. Run: pip install "flexiffusion[search]"'


# --- how it fails ---

RAISED: list[BaseException] = []


@click.command("boom", cls=Command)
@output.json_option
def boom() -> None:
    """Raises what the test put into RAISED."""
    print("a library prints this")
    if RAISED:
        raise RAISED[0]
    if output.wants_json():
        output.emit({"ä": 1.5})


@pytest.fixture(autouse=True)
def boom_is_a_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(COMMANDS, "boom", Entry(f"{__name__}:boom", "For tests."))
    RAISED.clear()
    yield
    RAISED.clear()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("odd"), 1),
        (ConfigError("--steps", "0 is too few", "Give at least 1"), 2),
        (click.BadParameter("no"), 2),
        (click.FileError("x"), 2),
        (ScheduleError("$.plan", "3 is wrong", "Write 4"), 3),
        (VersionError("$.version", "2 is newer", "Update"), 3),
        (ModelError("m.safetensors", "is no model", "Give one"), 4),
        (ModelMismatch("Net has no blocks"), 4),
        (RunFolderError("runs/1", "is not a run", "Give one"), 5),
        (SourceError("https://x", "it is gone", "Give another"), 6),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    RAISED.append(error)
    done = run("boom")
    assert done.exit_code == code
    assert code in exit_codes.MEANING
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    failed = json.loads(run("boom", "--json").stdout)["error"]
    assert failed["exit_code"] == code
    assert failed["kind"] == type(error).__name__
    if isinstance(error, ScheduleError):
        assert (failed["place"], failed["problem"], failed["remedy"]) == (error.place, error.problem, error.remedy)


def test_out_of_device_memory_is_a_model_that_does_not_fit() -> None:
    torch = pytest.importorskip("torch")
    assert exit_codes.exit_code_of(torch.OutOfMemoryError("CUDA out of memory")) == exit_codes.MODEL


def test_an_internal_error_owns_up_and_debug_shows_where() -> None:
    RAISED.append(ValueError("odd"))
    assert "fault of flexsearch" in run("boom").stderr
    for arguments in (["boom", "--debug"], ["--debug", "boom"]):
        shown = run(*arguments).stderr
        assert "Traceback" in shown
        assert "raise RAISED[0]" in shown


def test_usage_errors() -> None:
    for arguments in (["nothing"], ["boom", "--nope"], ["validate"]):
        done = run(*arguments)
        assert done.exit_code == exit_codes.USAGE
        assert done.stdout == ""


# --- --json ---


def test_json_is_alone_on_stdout() -> None:
    done = run("boom", "--json")
    assert json.loads(done.stdout) == {"ä": 1.5}
    assert "a library prints this" in done.stderr
    assert "a library prints this" in run("boom").stdout


def test_a_second_document_and_a_number_that_json_lacks_are_faults() -> None:
    @click.command(cls=Command)
    @output.json_option
    @click.argument("what")
    def twice(what: str) -> None:
        output.emit({"x": float("nan") if what == "nan" else 1})
        output.emit({})

    assert isinstance(CliRunner().invoke(twice, ["--json", "nan"]).exception, ValueError)
    assert isinstance(CliRunner().invoke(twice, ["--json", "2"]).exception, RuntimeError)


def test_printable_spells_out_what_could_steer_a_terminal() -> None:
    assert output.printable("a\x1b[31m\u202eb\tü\n…") == "a\\x1b[31m\\u202eb\\tü\n…"
