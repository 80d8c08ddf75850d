"""Units that a call leaves out (AutoDiffusion, arXiv 2309.10438): what is left of them, and the calls without them.

It works as the cut does (`cut`): the host's own forward runs, with another `forward` in the units for that time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from .attributes import Attributes
from .errors import ModelMismatch
from .layouts import shortcut
from .outputs import build, continued
from .threads import this_thread

Left = Mapping[nn.Module, Any]
"""What is left of units that cannot be told by their class: for each the recipe of `outputs.continued`."""


class learning:
    """Context of one call that finds out what is left of a transformer's blocks when they are dropped.

        with learning(layout.units) as left: transformer(...)

    A block that was not called, or returned a tensor of a size that nothing had which it was called with, is not there
    afterwards: it cannot be dropped.
    """

    __slots__ = ("_left", "_patch", "_units")

    def __init__(self, units: Iterable[nn.Module]) -> None:
        self._units = tuple(units)
        self._patch = Attributes(this_thread())
        self._left: dict[nn.Module, Any] = {}

    def __enter__(self) -> dict[nn.Module, Any]:
        self._patch.put_functions("forward", ((unit, self._watch(unit, unit.forward)) for unit in self._units))
        return self._left

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()

    def _watch(self, unit: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            recipe = continued(output, args, kwargs)
            if recipe is not None:
                self._left[unit] = recipe
            return output

        return forward


class dropping:
    """Context of one call that leaves units out: `with dropping(layout.named(["middle_block.1"])): unet(...)`.

    A residual block becomes its skip connection, an attention the identity (AutoDiffusion, arXiv 2309.10438); a block
    of a transformer hands on the streams that enter it. Enter it before `capturing` or `skipping`, so that they see
    what is left.

    Args:
        units: the units to leave out.
        left: what is left of them, as found by `learning`; units that are not in it are residual blocks and attentions.

    Raises:
        ModelMismatch: on entry, a unit that cannot be dropped.
    """

    __slots__ = ("_left", "_patch", "_units")

    def __init__(self, units: Iterable[nn.Module], left: Left | None = None) -> None:
        self._units = tuple(units)
        self._left = left or {}
        self._patch = Attributes(this_thread())

    def __enter__(self) -> None:
        self._patch.put_functions(
            "forward",
            ((unit, _handing_on(self._left[unit]) if unit in self._left else _left(unit)) for unit in self._units),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()


def _handing_on(recipe: Any) -> Callable[..., Any]:
    """The forward of a dropped block: clones of its arguments, since hosts add to a block's output in place."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        return build(recipe, lambda argument: given[argument.key].clone())

    return forward


def _left(unit: nn.Module) -> Callable[..., Any]:
    """The forward of a dropped unit."""
    left = shortcut(unit)
    if left is None:
        raise ModelMismatch(f"a {type(unit).__name__} cannot be dropped. Drop residual blocks and attentions only")

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        # a clone, since hosts add to a block's output in place, and what enters may be another block's skip
        output = x.clone() if left.projection is None else left.projection(x)
        if left.scale != 1.0:
            output = output / left.scale
        return (output,) if left.in_tuple else output

    return forward
