"""A schedule that is chosen when sampling starts, by the speed-up that is wanted: `flexiffusion.auto` on this host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..flexiffusion.auto import Chosen, Setting, choose
from ..flexiffusion.fingerprint import fingerprint_of, is_same_checkpoint
from ..flexiffusion.fit import model_info
from ..flexiffusion.presets import Preset

USUAL_STEPS = 30  # where a node takes the number of steps from its schedule


@dataclass(frozen=True, slots=True)
class Auto:
    """What stands for a schedule until sampling starts.

    presets: reads the schedules that there are; they may have changed since the node was executed
    """

    speedup: float
    presets: Callable[[], Iterable[Preset]] = tuple

    @property
    def name(self) -> str:
        return f"auto {self.speedup:g}x"

    def chosen(self, network: Any, setting: Setting, cut: bool) -> Chosen:
        """The schedule for this network and sampling; see `flexiffusion.auto.choose`.

        Raises:
            ScheduleError: a speed-up outside 1 to 4.
        """
        own = cache(lambda: fingerprint_of(network))  # read only where a schedule has one

        def recognises(known: Sequence[float]) -> bool:
            return is_same_checkpoint(network, known, own())

        return choose(self.speedup, setting, model_info(network), self.presets(), recognises, cut)
