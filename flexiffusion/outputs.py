"""What units return, described without their values, and built anew from such a description.

A unit returns a tensor, or a tuple, list or mapping of tensors and constants (diffusers' outputs are mappings). A
*recipe* is the same structure with a `TensorShape` in place of every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .feature import batch_dimension

Sizes = tuple[tuple[Any, tuple[int, ...]], ...]
"""Sizes of tensors, each with its position or name."""


@dataclass(frozen=True, slots=True)
class TensorShape:
    """Size, dtype and device of one tensor that a unit returned, and the dimension that counts the batch's rows."""

    size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch: int | None

    @property
    def row(self) -> tuple[int, ...]:
        """The size without the batch."""
        return self.size if self.batch is None else (*self.size[: self.batch], *self.size[self.batch + 1 :])

    @property
    def rows(self) -> int:
        return 1 if self.batch is None else self.size[self.batch]


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a unit's call, by position or name, that stands in a recipe for the tensor which continues it."""

    key: int | str


@dataclass(frozen=True, slots=True)
class Record:
    """A tuple, list or mapping that a unit returned: its type and its items."""

    type: type
    items: tuple[tuple[str | None, Any], ...]


@dataclass(slots=True, eq=False)
class Shapes:
    """What the units of one full call were given and returned.

    Attributes:
        outputs: the recipe of what each unit returned.
        inputs: sizes of the tensors that each unit was called with, by position or name.
        order: where text and image are two streams at first and one later on, which of the two comes first in that one;
            None: not known.
    """

    outputs: dict[nn.Module, Any] = field(default_factory=dict)
    inputs: dict[nn.Module, Sizes] = field(default_factory=dict)
    order: tuple[int, int] | None = None

    def clear(self) -> None:
        self.outputs.clear()
        self.inputs.clear()


def _shape(tensor: Tensor, rows: int | None) -> TensorShape:
    size = tuple(tensor.shape)
    return TensorShape(size, tensor.dtype, tensor.device, _batch(size, rows))


def _batch(size: tuple[int, ...], rows: int | None) -> int | None:
    return batch_dimension(size, size[0] if rows is None and size else rows or 1)


def _recipe(output: Any, of_tensor: Callable[[Tensor], Any]) -> Any:
    """The structure of an output, with what `of_tensor` gives in place of every tensor."""
    if isinstance(output, Tensor):
        return of_tensor(output)
    if isinstance(output, Mapping):
        return Record(type(output), tuple((name, _recipe(item, of_tensor)) for name, item in output.items()))
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", (None,) * len(output))
        items = zip(names, output, strict=True)
        return Record(type(output), tuple((name, _recipe(item, of_tensor)) for name, item in items))
    return output


def describe(output: Any, rows: int | None) -> Any:
    """The recipe of an output of a call with so many rows; None: every tensor's first dimension counts them."""
    return _recipe(output, lambda tensor: _shape(tensor, rows))


def build(recipe: Any, make: Callable[[Any], Tensor]) -> Any:
    """An output with what `make` gives for each `TensorShape` or `Argument` of its recipe, in order."""
    if isinstance(recipe, TensorShape | Argument):
        return make(recipe)
    if isinstance(recipe, Record):
        items = [(name, build(item, make)) for name, item in recipe.items]
        if items and items[0][0] is not None:
            return recipe.type(**{name: item for name, item in items if name is not None})
        return recipe.type(item for _, item in items)
    return recipe


def leaves(output: Any) -> Iterator[Any]:
    """All that an output, or its recipe, holds, in order."""
    if isinstance(output, Record):
        for _, item in output.items:
            yield from leaves(item)
    elif isinstance(output, Mapping | tuple | list):
        for item in output.values() if isinstance(output, Mapping) else output:
            yield from leaves(item)
    else:
        yield output


def tensors(output: Any) -> Iterator[Any]:
    """The tensors of an output, or the shapes of a recipe, in order."""
    return (leaf for leaf in leaves(output) if isinstance(leaf, Tensor | TensorShape))


def zeros(now: int, then: int) -> Callable[[TensorShape], Tensor]:
    """Makes placeholders, one for each distinct shape, for `now` rows where the full call had `then`."""
    made: dict[TensorShape, Tensor] = {}

    def make(shape: TensorShape) -> Tensor:
        if shape not in made:
            size = list(shape.size)
            if shape.batch is not None:
                size[shape.batch] = size[shape.batch] * now // then
            made[shape] = torch.zeros(size, dtype=shape.dtype, device=shape.device)
        return made[shape]

    return make


def input_sizes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sizes:
    """Sizes of the tensors that a unit is called with, by position or name."""
    # names are sorted alone: torch.compile, which traces this, cannot sort pairs
    given = (*enumerate(args), *((name, kwargs[name]) for name in sorted(kwargs)))
    return tuple((key, tuple(value.shape)) for key, value in given if isinstance(value, Tensor))


def same_sizes(then: Sizes, now: Sizes, rows_then: int, rows_now: int) -> bool:
    """Whether two calls of one unit had the same sizes but for the rows of the batch.

    Which dimension counts the rows is not asked: rotary embeddings have none, and video blocks are called with frames
    times rows. So a tensor may differ in one dimension, by just the ratio of the rows.
    """
    if [key for key, _ in then] != [key for key, _ in now]:
        return False
    for (_, before), (_, after) in zip(then, now, strict=True):
        if len(before) != len(after):
            return False
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        if len(changed) > 1 or any(old * rows_now != new * rows_then for old, new in changed):
            return False
    return True


def order_of(streams: Sequence[Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int] | None:
    """Which of two streams (B, tokens, width) comes first in the one that a unit is called with: (0, 1) or (1, 0).

    The joint stream begins with the first token of the one, or ends with the last token of the other: hosts add to one
    of the two (ControlNet to the image, HiDream and Bria their text layers to the text). None: no argument has the
    length of both, or neither end tells.
    """
    first, second = streams
    if not first.dim() == second.dim() == 3:
        return None
    length = first.shape[1] + second.shape[1]
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() == 3 and value.shape[1:] == (length, first.shape[2]):
            for order, one, other in (((0, 1), first, second), ((1, 0), second, first)):
                if torch.equal(value[:, :1], one[:, :1]) or torch.equal(value[:, -1:], other[:, -1:]):
                    return order
    return None


def aligned(output: tuple[Any, Sequence[Tensor]], other: Any, order: tuple[int, int] | None) -> list[Tensor] | None:
    """The streams of one unit as those of another: tensor for tensor, or two of them as one joint stream.

    Args:
        output: what the first unit returned: its recipe, and its tensors in order.
        other: the recipe of the second unit, which may return None in place of a stream (SD3's last block).
        order: see `Shapes`.

    Returns: one tensor for each of the second unit's; None: they do not fit.
    """
    recipe, streams = output
    wanted = list(tensors(other))
    mine, theirs = list(leaves(recipe)), list(leaves(other))
    if len(mine) == len(theirs):
        given = iter(streams)
        found = [next(given) if isinstance(leaf, TensorShape) else None for leaf in mine]
        pairs = [(tensor, leaf) for tensor, leaf in zip(found, theirs, strict=True) if isinstance(leaf, TensorShape)]
        chosen = [tensor for tensor, _ in pairs if tensor is not None]
        shapes = [leaf for leaf, other_leaf in zip(mine, theirs, strict=True) if isinstance(other_leaf, TensorShape)]
        if len(chosen) == len(wanted) and [shape.row for shape in shapes] == [shape.row for shape in wanted]:
            return chosen
    if len(wanted) == 1 and len(streams) == 2 and order is not None:
        both = torch.cat([streams[place] for place in order], 1)
        if tuple(both.shape[1:]) == wanted[0].row:
            return [both]
    return None


def continued(output: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The recipe of an output with, for each tensor, the argument that it continues: what a unit that is left out would
    hand on.

    It is the argument of the same size that is nearest to the tensor: a block adds what it computes to what enters it.
    None: a tensor has no argument of its size.
    """
    called: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    given = {key: value for key, value in called.items() if isinstance(value, Tensor)}

    def nearest(value: Tensor) -> Argument:
        alike = {key: one for key, one in given.items() if one.shape == value.shape and one.dtype == value.dtype}
        if not alike:
            raise LookupError
        if len(alike) == 1:
            return Argument(*alike)
        distances = {key: float((one - value).float().square().sum()) for key, one in alike.items()}
        return Argument(min(distances, key=lambda key: distances[key]))

    try:
        return _recipe(output, nearest)
    except LookupError:
        return None
