"""A file is there whole or not at all."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from flexiffusion.whole_file import whole_file


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


def test_others_may_read_it_whatever_wrote_it(tmp_path: Path) -> None:
    """safetensors leaves files of mode 0600: a colleague could read all of a run but its references."""
    (tmp_path / "usual").touch()
    with whole_file(tmp_path / "tensors") as draft:
        save_file({"x": np.zeros(3)}, draft)
    with whole_file(tmp_path / "private") as draft:
        draft.unlink()
        os.close(os.open(draft, os.O_CREAT | os.O_WRONLY, 0o600))
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_two_threads_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path, both = tmp_path / "file.txt", threading.Barrier(2)

    def write(text: str) -> None:
        with whole_file(path) as draft:
            draft.write_text(text)
            both.wait(30)
            assert draft.read_text() == text

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("first", "second")))
    assert path.read_text() in ("first", "second") and list(tmp_path.iterdir()) == [path]
