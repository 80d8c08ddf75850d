"""Files that are there whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: it takes `path`'s place when the block ends, and is removed if that raises.

    Two processes that write the same file do not meet; the last one's stays. Raises OSError, as the writing does,
    and where there is no such folder.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
