"""The SHA-256 of weights, and that it is read again only when the file has changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from flexsearch.models import identity


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flexiffusion" / "sha256.json"


def weights(path: Path, content: bytes, changed_at: int = 1_000_000_000) -> Path:
    path.write_bytes(content)
    os.utime(path, (changed_at, changed_at))
    return path


def test_it_is_what_sha256sum_prints(tmp_path: Path) -> None:
    assert identity.sha256_of([weights(tmp_path / "a", b"x" * 10**7)]) == hashlib.sha256(b"x" * 10**7).hexdigest()


def test_of_several_files_it_is_that_of_their_contents_in_order(tmp_path: Path) -> None:
    parts = [weights(tmp_path / "a", b"one"), weights(tmp_path / "b", b"two")]
    assert identity.sha256_of(parts) == hashlib.sha256(b"onetwo").hexdigest()


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, cache: Path) -> None:
    path = weights(tmp_path / "a", b"one")
    first = identity.sha256_of([path])
    weights(path, b"two")  # as long and as old as before: the memory cannot know
    assert identity.sha256_of([path]) == first and cache.is_file()


@pytest.mark.parametrize(("content", "changed_at"), [(b"longer", 1_000_000_000), (b"two", 1_000_000_001)])
def test_another_size_or_time_is_another_file(content: bytes, changed_at: int, tmp_path: Path) -> None:
    path = weights(tmp_path / "a", b"one")
    identity.sha256_of([path])
    weights(path, content, changed_at)
    assert identity.sha256_of([path]) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"x": 3}'])
def test_a_damaged_memory_costs_nothing_but_time(damage: bytes, tmp_path: Path, cache: Path) -> None:
    path = weights(tmp_path / "a", b"one")
    cache.parent.mkdir(parents=True)
    cache.write_bytes(damage)
    assert identity.sha256_of([path]) == hashlib.sha256(b"one").hexdigest()


def test_a_memory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert identity.sha256_of([weights(tmp_path / "a", b"one")]) == hashlib.sha256(b"one").hexdigest()
