"""Attributes set for a time: everything is put back, and what others put there meanwhile stays and works (rule 6)."""

from __future__ import annotations

import functools
import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from flexiffusion.attributes import Attributes


class Thing:
    def forward(self, x: int) -> list[str]:
        return [f"thing {x}"]


def saying(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: [name, *original(x)]


def on(name: str, thing: Thing) -> Attributes:
    attributes = Attributes()
    attributes.put_function(thing, "forward", saying(name, thing.forward))
    return attributes


def test_what_stood_there_before_is_put_back() -> None:
    thing = Thing()
    attributes = on("a", thing)
    assert thing.forward(1) == ["a", "thing 1"]
    attributes.undo()
    attributes.undo()
    assert thing.forward(1) == ["thing 1"] and vars(thing) == {}
    thing.forward = wrapper = saying("own", thing.forward)  # type: ignore[method-assign]
    on("a", thing).undo()
    assert thing.forward is wrapper


def test_a_wrapper_put_over_ours_survives_and_calls_the_original() -> None:
    """Fault t7: the cut's own undo threw it away."""
    thing = Thing()
    attributes = on("a", thing)
    thing.forward = foreign = functools.wraps(thing.forward)(saying("b", thing.forward))  # type: ignore[method-assign]
    assert thing.forward(1) == ["b", "a", "thing 1"]
    attributes.undo()
    assert thing.forward is foreign and thing.forward(1) == ["b", "thing 1"]
    # and once more, over the foreign one
    again = on("c", thing)
    assert thing.forward(1) == ["c", "b", "thing 1"]
    again.undo()
    assert thing.forward is foreign


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_on_b_on_then_off_in_either_order(order: str) -> None:
    thing = Thing()
    both = {"a": on("a", thing)}
    both["b"] = on("b", thing)
    assert thing.forward(1) == ["b", "a", "thing 1"]
    both[order[0]].undo()
    assert thing.forward(1) == [order[1], "thing 1"]
    both[order[1]].undo()
    assert thing.forward(1) == ["thing 1"] and vars(thing) == {}


def test_a_foreign_undo_that_puts_ours_back_leaves_no_trace_in_the_next_use() -> None:
    thing = Thing()
    a = on("a", thing)
    ours = thing.forward
    thing.forward = saying("b", ours)  # type: ignore[method-assign]
    a.undo()
    thing.forward = ours  # type: ignore[method-assign]
    assert thing.forward(1) == ["thing 1"]
    c = on("c", thing)
    assert thing.forward(1) == ["c", "thing 1"]
    c.undo()
    assert vars(thing) == {}


def test_twice_applied_by_one_is_undone_wholly() -> None:
    thing = Thing()
    attributes = on("a", thing)
    attributes.put_function(thing, "forward", saying("again", thing.forward))
    assert thing.forward(1) == ["again", "a", "thing 1"]
    attributes.undo()
    assert vars(thing) == {}


def test_all_or_none() -> None:
    first, second = Thing(), Thing()

    def functions() -> Any:
        yield first, saying("a", first.forward)
        yield second, saying("a", second.forward)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Attributes().put_functions("forward", functions())
    assert vars(first) == vars(second) == {}


def test_values_are_put_back_unless_somebody_has_set_them_since() -> None:
    thing = Thing()
    thing.kept = 1  # type: ignore[attr-defined]
    attributes = Attributes()
    for name in ("kept", "new", "changed"):
        attributes.put(thing, name, 2)
    thing.changed = 3  # type: ignore[attr-defined]
    attributes.undo()
    assert vars(thing) == {"kept": 1, "changed": 3}


def test_hosts_see_the_name_and_signature_of_what_was_there() -> None:
    thing = Thing()
    on("a", thing)
    assert list(inspect.signature(thing.forward).parameters) == ["x"]


def test_what_is_undone_holds_nothing_even_where_a_wrapper_keeps_it() -> None:
    class Feature:
        pass

    thing, feature = Thing(), Feature()
    alive = weakref.ref(feature)
    attributes = Attributes()
    attributes.put_function(thing, "forward", lambda x, held=feature: [str(held)])
    thing.forward = saying("b", thing.forward)  # type: ignore[method-assign]
    del feature
    attributes.undo()
    gc.collect()
    assert alive() is None and thing.forward(1) == ["b", "thing 1"]
