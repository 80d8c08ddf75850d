"""What one processing object (the host's `p`) was asked to do, and what was run for it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from flexiffusion import codec
from flexiffusion.errors import FlexiffusionError
from flexiffusion.fit import misfit
from flexiffusion.host import SamplingReport
from flexiffusion.schedule import Schedule, SegmentsPlan

from . import automatic, infotext
from .automatic import Chooser
from .library import Library, listed
from .network import Network
from .sampling import Sampling
from .settings import AUTO, BY_LEVEL, BY_POSITION, OFF, SAME, Settings

ATTRIBUTE = "flexiffusion"
_log = logging.getLogger("flexiffusion")


class Generation:
    """The schedules of one generation. Kept on `p`, so that inner generations (ADetailer, X/Y/Z) have their own.

    Raises FlexiffusionError when a schedule cannot be found or read.
    """

    def __init__(
        self,
        p: Any,
        settings: Settings,
        library: Library,
        network: Callable[[], Network | None],
        progress: Callable[[int], None],
    ) -> None:
        self._p = p
        self._progress = progress
        self._settings = settings
        self._library = library
        self._network = network
        self._first = self._read(settings.schedule)
        self._second: Schedule | Chooser | None = self._first
        if settings.hires == OFF or not getattr(p, "enable_hr", False):
            self._second = None
        elif settings.hires != SAME:
            self._second = self._read(settings.hires)
        self._warned: set[str] = set()
        for schedule in (self._first, self._second):
            if isinstance(schedule, Schedule):
                _require_levels(schedule, settings)

    @property
    def name(self) -> str:
        """The first pass's schedule."""
        return self._first.name if isinstance(self._first, Schedule) else f"auto, {self._settings.speedup:g}x"

    def infotext(self) -> dict[str, str]:
        """What the pictures' text says before it is known what was run."""
        settings = self._settings
        hires = settings.hires
        if hires not in (SAME, OFF, AUTO):
            hires = self._named(hires, self._second)
        return infotext.written(settings, self._named(settings.schedule, self._first), hires)

    def attach(self) -> None:
        """Before every sampling: lays the pass's schedule over the sampler that `p` has now."""
        p = self._p
        is_hires = bool(getattr(p, "is_hr_pass", False))
        schedule = self._second if is_hires else self._first
        key = infotext.HIRES_RUN if is_hires else infotext.RUN
        if not is_hires:  # a batch begins, and the text of the one before is written
            for stale in (infotext.RUN, infotext.HIRES_RUN, infotext.NOTE):
                p.extra_generation_params.pop(stale, None)
        if schedule is None:
            return
        if isinstance(schedule, Schedule):
            self._warn_of_misfit(schedule, is_hires)
        Sampling(
            p.sampler,
            schedule,
            self._settings.placement,
            self._network,
            self._library.presets,
            self.warn,
            self._refuse,
            lambda report: self._finish(key, report),
            self._progress,
        ).attach()

    def _read(self, choice: str) -> Schedule | Chooser:
        return self._choose if choice == AUTO else self._library.schedule(choice)

    def _choose(self, levels: Sequence[float], own_solver: bool, network: Network) -> Schedule:
        p = self._p
        settings = {"sampler": plain_name(p.sampler.config.name), "cfg": p.cfg_scale}
        if not getattr(p, "is_hr_pass", False):
            settings["size"] = (p.width, p.height)
        chosen = automatic.chosen(
            self._settings.speedup, levels, network, self._library.presets, own_solver, **settings
        )
        if chosen.schedule is None:
            raise FlexiffusionError(chosen.said)
        print(f"[Flexiffusion] {chosen.said}")
        return chosen.schedule

    def _warn_of_misfit(self, schedule: Schedule, is_hires: bool) -> None:
        p, searched = self._p, schedule.provenance.kind == "searched"
        differs = misfit(
            schedule,
            sampler=plain_name(p.sampler.config.name),
            cfg=p.cfg_scale if searched else None,
            size=(p.width, p.height) if searched and not is_hires else None,
        )
        if differs:
            self.warn(differs)

    def warn(self, message: str) -> None:
        """Says it once, in the log and under the picture."""
        if message not in self._warned:
            self._warned.add(message)
            say(self._p, message)

    def _refuse(self, message: str) -> None:
        self.warn(message)
        note(self._p, message)

    def _finish(self, key: str, report: SamplingReport) -> None:
        self._p.extra_generation_params[key] = report.counts
        print(f"[Flexiffusion] {report.line}")

    def _named(self, choice: str, schedule: Schedule | Chooser | None) -> str:
        """What brings a schedule back from a picture: its name, or its whole text in one line."""
        if choice == AUTO:
            return AUTO
        if not isinstance(schedule, Schedule) or not self._library.is_text(choice):
            return listed(self._library.name_of(choice))
        return json.dumps(json.loads(codec.dumps(schedule)), separators=(",", ":"))


def say(p: Any, message: str) -> None:
    """A warning in the log and under the picture."""
    _log.warning("%s", message)
    comment = getattr(p, "comment", None)
    if comment is not None:
        comment(f"Flexiffusion: {message.removeprefix('Flexiffusion: ')}")


def note(p: Any, reason: str) -> None:
    """Tells in the picture's text, which API users get too, why the plain way was taken."""
    p.extra_generation_params[infotext.NOTE] = " ".join(reason.split())


def forget(p: Any) -> None:
    """Takes out what an earlier generation wrote: the X/Y/Z plot's cells begin with one dictionary for all of them."""
    p.extra_generation_params = {
        key: value for key, value in p.extra_generation_params.items() if key not in infotext.KEYS
    }


def override(settings: Settings, p: Any) -> Settings:
    """The settings with what an X/Y/Z cell put on `p`."""
    changes = getattr(p, f"{ATTRIBUTE}_axis", None)
    return replace(settings, **changes) if changes else settings


def _require_levels(schedule: Schedule, settings: Settings) -> None:
    if settings.mapping == BY_LEVEL and isinstance(schedule.plan, SegmentsPlan) and schedule.levels is None:
        raise FlexiffusionError(
            f'{schedule.name} does not say which noise levels it was made on, so it cannot be placed "{BY_LEVEL}". '
            f'Choose "{BY_POSITION}"'
        )


def plain_name(label: str) -> str:
    """A host's label of a sampler or scheduler as schedule files write it: "DPM++ 2S a" -> "dpmpp_2s_ancestral"."""
    name = re.sub(r"[^a-z0-9]+", "_", label.lower().replace("++", "pp").replace("unipc", "uni pc")).strip("_")
    return re.sub(r"_a$", "_ancestral", re.sub(r"^dpm(?=\d)", "dpm_", name))
