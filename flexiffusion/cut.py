"""The one mechanism: a full call captures deep features, a partial call passes the deep units by.

The host's own forward runs in both. For the time of one call the `forward` of deep units is an instance attribute; what
stood there before (nothing, or the wrapper of another extension) is put back when the block is left, whatever happens,
and what another extension has put there meanwhile stays (`attributes`).
The functions act on the thread that entered the block; whoever calls the same network from another one meanwhile
gets it as it is.
Because the host's loop still runs, its skips, ControlNet residuals and block counters stay aligned by themselves.

Features are cloned when captured and when handed out: FreeU, ControlNet and the blocks of Flux write into hidden states
in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from .attributes import Attributes
from .errors import ModelMismatch
from .feature import Feature, joined
from .layouts import Layout
from .outputs import Shapes, aligned, build, describe, input_sizes, order_of, same_sizes, tensors, zeros
from .threads import this_thread


@dataclass(slots=True, eq=False)
class Capture:
    """What one full call left behind.

    Attributes:
        slices: for each asked branch the feature as equal slices of the batch, clones.
        shapes: what every unit returned that the lowest asked branch skips.
        problem: why a feature is missing, if one is.
        called: whether any unit that was watched was called at all: hosts have other nodes that leave out whole calls.
    """

    slices: dict[int, tuple[Feature, ...]] = field(default_factory=dict)
    shapes: Shapes = field(default_factory=Shapes)
    problem: str | None = None
    called: bool = False

    @property
    def features(self) -> dict[int, Feature]:
        """The whole feature of each branch."""
        return {branch: joined(slices) for branch, slices in self.slices.items()}


class capturing:
    """Context of one full call: `with capturing(layout, {1}) as capture: unet(...)`, then `capture.slices[1]`.

    Args:
        layout: of the network that is called.
        branches: whose features to keep; only these are cloned. Empty: the network is not touched at all.
        parts: number of equal slices of the batch (conditioning chunks), cloned apart so that each can be freed alone.
        rows: of the batch, by which the dimension that counts them is told; None: it is the first of every tensor.

    Raises:
        ModelMismatch: on entry, a branch that the network has not. Trouble in the call itself never raises: it
            leaves the feature out and says why in `capture.problem`.
    """

    __slots__ = ("_bases", "_branches", "_layout", "_parts", "_patch", "_previous", "_rows", "capture")

    def __init__(self, layout: Layout, branches: Iterable[int], parts: int = 1, rows: int | None = None) -> None:
        self._layout = layout
        self._branches = frozenset(branches)
        self._parts = parts
        self._rows = rows
        self._patch = Attributes(this_thread())
        self._bases: dict[nn.Module, list[Tensor]] = {}
        self._previous: list[Tensor] = []  # what the unit before returned, where the order of streams is to be told
        self.capture = Capture()

    def __enter__(self) -> Capture:
        if self._branches:
            bases = {self._layout.base(branch) for branch in self._branches} - {None}
            delivers: dict[nn.Module, list[int]] = {}
            for branch in sorted(self._branches):
                delivers.setdefault(self._layout.deep(branch)[-1], []).append(branch)
            deep = self._layout.deep(min(self._branches))
            units = [*(unit for unit in self._layout.units if unit in bases and unit not in deep), *deep]
            self._patch.put_functions(
                "forward",
                ((unit, self._watch(unit, unit.forward, delivers.get(unit, []), unit in bases)) for unit in units),
            )
        return self.capture

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()
        self._bases.clear()
        self._previous = []
        capture = self.capture
        if kind is not None:
            # the traceback keeps this frame alive for as long as somebody keeps the exception
            capture.slices.clear()
            capture.shapes.clear()
            return
        missing = self._branches - capture.slices.keys()
        if missing and capture.problem is None:
            capture.problem = "the part of the network that partial steps pass by did not run (something replaces it?)"

    def _watch(
        self, unit: nn.Module, original: Callable[..., Any], branches: list[int], is_base: bool
    ) -> Callable[..., Any]:
        shapes = self.capture.shapes

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.capture.called = True
            # sizes are read before the call: blocks write into their arguments
            shapes.inputs[unit] = input_sizes(args, kwargs)
            if shapes.order is None and len(self._previous) == 2:
                shapes.order = order_of(self._previous, args, kwargs)
            self._previous = []
            output = original(*args, **kwargs)
            seen = unit in shapes.outputs
            shapes.outputs[unit] = describe(output, self._rows)
            for branch in branches:
                self._keep(unit, branch, output, seen)
            if is_base:
                self._bases[unit] = [tensor.detach().clone() for tensor in tensors(output)]
            if self._bases:
                self._previous = list(tensors(output))
            return output

        return forward

    def _keep(self, unit: nn.Module, branch: int, output: Any, seen: bool) -> None:
        capture, recipe = self.capture, self.capture.shapes.outputs[unit]
        streams = list(tensors(output))
        batch = tuple(shape.batch for shape in tensors(recipe))
        if seen:
            capture.slices.pop(branch, None)
            capture.problem = f"the unit that delivers branch {branch} was called more than once in one call"
            return
        if not streams:
            capture.problem = f"a {type(unit).__name__} returned no tensor but a {type(output).__name__}"
            return
        if None in batch:
            capture.problem = f"a {type(unit).__name__} returned a tensor without the {self._rows} rows of the batch"
            return
        base = self._layout.base(branch)
        if base is not None:
            below = None
            if base in self._bases:
                returned = capture.shapes.outputs[base], self._bases[base]
                below = aligned(returned, recipe, capture.shapes.order)
            if below is None:
                capture.problem = f"what enters branch {branch} cannot be compared with what leaves the last block"
                return
            streams = [stream - before for stream, before in zip(streams, below, strict=True)]
        feature = Feature(tuple(streams), tuple(dimension for dimension in batch if dimension is not None))
        try:
            capture.slices[branch] = feature.parts(self._parts)
        except ValueError as error:
            capture.problem = f"a feature whose {error}"


class noticing:
    """Context of one call that is to run as it is: `with noticing(layout) as noticed: unet(...)`, then `noticed.called`
    says whether the network ran at all."""

    __slots__ = ("_layout", "_patch", "called")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._patch = Attributes(this_thread())
        self.called = False

    def __enter__(self) -> noticing:
        unit = self._layout.units[0]
        self._patch.put_function(unit, "forward", self._watch(unit.forward))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()

    def _watch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.called = True
            return original(*args, **kwargs)

        return forward


class skipping:
    """Context of one partial call: `with skipping(layout, 1, feature, capture.shapes): unet(...)`.

    Units deeper than the branch return zeros of the remembered shape; the last of them returns the feature (added to
    what the branch's base returned, where it has one). The zeros are real memory (hosts add to them in place), one
    tensor for each distinct shape, freed after the call. A unit whose shape is not known is left alone: hosts leave out
    blocks of their own accord (skip-layer guidance).

    Where the call turns out to be of another size than the remembered one (a longer prompt), or left out the block that
    the feature is added to, all units run as they are and `problem` says so; where the last unit was never called,
    `delivered` is False and what the network returned is worthless, unless the host left the whole call out: then no
    unit was `called`.

    Args:
        layout: of the network that is called.
        branch: -1 <= branch < layout.branches.
        feature: what the deep part is taken to deliver; its batch may differ from that of the full call.
        shapes: from a full call on inputs of the same size whose capture asked for this branch or a lower one.
        fresh: the caller needs the feature no more: it is handed out itself instead of a clone.

    Raises:
        ModelMismatch: on entry, a branch that the network has not, or shapes that do not fit to it or to the feature.
    """

    __slots__ = (
        "_base",
        "_below",
        "_branch",
        "_checked",
        "_feature",
        "_fresh",
        "_layout",
        "_patch",
        "_shapes",
        "called",
        "delivered",
        "problem",
    )

    def __init__(self, layout: Layout, branch: int, feature: Feature, shapes: Shapes, fresh: bool = False) -> None:
        self._layout = layout
        self._branch = branch
        self._feature: Feature | None = feature
        self._shapes = shapes
        self._fresh = fresh
        self._patch = Attributes(this_thread())
        self._base: list[Tensor] | None = None  # clones of what the branch's base returned
        self._below: list[Tensor] | None = None  # the same, as the streams of the feature
        self._checked = False
        self.called = False
        self.delivered = False
        self.problem: str | None = None

    def __enter__(self) -> skipping:
        *others, last = self._layout.deep(self._branch)
        known, feature = self._shapes.outputs, self._feature
        if feature is None:
            raise ModelMismatch("partial call: its context was used before. Make one context for each call")
        delivered = list(tensors(known.get(last)))
        if not delivered:
            raise ModelMismatch(
                f"branch {self._branch}: the unit that delivers it has no remembered shape. "
                f"Capture this branch (or a lower one) in a full call of the same network first"
            )
        if tuple(shape.row for shape in delivered) != feature.shapes:
            raise ModelMismatch(
                f"branch {self._branch}: feature of shape {feature.shapes} where the full call had "
                f"{tuple(shape.row for shape in delivered)}, each without its batch. Capture again at this size"
            )
        make = zeros(feature.rows, delivered[0].rows)
        patches = [
            (unit, self._instead(unit, unit.forward, functools.partial(build, known[unit], make)))
            for unit in others
            if unit in known
        ]
        patches.append((last, self._instead(last, last.forward, self._deliver)))
        if (base := self._layout.base(self._branch)) is not None:
            patches.append((base, self._remember(base.forward)))
        self._patch.put_functions("forward", patches)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()
        self._feature = self._base = self._below = None

    def _instead(
        self, unit: nn.Module, original: Callable[..., Any], function: Callable[[], Any]
    ) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.called = True
            # asked once, before anything is skipped: from here on the call is partial, or it is full
            if not self._checked:
                self._checked = True
                self.problem = self._unfit(unit, args, kwargs)
            return original(*args, **kwargs) if self.problem is not None else function()

        return forward

    def _unfit(self, unit: nn.Module, args: Any, kwargs: Any) -> str | None:
        """Why this call cannot be partial, seen from the first skipped unit that it calls; None: it can."""
        feature, shapes = self._feature, self._shapes
        if feature is None:
            return None
        recipe = shapes.outputs[self._layout.deep(self._branch)[-1]]
        rows = next(tensors(recipe)).rows, feature.rows
        inputs = shapes.inputs.get(unit)
        if inputs is not None and not same_sizes(inputs, input_sizes(args, kwargs), *rows):
            return "the call has other sizes inside (a longer prompt?) than the one that is remembered"
        base = self._layout.base(self._branch)
        if base is None:
            return None
        if self._base is None:
            return "the call left out the block that the feature is added to (skip-layer guidance?)"
        then = tuple((place, shape.size) for place, shape in enumerate(tensors(shapes.outputs.get(base))))
        if same_sizes(then, input_sizes(self._base, {}), *rows):
            self._below = aligned((shapes.outputs[base], self._base), recipe, shapes.order)
        if self._below is None:
            return "the block that the feature is added to returned something else than it did in the full call"
        return None

    def _remember(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.called = True
            output = original(*args, **kwargs)
            self._base = [tensor.clone() for tensor in tensors(output)]
            return output

        return forward

    def _deliver(self) -> Any:
        feature, last = self._feature, self._layout.deep(self._branch)[-1]
        if feature is None:
            raise ModelMismatch("partial call: the network ran twice in one context. Use one context for each call")
        self.delivered = True
        recipe = self._shapes.outputs[last]
        streams = feature.streams if self._fresh else feature.map(Tensor.clone).streams
        if self._fresh:
            self._feature = None
        if self._below is not None:
            streams = tuple(stream.add_(before) for stream, before in zip(streams, self._below, strict=True))
        given = iter(streams)
        return build(recipe, lambda shape: next(given))
