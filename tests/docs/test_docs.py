"""What the documentation says is so: links lead somewhere, code runs, commands and options exist, pages are current."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from flexiffusion import codec
from flexsearch.cli import settings
from flexsearch.cli.app import main
from tools import make_cli_docs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("[A-Z]*.md"), ROOT / "schedules" / "README.md", ROOT / "benchmarks" / "README.md",
                *(ROOT / "docs").rglob("*.md")])  # fmt: skip
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCE = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


class Block(NamedTuple):
    page: str
    kind: str  # the fence's first word
    more: str  # the others
    text: str


def blocks(name: str) -> Iterator[Block]:
    for indent, kind, more, text in FENCE.findall((ROOT / name).read_text(encoding="utf-8")):
        yield Block(name, kind, more.strip(), re.sub(f"^{indent}", "", text, flags=re.MULTILINE))


def of_kind(*kinds: str) -> list[Block]:
    return [block for name in NAMES for block in blocks(name) if block.kind in kinds]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.replace("`", "")).lower().replace(" ", "-") for heading in headings)
    return set(plain)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    for target in (link or picture for link, picture in LINK.findall(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(file), f"{name}: {target}"


def test_the_pages_of_the_commands_are_current() -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in make_cli_docs.FOLDER.glob("*.md")}
    wanted = {name: text.rstrip() + "\n" for name, text in make_cli_docs.pages().items()}
    assert found == wanted, "run python -m tools.make_cli_docs"


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `flexsearch` command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|\||;|\|", line):
            found = re.search(r"(?<![\w/-])flexsearch (.*)", part)
            if found:
                yield shlex.split(found.group(1), comments=True)


def unknown(words: list[str]) -> str | None:
    """The first word that no command has; None if all are there."""
    command: click.Command = main
    while isinstance(command, click.Group):
        if not words and command is not main:
            return None  # a group, named by itself
        inner = command.get_command(click.Context(command), words[0])
        if inner is None:
            return words[0]
        command, words = inner, words[1:]
    flags = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    wrong = [word for word in words if word.startswith("--") and word.partition("=")[0] not in flags | {"--help"}]
    return wrong[0] if wrong else None


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_options_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    shell = [block.text for block in blocks(name) if block.kind == "sh"]
    inline = [" ".join(code.split()) for code in re.findall(r"`(flexsearch [a-z][^`]*)`", FENCE.sub("", text))]
    for words in (words for source in (*shell, *inline) for words in commands(source)):
        if words and words[0] not in ("list", "[a-z]") and not set("|[") & set(" ".join(words)):
            assert unknown(words) is None, f"{name}: flexsearch {' '.join(words)}"


@pytest.mark.parametrize("block", of_kind("toml"), ids=lambda block: block.page)
def test_toml(block: Block) -> None:
    for name, table in tomllib.loads(block.text).items():
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert {key.replace("-", "_") for key in table} <= set(settings.options_by_key(command))


@pytest.mark.parametrize("block", of_kind("json"), ids=lambda block: block.page)
def test_json(block: Block) -> None:
    if json.loads(block.text).get("format") == "flexiffusion/schedule":
        codec.loads(block.text.encode(), block.page)


@pytest.mark.parametrize("block", of_kind("python"), ids=lambda block: block.page)
def test_python(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(block.text, block.page, "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("name", sorted({block.page for block in of_kind("pycon")}))
def test_a_page_s_python_session(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page are one session; what they print is what the page says."""
    monkeypatch.chdir(ROOT)
    text = "".join(block.text for block in blocks(name) if block.kind == "pycon")
    session = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    told: list[str] = []
    flags = doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.DocTestRunner(optionflags=flags, verbose=False).run(session, out=told.append)
    assert tried and not failed, "".join(told)


def test_every_message_that_is_explained_is_one_of_ours() -> None:
    code = "".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))  # a sentence goes on in the next line
        for folder in ("flexiffusion", "flexsearch", "comfy_nodes", "webui_extension")
        for path in (ROOT / folder).rglob("*.py")
    )
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 25 and [message for message in messages if message not in code] == []


@pytest.mark.slow
def test_the_engineers_tutorial_from_its_first_to_its_last_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands, except that the environment makes the searches small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(tmp_path / "presets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = {"EVALUATIONS": "9", "IMAGES": "2", "HELD_OUT": "2", "PLANNER": "false", "SPEEDUP": "3"}
    for key, value in small.items():
        monkeypatch.setenv(f"FLEXSEARCH_RUN_{key}", value)
    monkeypatch.setenv("FLEXSEARCH_VERIFY_IMAGES", "4")
    monkeypatch.setenv("FLEXSEARCH_VERIFY_CHOOSE_ON", "2")
    done = []
    for block in blocks("docs/tutorials/one-gpu.md"):
        if block.kind == "sh" and block.more != "own":
            for words in commands(block.text):
                result = CliRunner().invoke(main, words, env=dict(os.environ))
                if words[0] == "verify":
                    assert result.exit_code in (0, 7), result.output
                    assert re.search(r"(confirmed|weaker|refuted)\n$", result.stdout)
                elif words[0] != "doctor":  # which may find something to fix on this machine
                    assert result.exit_code == 0, (words, result.output, result.exception)
                done.append(words[0])
    assert done == ["doctor", "run", "report", "show", "presets", "presets", "verify", "presets"]
    assert (tmp_path / "first" / "report.html").is_file() and (tmp_path / "shared" / "README.md").is_file()
    assert len(list((tmp_path / "presets").glob("*.json"))) == 1
