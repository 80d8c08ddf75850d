"""A file is there whole or not at all."""

from pathlib import Path

import pytest

from flexsearch.whole_file import whole_file


def test_a_block_that_ends_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    for text in ("first", "second"):
        with whole_file(path) as draft:
            draft.write_text(text)
            assert draft.parent == path.parent
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)), whole_file(path) as draft:
        draft.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"), whole_file(tmp_path / "typo" / "file.txt") as draft:
        draft.write_text("lost")
    assert not list(tmp_path.iterdir())
