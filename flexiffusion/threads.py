"""Which thread a change to a network belongs to: hosts call networks from several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch


def this_thread() -> Callable[[], bool]:
    """A function that says whether it is called on the thread that `this_thread` was called on.

    What torch.compile traces cannot ask for its thread; there the answer is yes.
    """
    ident = threading.get_ident()
    return lambda: torch.compiler.is_compiling() or threading.get_ident() == ident
