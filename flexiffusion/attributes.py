"""Attributes of other people's objects that are set for a time, and the one way in which they are taken away again.

A function that is put in place of a method passes every call on to what stood there before, once it was taken away. So
a wrapper that somebody has put around it meanwhile can stay: it is theirs to remove, and it still works. It can also be
put there for one thread alone; others pass it by. Threads may put and undo theirs in any order: nothing is left.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

_ABSENT = object()
_GATE = "_flexiffusion_gate"
_changing = threading.RLock()  # of anybody's attributes: what stands in a place is read and replaced in one go


class Attributes:
    """Instance attributes that were set here, undone together. Use `undo` in a `finally`.

    They go into the object's dictionary, past its `__setattr__`: a compiled module hands attributes on to the module
    that it wraps.

    acts: asked at every call of a function that was put; where it says no, what stood there before runs. None: always
    """

    __slots__ = ("_acts", "_saved")

    def __init__(self, acts: Callable[[], bool] | None = None) -> None:
        self._acts = acts
        self._saved: list[tuple[Any, str, Any, Any]] = []

    def put(self, target: Any, name: str, value: Any) -> None:
        """Sets an attribute to a value that is no function."""
        with _changing:
            self._saved.append((target, name, value, vars(target).get(name, _ABSENT)))
            vars(target)[name] = value

    def put_function(self, target: Any, name: str, function: Callable[..., Any]) -> None:
        """Sets a method to `function` until `undo`; whoever still calls it then gets what `target` had before."""
        with _changing:
            before = _without_closed_gates(vars(target).get(name, _ABSENT))
            _restore(target, name, before)
            gate = _Gate(function, getattr(target, name), before, self._acts)
            passage = gate.passage()
            self._saved.append((target, name, passage, before))
            vars(target)[name] = passage

    def put_functions(self, name: str, functions: Iterable[tuple[Any, Callable[..., Any]]]) -> None:
        """The same method of many objects: all of them, or none where making or setting one raises."""
        try:
            for target, function in functions:
                self.put_function(target, name, function)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Puts back what stood there before, last one first; an attribute that somebody has set since is left alone."""
        with _changing:
            while self._saved:
                target, name, value, before = self._saved.pop()
                gate = _gate_of(value)
                if gate is not None:
                    gate.function = None
                if vars(target).get(name, _ABSENT) is value:
                    _restore(target, name, _without_closed_gates(before))


class _Gate:
    """A function in place of another. Open, it is called; closed (`function` is None), the original is."""

    __slots__ = ("_passage", "acts", "before", "function", "original")

    def __init__(
        self,
        function: Callable[..., Any],
        original: Callable[..., Any],
        before: Any,
        acts: Callable[[], bool] | None = None,
    ) -> None:
        self.acts = acts
        self.function: Callable[..., Any] | None = function
        self.original = original
        self.before = before
        self._passage: Callable[[], Any] = lambda: None

    def passage(self) -> Callable[..., Any]:
        """The function to set. It has the name and attributes of `function`, and the signature of the original."""

        def passage(*args: Any, **kwargs: Any) -> Any:
            function = self.function
            if function is None or (self.acts is not None and not self.acts()):
                function = self.original
            return function(*args, **kwargs)

        functools.update_wrapper(passage, self.function or self.original)
        vars(passage).update({"__wrapped__": self.original, _GATE: self})
        self._passage = weakref.ref(passage)
        return passage

    def is_gate_of(self, value: Any) -> bool:
        """Whether `value` is the passage itself: a wrapper made by functools.wraps copies the mark."""
        return self._passage() is value


def _gate_of(value: Any) -> _Gate | None:
    gate = getattr(value, "__dict__", {}).get(_GATE)
    return gate if isinstance(gate, _Gate) and gate.is_gate_of(value) else None


def _without_closed_gates(value: Any) -> Any:
    """What stood in a place before functions of ours that are undone already, and were left in it by a foreign undo."""
    gate = _gate_of(value)
    while gate is not None and gate.function is None:
        value = gate.before
        gate = _gate_of(value)
    return value


def _restore(target: Any, name: str, before: Any) -> None:
    if before is _ABSENT:
        vars(target).pop(name, None)
    else:
        vars(target)[name] = before
