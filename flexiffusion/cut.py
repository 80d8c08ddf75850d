"""The one mechanism: a full call captures deep features, a partial call passes the deep units by, and either may drop
further units.

The host's own forward runs in both. For the time of one call the `forward` of deep units is an instance attribute; what
stood there before (nothing, or the wrapper of another extension) is put back when the block is left, whatever happens,
and what another extension has put there meanwhile stays (`attributes`).
Because the host's loop still runs, its skips, ControlNet residuals and block counters stay aligned by themselves.

Features are cloned when captured and when handed out: FreeU and ControlNet write into hidden states in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .attributes import Attributes
from .errors import ModelMismatch
from .layout import Layout, shortcut


@dataclass(frozen=True, slots=True)
class TensorShape:
    """Size, dtype and device of one tensor that a unit returned."""

    size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class Record:
    """A tuple, list or mapping (diffusers' outputs are mappings) that a unit returned: its type and its items."""

    type: type
    items: tuple[tuple[str | None, Any], ...]


Shapes = Mapping[nn.Module, Any]
"""What every unit returned: a `TensorShape`, a `Record` of them, or a constant."""


@dataclass(slots=True, eq=False)
class Capture:
    """What one full call left behind.

    Attributes:
        slices: for each asked branch the feature as equal slices of the batch, clones. # each (B / parts, C, H, W)
        shapes: what every unit returned that the lowest asked branch skips.
        problem: why a feature is missing, if one is.
    """

    slices: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    shapes: dict[nn.Module, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def features(self) -> dict[int, Tensor]:
        """The whole feature of each branch. # (B, C, H, W)"""
        return {branch: s[0] if len(s) == 1 else torch.cat(s) for branch, s in self.slices.items()}


class capturing:
    """Context of one full call: `with capturing(layout, {1}) as capture: unet(...)`, then `capture.features[1]`.

    Args:
        layout: of the network that is called.
        branches: whose features to keep; only these are cloned. Empty: the network is not touched at all.
        parts: number of equal slices of the batch (conditioning chunks), cloned apart so that each can be freed alone.

    Raises:
        ModelMismatch: on entry, a branch that the network has not. Trouble in the call itself never raises: it
            leaves the feature out and says why in `capture.problem`.
    """

    __slots__ = ("_branches", "_layout", "_parts", "_patch", "capture")

    def __init__(self, layout: Layout, branches: Iterable[int], parts: int = 1) -> None:
        self._layout = layout
        self._branches = frozenset(branches)
        self._parts = parts
        self._patch = Attributes()
        self.capture = Capture()

    def __enter__(self) -> Capture:
        delivers = {self._layout.deep(branch)[-1]: branch for branch in self._branches}
        if delivers:
            deep = self._layout.deep(min(self._branches))
            self._patch.put_functions(
                "forward", ((unit, self._watch(unit, unit.forward, delivers.get(unit))) for unit in deep)
            )
        return self.capture

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()
        capture = self.capture
        if kind is not None:
            # the traceback keeps this frame alive for as long as somebody keeps the exception
            capture.slices.clear()
            capture.shapes.clear()
            return
        missing = self._branches - capture.slices.keys()
        if missing and capture.problem is None:
            capture.problem = f"the unit that delivers branch {min(missing)} was never called"

    def _watch(self, unit: nn.Module, original: Callable[..., Any], branch: int | None) -> Callable[..., Any]:
        capture, parts = self.capture, self._parts

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            seen = unit in capture.shapes
            capture.shapes[unit] = recipe = _describe(output)
            if branch is not None:
                if seen:
                    capture.slices.pop(branch, None)
                    capture.problem = f"the unit that delivers branch {branch} was called more than once in one call"
                elif _first(recipe) is None:
                    capture.problem = f"a {type(unit).__name__} returned no tensor but a {type(output).__name__}"
                elif (feature := _first_tensor(output)).shape[0] % parts:
                    capture.problem = f"a feature of {feature.shape[0]} rows does not part into {parts} equal slices"
                else:
                    capture.slices[branch] = _clones(feature, parts)
            return output

        return forward


class skipping:
    """Context of one partial call: `with skipping(layout, 1, feature, capture.shapes): unet(...)`.

    Units deeper than the branch return zeros of the remembered shape; the last of them returns the feature. The zeros
    are real memory (hosts add to them in place), one tensor for each distinct shape, freed after the call.

    Args:
        layout: of the network that is called.
        branch: -1 <= branch < layout.branches.
        feature: what the deep part is taken to deliver; its batch may differ from that of the full call.
            # (B, C, H, W)
        shapes: from a full call on inputs of the same size whose capture asked for this branch or a lower one.
        fresh: the caller needs the feature no more: it is handed out itself instead of a clone.

    Raises:
        ModelMismatch: on entry, a branch that the network has not, or shapes that do not fit to it or to the feature.
    """

    __slots__ = ("_branch", "_feature", "_fresh", "_layout", "_patch", "_shapes")

    def __init__(self, layout: Layout, branch: int, feature: Tensor, shapes: Shapes, fresh: bool = False) -> None:
        self._layout = layout
        self._branch = branch
        self._feature: Tensor | None = feature
        self._shapes = shapes
        self._fresh = fresh
        self._patch = Attributes()

    def __enter__(self) -> None:
        *units, last = self._layout.deep(self._branch)
        feature, shapes = self._feature, self._shapes
        if feature is None:
            raise ModelMismatch("partial call: its context was used before. Make one context for each call")
        delivered = _first(shapes.get(last))
        if delivered is None or any(unit not in shapes for unit in units):
            raise ModelMismatch(
                f"branch {self._branch}: its units have no remembered shapes. "
                f"Capture this branch (or a lower one) in a full call of the same network first"
            )
        if delivered.size[1:] != feature.shape[1:]:
            raise ModelMismatch(
                f"branch {self._branch}: feature of shape {tuple(feature.shape)} where the full call had "
                f"{delivered.size}. Capture again at this size"
            )
        zeros = _Zeros(feature.shape[0], delivered.size[0])
        self._patch.put_functions("forward", ((unit, zeros.returning(shapes[unit])) for unit in units))
        self._patch.put_functions("forward", [(last, self._deliver(shapes[last], zeros))])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()
        self._feature = None

    def _deliver(self, recipe: Any, zeros: _Zeros) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            feature = self._feature
            if feature is None:
                raise ModelMismatch("partial call: the network ran twice in one context. Use one context for each call")
            if self._fresh:
                self._feature = None
                return _build(recipe, _once(feature, zeros.make))
            return _build(recipe, _once(feature.clone(), zeros.make))

        return forward


class dropping:
    """Context of one call that leaves units out: `with dropping(layout.named(["middle_block.1"])): unet(...)`.

    A residual block becomes its skip connection, an attention the identity (AutoDiffusion, arXiv 2309.10438).
    Enter it before `capturing` or `skipping`, so that they see what is left.

    Raises:
        ModelMismatch: on entry, a unit that cannot be dropped.
    """

    __slots__ = ("_patch", "_units")

    def __init__(self, units: Iterable[nn.Module]) -> None:
        self._units = tuple(units)
        self._patch = Attributes()

    def __enter__(self) -> None:
        self._patch.put_functions("forward", ((unit, _left(unit)) for unit in self._units))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()


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


class _Zeros:
    """Placeholders for a batch of `now` rows where the full call had `then`."""

    __slots__ = ("_made", "_now", "_then")

    def __init__(self, now: int, then: int) -> None:
        self._now, self._then = now, then
        self._made: dict[TensorShape, Tensor] = {}

    def make(self, shape: TensorShape) -> Tensor:
        made = self._made.get(shape)
        if made is None:
            size = shape.size
            if size and self._now != self._then:
                size = (size[0] * self._now // self._then, *size[1:])
            made = self._made[shape] = torch.zeros(size, dtype=shape.dtype, device=shape.device)
        return made

    def returning(self, recipe: Any) -> Callable[..., Any]:
        if isinstance(recipe, TensorShape):
            zeros = self.make(recipe)
            return lambda *args, **kwargs: zeros
        return lambda *args, **kwargs: _build(recipe, self.make)


def _clones(tensor: Tensor, parts: int) -> tuple[Tensor, ...]:
    tensor = tensor.detach()
    return (tensor.clone(),) if parts == 1 else tuple(part.clone() for part in tensor.chunk(parts))


def _once(first: Tensor, then: Callable[[TensorShape], Tensor]) -> Callable[[TensorShape], Tensor]:
    """Gives `first` for the first tensor of an output and placeholders for the others."""
    tensors = [first]
    return lambda shape: tensors.pop() if tensors else then(shape)


def _describe(output: Any) -> Any:
    if isinstance(output, Tensor):
        return TensorShape(tuple(output.shape), output.dtype, output.device)
    if isinstance(output, Mapping):
        return Record(type(output), tuple((name, _describe(item)) for name, item in output.items()))
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", (None,) * len(output))
        return Record(type(output), tuple((n, _describe(item)) for n, item in zip(names, output, strict=True)))
    return output


def _build(recipe: Any, make: Callable[[TensorShape], Tensor]) -> Any:
    if isinstance(recipe, TensorShape):
        return make(recipe)
    if isinstance(recipe, Record):
        items = [(name, _build(item, make)) for name, item in recipe.items]
        if items and items[0][0] is not None:
            return recipe.type(**{name: item for name, item in items if name is not None})
        return recipe.type(item for _, item in items)
    return recipe


def _first(recipe: Any) -> TensorShape | None:
    if isinstance(recipe, Record):
        return next((found for _, item in recipe.items if (found := _first(item)) is not None), None)
    return recipe if isinstance(recipe, TensorShape) else None


def _first_tensor(output: Any) -> Tensor:
    """The first tensor of an output that holds one. # (B, C, H, W)"""
    if isinstance(output, Tensor):
        return output
    items = output.values() if isinstance(output, Mapping) else output
    return next(_first_tensor(item) for item in items if _first(_describe(item)) is not None)
