"""What a .safetensors file says that it holds, and the refusal of files that are none, or not all there.

The header alone is read: names, shapes and dtypes of a 7 GB file in milliseconds, before anything large is loaded.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from flexsearch.errors import ModelError

MAX_HEADER = 100_000_000  # the format's own limit, in bytes
TAIL = 1 << 20
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".tmp", ".aria2", ".incomplete")
TO_SAFETENSORS = (
    "Save it as .safetensors: ComfyUI's CheckpointSave node and A1111's Checkpoint Merger (no interpolation) do; "
    "most sites offer one beside it"
)
AGAIN = "Download or copy it again, and compare its SHA-256 with the site's"


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header has it; `dtype` in the format's words (F16, BF16, F32, F8_E4M3, ...)."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check a file's header. Raises ModelError, with what the file is instead and the remedy."""

    def refuse(problem: str, remedy: str) -> NoReturn:
        raise ModelError(str(path), problem, remedy)

    suffix = path.suffix.lower()
    if suffix in PICKLES:
        refuse(f"{suffix} files are pickles, which can run any program when opened: not loaded", TO_SAFETENSORS)
    if suffix in UNFINISHED:
        refuse(f"{suffix} is the name of a download that has not finished", "Wait for it, or download it again")
    if suffix == ".gguf":
        refuse("it is a GGUF file, with quantised weights", "Give the .safetensors that it was made from")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(512)
            _refuse_other_contents(start, size, refuse)
            (length,) = struct.unpack("<Q", start[:8])
            if length > MAX_HEADER:
                refuse("it does not begin with a safetensors header", f"Give a .safetensors checkpoint. {AGAIN}")
            if 8 + length > size:
                refuse(
                    f"it is cut off inside its own header: {size:,} of at least {8 + length:,} bytes are there",
                    AGAIN,
                )
            stream.seek(8)
            packed = stream.read(length)
            tail_at = max(8 + length, size - TAIL)
            stream.seek(tail_at)
            tail = stream.read()
    except OSError as error:
        refuse(f"it cannot be read ({error.strerror})", "Check the path and its permissions")
    try:
        document = json.loads(packed)
        metadata = document.pop("__metadata__", None) or {}
        ends = [int(entry["data_offsets"][1]) for entry in document.values()]
        tensors = {name: Tensor(str(e["dtype"]), tuple(map(int, e["shape"]))) for name, e in document.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        refuse("its safetensors header is damaged", AGAIN)
    if not tensors:
        refuse("it holds no tensors", "Give a whole checkpoint")
    whole = 8 + length + max(ends)
    if size < whole:
        refuse(f"it is cut off: {size:,} of {whole:,} bytes are there ({size / whole:.0%})", AGAIN)
    if size > whole:
        refuse(f"it has {size - whole:,} bytes more than its header tells of", AGAIN)
    if len(tail) == TAIL and not any(tail):
        # downloaders reserve the whole size first: what has not come yet reads as zeros
        refuse("its last 1 MiB holds nothing but zeros: it was only half copied", AGAIN)
    return Header(tensors, {str(key): str(value) for key, value in metadata.items()})


def _refuse_other_contents(start: bytes, size: int, refuse: Any) -> None:
    text = start.lstrip().lower()
    if size == 0:
        refuse("the file is empty", AGAIN)
    if start.startswith(b"version https://git-lfs"):
        refuse("it is a Git LFS pointer, not the file itself", "Run `git lfs pull` in its repository")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        refuse("it is a web page: the site sent a log-in or error page", "Download it again, logged in")
    if text.startswith((b'{"error', b'{"message', b'{"detail')):
        refuse("it is a site's error message, saved as a file", "Download it again, logged in")
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        refuse("it is a pickle in spite of its name; pickles are not loaded", TO_SAFETENSORS)
    if start.startswith(b"GGUF"):
        refuse("it is a GGUF file, with quantised weights", "Give the .safetensors that it was made from")
    if size < 8:
        refuse(f"it has {size} bytes, fewer than any safetensors file", AGAIN)
