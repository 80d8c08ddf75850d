"""States that trajectories share: what is known before a full step, kept under the steps that led there.

With a deterministic solver and common noise, two schedules that begin alike are alike until they part (docs/method.md
section 5): the later one goes on from where the earlier one stood. States are kept before full steps only, where a
cache of reused features ends and the most is saved for the least memory.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cache import Features
from ..plan import needed
from ..schedule import Action

Step = tuple[int, Action]  # place and what is done there
Key = tuple[Hashable, tuple[Step, ...], int]


@dataclass(frozen=True, eq=False)
class State:
    """All that the rest of a trajectory depends on."""

    latents: Tensor  # the solver's state (n, C, H, W)
    history: dict[str, Any]  # what a solver with memory remembers
    features: tuple[Features, ...]  # of each batch

    def storages(self) -> Iterator[torch.UntypedStorage]:
        """The memory that it holds on to: a tensor may be a part of a larger one."""
        features = (tensor for batch in self.features for tensor in batch.tensors())
        for tensor in (self.latents, *_tensors(list(self.history.values())), *features):
            yield tensor.untyped_storage()


class Prefixes:
    """States by prefix, of at most `limit` bytes; the ones that were not used for the longest time go first.

    The steps before a state, and the place that it is at (a solver's last step aimed there), are its key, together
    with the batch that it belongs to. States of one trajectory share features, which are counted once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._states: OrderedDict[Key, State] = OrderedDict()
        self._holders: Counter[int] = Counter()  # of each storage, by its address

    def __len__(self) -> int:
        return len(self._states)

    def find(self, batch: Hashable, steps: Sequence[Step]) -> tuple[int, State | None]:
        """The longest known prefix of `steps`: how many steps it has, and the state after them; (0, None) without one.

        A state that lacks a feature which later steps read is passed over.
        """
        reads = needed([action for _, action in steps])
        for index in range(len(steps) - 1, 0, -1):
            key = (batch, tuple(steps[:index]), steps[index][0])
            state = self._states.get(key)
            if state is not None and all(reads[index] <= features.known for features in state.features):
                self._states.move_to_end(key)
                return index, state
        return 0, None

    def keep(self, batch: Hashable, steps: Sequence[Step], place: int, state: State) -> None:
        """Remember the state at `place` after `steps`."""
        key = (batch, tuple(steps), place)
        self._drop(key)
        self._states[key] = state
        for storage in state.storages():
            if not self._holders[storage.data_ptr()]:
                self.bytes += storage.nbytes()
            self._holders[storage.data_ptr()] += 1
        while self.bytes > self.limit and self._states:
            self._drop(next(iter(self._states)))

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()
        self._holders.clear()
        self.bytes = 0

    def _drop(self, key: Key) -> None:
        state = self._states.pop(key, None)
        for storage in state.storages() if state is not None else ():
            self._holders[storage.data_ptr()] -= 1
            if not self._holders[storage.data_ptr()]:
                del self._holders[storage.data_ptr()]
                self.bytes -= storage.nbytes()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
