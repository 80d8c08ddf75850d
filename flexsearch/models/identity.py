"""A checkpoint's identity: the SHA-256 of its weights, as A1111 and Civitai show it, remembered between calls."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from flexiffusion.whole_file import whole_file


def cache_folder() -> Path:
    """Where this tool keeps what it can make again: `$XDG_CACHE_HOME/flexiffusion`, or `~/.cache/flexiffusion`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexiffusion"


def sha256_of(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, one after the other; of one file what `sha256sum` prints.

    Read again only when a path, size or modification time has changed: 7 GB take a minute on a slow disk. The memory of
    it is a file in `cache_folder()`; where that cannot be read or written, the hash is simply computed.
    """
    stats = [(path.resolve(), path.stat()) for path in paths]
    key = json.dumps([[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats])
    store = cache_folder() / "sha256.json"
    known = _read(store)
    if key not in known:
        digest = hashlib.sha256()
        for path in paths:
            with path.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        known[key] = digest.hexdigest()
        _write(store, known)
    return known[key]


def _read(store: Path) -> dict[str, str]:
    try:
        document = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {key: value for key, value in document.items() if isinstance(value, str) and len(value) == 64}


def _write(store: Path, known: dict[str, str]) -> None:
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(store) as draft:
            draft.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
