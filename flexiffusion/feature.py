"""A deep feature: all that the skipped part of a network delivers to what still runs.

A U-Net's is one tensor (B, C, H, W). A transformer's has one tensor for each token stream (B, tokens, width), text and
image, or one for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def batch_dimension(size: Sequence[int], rows: int) -> int | None:
    """The dimension of a tensor that counts the rows of the batch; None: none does.

    It is the first, but for the networks that put tokens first (diffusers' Ernie: tokens, batch, width).
    """
    for dimension in (0, 1):
        if len(size) > dimension + 1 and size[dimension] == rows:
            return dimension
    return 0 if size and size[0] % rows == 0 else None


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """The tensors of one feature, in the order in which the last skipped unit returns them.

    Attributes:
        streams: the tensors.
        batch: for each of them the dimension that counts the rows of the batch.
    """

    streams: tuple[Tensor, ...]
    batch: tuple[int, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the streams without their batch."""
        return tuple(
            (*stream.shape[:dimension], *stream.shape[dimension + 1 :])
            for stream, dimension in zip(self.streams, self.batch, strict=True)
        )

    @property
    def rows(self) -> int:
        """Of the batch."""
        return self.streams[0].shape[self.batch[0]]

    @property
    def bytes(self) -> int:
        return sum(stream.numel() * stream.element_size() for stream in self.streams)

    def parts(self, count: int) -> tuple[Feature, ...]:
        """Equal slices of the batch, each a copy, so that one can be freed without the others.

        Raises:
            ValueError: the batch does not part into so many.
        """
        for stream, dimension in zip(self.streams, self.batch, strict=True):
            if stream.shape[dimension] % count:
                raise ValueError(f"{stream.shape[dimension]} rows do not part into {count} equal slices")
        sliced = [
            [part.clone() for part in stream.detach().chunk(count, dimension)]
            for stream, dimension in zip(self.streams, self.batch, strict=True)
        ]
        return tuple(Feature(streams, self.batch) for streams in zip(*sliced, strict=True))

    def map(self, function: Callable[[Tensor], Tensor]) -> Feature:
        return Feature(tuple(map(function, self.streams)), self.batch)


def joined(features: Sequence[Feature]) -> Feature:
    """The features of several parts of a batch as one; a lone one as it is. Their `shapes` must be equal."""
    if len(features) == 1:
        return features[0]
    batch = features[0].batch
    streams = zip(*(feature.streams for feature in features), strict=True)
    return Feature(tuple(torch.cat(parts, dim) for parts, dim in zip(streams, batch, strict=True)), batch)
