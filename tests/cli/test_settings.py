"""Settings: file < environment < flags, and a file's mistakes are named with file, key and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.core import ParameterSource
from click.testing import CliRunner, Result

from flexsearch.cli import output
from flexsearch.cli.app import COMMANDS, Entry, main
from flexsearch.cli.command import Command

SOURCES = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
}


@click.command("demo", cls=Command)
@click.option("--images", type=int, default=16, help="How many.")
@click.option("--speed-up", "speedups", type=float, multiple=True, default=(2.0,), help="Asked.")
@click.option("--fast/--slow", default=False, help="How.")
@click.option("--solver", type=click.Choice(["ddim", "euler"]), default="ddim", help="Which.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Where.")
@output.json_option
@click.pass_context
def demo(ctx: click.Context, /, **_: object) -> None:
    """Says what it got, and from where."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    words = {name: SOURCES[source] for name, source in sources.items() if source is not None}
    found = {name: {"value": value, "source": words[name]} for name, value in ctx.params.items()}
    output.emit(json.loads(json.dumps(found, default=str)))


@pytest.fixture(autouse=True)
def demo_is_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(COMMANDS, "demo", Entry(f"{__name__}:demo", "For tests."))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--json"], env=environment)


def got(result: Result, name: str) -> tuple[object, str]:
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)[name]
    return found["value"], found["source"]


def test_flags_over_environment_over_file_over_default() -> None:
    assert got(run("demo"), "images") == (16, "default")
    Path("flexsearch.toml").write_text("[demo]\nimages = 32\n")
    assert got(run("demo"), "images") == (32, "file")
    assert got(run("demo", FLEXSEARCH_DEMO_IMAGES="64"), "images") == (64, "environment")
    assert got(run("demo", "--images", "128", FLEXSEARCH_DEMO_IMAGES="64"), "images") == (128, "flag")


def test_the_environment_is_named_after_the_flag() -> None:
    assert got(run("demo", FLEXSEARCH_DEMO_SPEED_UP="1.5 4"), "speedups") == ([1.5, 4.0], "environment")
    assert got(run("demo", FLEXSEARCH_DEMO_FAST="true"), "fast") == (True, "environment")
    assert run("demo", FLEXSEARCH_DEMO_IMAGES="many").exit_code == 2


@pytest.mark.parametrize("arguments", [["demo", "--config", "other.toml"], ["--config", "other.toml", "demo"]])
def test_a_named_file_replaces_the_one_in_the_working_directory(arguments: list[str]) -> None:
    Path("flexsearch.toml").write_text("[demo]\nimages = 32\nsolver = 'euler'\n")
    Path("other.toml").write_text("[demo]\nimages = 48\n")
    assert got(run(*arguments), "images") == (48, "file")
    assert got(run(*arguments), "solver") == ("ddim", "default")
    assert got(run("demo", FLEXSEARCH_CONFIG="other.toml"), "images") == (48, "file")


def test_every_type_of_value() -> None:
    text = '[demo]\nspeed-up = [1.5, 3]\nfast = true\nsolver = "euler"\nout = "a/b"\n'
    Path("flexsearch.toml").write_text(text)
    result = run("demo")
    assert got(result, "speedups") == ([1.5, 3.0], "file")
    assert got(result, "fast") == (True, "file")
    assert got(result, "solver") == ("euler", "file")
    assert got(result, "out") == ("a/b", "file")
    Path("flexsearch.toml").write_text(text.replace("speed-up", "speed_up"))
    assert got(run("demo"), "speedups") == ([1.5, 3.0], "file")


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("[demo]\nimagse = 1", "flexsearch.toml: [demo] imagse", "unknown key. Did you mean images?"),
        ("[demo]\nzzz = 1", "flexsearch.toml: [demo] zzz", "use a key of: fast, images, out, solver, speed_up"),
        ("[demo]\njson = true", "flexsearch.toml: [demo] json", "unknown key"),
        ("[dmeo]\nimages = 1", "flexsearch.toml: dmeo", "not a command. Did you mean demo?"),
        ("[validate]\nimages = 1", "flexsearch.toml: [validate] images", "there is nothing to set here"),
        ("images = 1", "flexsearch.toml: images", "not a command"),
        ("demo = 1", "flexsearch.toml: demo", "1 is not a table"),
        ("[demo]\nimages = 64.5", "flexsearch.toml: [demo] images", "'64.5' is not a valid integer"),
        ("[demo]\nimages = true", "flexsearch.toml: [demo] images", "True is not a number or text"),
        ("[demo]\nimages = [1]", "flexsearch.toml: [demo] images", "[1] is a list. Write one value"),
        ("[demo]\nspeed-up = 2", "flexsearch.toml: [demo] speed-up", "2 is not a list. Write a list"),
        ("[demo]\nspeed-up = [[2]]", "flexsearch.toml: [demo] speed-up", "[2] is not a number or text"),
        ("[demo]\nspeed-up = [2]\nspeed_up = [3]", "flexsearch.toml: [demo] speed_up", "given twice"),
        ("[demo]\nfast = 'yes'", "flexsearch.toml: [demo] fast", "'yes' is not true or false"),
        ("[demo]\nsolver = 'rk4'", "flexsearch.toml: [demo] solver", "'rk4' is not one of 'ddim', 'euler'"),
        ("[demo]\nout = 1979-05-27", "flexsearch.toml: [demo] out", "is not a number or text"),
        ("[demo\n", "flexsearch.toml", "not valid TOML"),
    ],
)
def test_mistakes_in_the_file(text: str, place: str, problem: str) -> None:
    Path("flexsearch.toml").write_text(text)
    result = run("demo")
    assert result.exit_code == 2
    assert f"Error: {place}: " in result.stderr
    assert problem in result.stderr
    assert ".." not in result.stderr.replace("...", "")


def test_a_file_that_is_missing_or_no_text() -> None:
    missing = run("demo", "--config", "none.toml")
    assert missing.exit_code == 2
    assert "none.toml: cannot be read (No such file or directory)" in missing.stderr
    Path("flexsearch.toml").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in run("demo").stderr


def test_other_commands_tables_do_not_disturb() -> None:
    Path("flexsearch.toml").write_text("[show]\npng = 'x.png'\n[demo]\nimages = 3\n")
    assert got(run("demo"), "images") == (3, "file")


def test_a_file_with_a_byte_order_mark() -> None:
    """Windows' editors write one."""
    Path("flexsearch.toml").write_bytes(b"\xef\xbb\xbf[demo]\nimages = 3\n")
    assert got(run("demo"), "images") == (3, "file")


def test_the_home_folder_where_no_shell_reads_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    place = main.get_command(click.Context(main), "run")
    assert place is not None
    (model,) = (option for option in place.params if option.name == "model")
    assert model.type_cast_value(click.Context(place), "~/x.safetensors") == str(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("FLEXSEARCH_RUN_STEPZ", "Did you mean FLEXSEARCH_RUN_STEPS?"),
        ("FLEXSEARCH_DEMO_IMAGSE", "Did you mean FLEXSEARCH_DEMO_IMAGES?"),
        ("FLEXSEARCH_RUN_JSON", "Give --json on the command line"),
        ("FLEXSEARCH_RUN_PROMPTS_FILE", "Did you mean FLEXSEARCH_RUN_PROMPTS?"),
        ("FLEXSEARCH_0123456789012345678901234567890", "docs/cli/"),
    ],
)
def test_an_unknown_variable_is_an_error_whatever_the_command(variable: str, remedy: str) -> None:
    done = run("demo", **{variable: "1"})
    assert done.exit_code == 2
    assert f"{variable}: no setting has this name. " in done.stderr and remedy in done.stderr


def test_the_words_of_choices_are_the_cores() -> None:
    from flexiffusion.noise import SPACINGS
    from flexiffusion.search.objective import ERRORS, STATISTICS
    from flexsearch import choices
    from flexsearch.sampling.solvers import MAKERS

    assert (choices.SPACINGS, choices.ERRORS, choices.STATISTICS) == (SPACINGS, ERRORS, STATISTICS)
    assert tuple(name for name in MAKERS if name != "dpmpp_3m") == choices.SOLVERS  # that is a rival only


@pytest.mark.parametrize(
    ("words", "kinds", "offered"),
    [
        (["run", "--model"], {"file", "plain"}, ["", "tiny", "pixel", "emoji"]),
        (["run", "--prediction"], {"plain"}, ["auto", "epsilon", "v_prediction"]),
        (["run", "--prompts"], {"file"}, [""]),
        (["run", "--config"], {"file"}, [""]),
        (["run", "--out"], {"dir"}, [""]),
        (["resume"], {"dir"}, [""]),
        (["show"], {"file"}, [""]),
        (["presets", "add"], {"file"}, [""]),
        (["run", "--solver"], {"plain"}, ["fitted", "ddim", "plms", "dpmpp_2m", "euler", "uni_pc"]),
        (["run", "--cost"], {"plain"}, ["macs", "latency", "units"]),
        (["run", "--dtype"], {"plain"}, ["auto", "float32", "float16", "bfloat16"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_shell_completes_files_and_words(words: list[str], kinds: set[str], offered: list[str]) -> None:
    from click.shell_completion import BashComplete

    found = BashComplete(main, {}, "flexsearch", "_FLEXSEARCH_COMPLETE").get_completions(words, "")
    assert {item.type for item in found} == kinds
    assert [item.value for item in found] == offered
