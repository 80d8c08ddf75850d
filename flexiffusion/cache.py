"""What a run remembers between calls: the deep features of full calls, by conditioning chunk and branch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .dropping import Left
from .feature import Feature
from .outputs import Shapes

Signature = tuple[int, torch.Size, torch.dtype, torch.device]
"""What a chunk's features fit to: rows, size of a row, dtype and device of the network's input."""

Key = tuple[Hashable, Signature, int]
"""A conditioning chunk: its identity, what its features fit to, and its occurrence among the chunks of the same two in
one evaluation. Some samplers call the network at a second size within a step (SMEA Dy): each size has its own."""


class Finite:
    """Whether a feature is finite; computed when captured, read when first needed.

    Reading later keeps a GPU busy: the sum has long been copied by the time a partial step asks for it.
    """

    __slots__ = ("_event", "_finite", "_sum")

    def __init__(self, feature: Feature) -> None:
        first = feature.streams[0]
        self._finite: bool | None = True if first.is_meta else None
        self._event: torch.cuda.Event | None = None
        self._sum: Tensor | None = None
        if self._finite is None:
            # one kernel a stream, without a temporary; a sum in at least float32 is finite when every element is
            sums = (stream.sum(dtype=torch.promote_types(stream.dtype, torch.float32)) for stream in feature.streams)
            total = functools.reduce(torch.add, sums)
            if first.is_cuda:
                total = total.to("cpu", non_blocking=True)
                self._event = torch.cuda.current_stream(first.device).record_event()
            self._sum = total

    def __bool__(self) -> bool:
        if self._finite is None:
            if self._event is not None:
                self._event.synchronize()
            assert self._sum is not None
            self._finite = math.isfinite(self._sum.item())
            self._sum = self._event = None
        return self._finite


@dataclass(slots=True, eq=False)
class Entry:
    """The feature that one full call left for one branch and one conditioning chunk."""

    index: int  # step that it was captured at
    until: int  # last step that needs it
    place: float  # of its noise level, see `predictor.place_of`
    feature: Feature  # of one chunk
    finite: Finite


@dataclass(slots=True, eq=False)
class Chunk:
    """Features of one conditioning chunk: for each branch at most one of each full step, oldest first."""

    shapes: Shapes
    histories: dict[int, list[Entry]] = field(default_factory=dict)

    def keep(self, wanted: Callable[[Entry], bool]) -> None:
        kept = {branch: [entry for entry in entries if wanted(entry)] for branch, entries in self.histories.items()}
        self.histories = {branch: entries for branch, entries in kept.items() if entries}

    @property
    def bytes(self) -> int:
        return sum(e.feature.bytes for es in self.histories.values() for e in es)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The cache of a run after its step `index`: see `Run.features`."""

    index: int
    sigma: float
    chunks: Mapping[Key, Chunk]
    left: Left = field(default_factory=dict)

    @property
    def known(self) -> frozenset[tuple[int, int]]:
        """The (full step, branch) that every chunk has a feature of."""
        each = [
            frozenset((entry.index, branch) for branch, entries in chunk.histories.items() for entry in entries)
            for chunk in self.chunks.values()
        ]
        return frozenset.intersection(*each) if each else frozenset()

    def tensors(self) -> Iterator[Tensor]:
        """Every cached feature."""
        for chunk in self.chunks.values():
            for entries in chunk.histories.values():
                yield from (stream for entry in entries for stream in entry.feature.streams)
