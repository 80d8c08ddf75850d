"""The schedule that one number stands for, the speed-up, on the model and settings that are sampled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flexiffusion.auto import Chosen, Setting, choose
from flexiffusion.errors import FlexiffusionError
from flexiffusion.fingerprint import is_same_checkpoint
from flexiffusion.fit import model_info
from flexiffusion.host import why_not_cut
from flexiffusion.presets import Preset
from flexiffusion.schedule import Schedule, StepsPlan

from .network import Network

# of the levels that are run, whether the caller can run a schedule's own solver, and the network: the schedule
Chooser = Callable[[Sequence[float], bool, Network], Schedule]


def chosen(
    speedup: float,
    levels: Sequence[float],
    network: Network,
    presets: Iterable[Preset],
    own_solver: bool = True,
    **settings: Any,
) -> Chosen:
    """What `flexiffusion.auto` takes for a loaded network. settings: `sampler`, `cfg`, `size` of its `Setting`.

    Raises FlexiffusionError for a network that cannot be cut.
    """
    unet = network.unet
    if problem := why_not_cut(unet):
        raise FlexiffusionError(f"Auto: this model is not supported, the picture is made the plain way: {problem}")
    runnable = [preset for preset in presets if own_solver or not _has_solver(preset.schedule)]
    setting = Setting(levels, network.noise, **settings)
    return choose(speedup, setting, model_info(unet), runnable, functools.partial(is_same_checkpoint, unet))


def _has_solver(schedule: Schedule) -> bool:
    return isinstance(schedule.plan, StepsPlan) and schedule.plan.weights is not None
