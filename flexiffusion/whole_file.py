"""Files that are there whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: it takes `path`'s place when the block ends, and is removed if that raises.

    Two processes or threads that write the same file do not meet; the last one's stays. What is written is on the disk
    before it takes the place, and others may read it, as any new file, whatever the block's library makes of that.
    Raises OSError, as the writing does, and where there is no such folder.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        draft.touch()
        mode = stat.S_IMODE(draft.stat().st_mode)
        yield draft
        os.chmod(draft, mode)  # safetensors leaves files that nobody else can read
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
