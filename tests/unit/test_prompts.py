"""Prompts files, their split, and the bundled list."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexsearch.errors import ConfigError
from flexsearch.sampling.prompts import BUNDLED, read_prompts, split_prompts


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_bundled_list() -> None:
    search, held_out = read_prompts(BUNDLED, "bundled")
    assert (len(search), len(held_out)) == (96, 32) and len({*search, *held_out}) == 128
    assert all(8 < len(prompt) < 200 for prompt in (*search, *held_out))


def test_a_line_of_dashes_parts_them(tmp_path: Path) -> None:
    path = written(tmp_path / "p.txt", "\ufeffone\n\n two \n---\n\nthree\n")
    assert read_prompts(path, "x") == (("one", "two"), ("three",))


def test_without_the_line_the_last_third_is_held_out(tmp_path: Path) -> None:
    assert read_prompts(written(tmp_path / "p.txt", "a\nb\nc\nd"), "x") == (("a", "b", "c"), ("d",))
    assert split_prompts(["a"]) == (("a",), ("a",))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it has no prompts"),
        ("---\n", "it has no prompts"),
        ("a\n---\n", "no prompt on one side"),
        ("---\nb\n", "no prompt on one side"),
        ("a\n---\nb\n---\nc\n", "it has 2 lines ---"),
        ("a\nb\n---\nb\n", "'b' is searched on and held out"),
    ],
)
def test_what_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_prompts(written(tmp_path / "p.txt", text), "--prompts p.txt")
