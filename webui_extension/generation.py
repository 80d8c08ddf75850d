"""What one processing object (the host's `p`) was asked to do, and what was run for it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flexiffusion import codec
from flexiffusion.fit import misfit
from flexiffusion.host import SamplingReport
from flexiffusion.schedule import Schedule

from . import infotext
from .library import Library
from .network import Network
from .sampling import Sampling
from .settings import OFF, SAME, Settings

ATTRIBUTE = "flexiffusion"
_log = logging.getLogger("flexiffusion")


class Generation:
    """The schedules of one generation. Kept on `p`, so that inner generations (ADetailer, X/Y/Z) have their own.

    Raises FlexiffusionError when a schedule cannot be found or read.
    """

    def __init__(self, p: Any, settings: Settings, library: Library, network: Callable[[], Network | None]) -> None:
        self._p = p
        self._settings = settings
        self._library = library
        self._network = network
        self._first = library.schedule(settings.schedule)
        self._second: Schedule | None = self._first
        if settings.hires == OFF or not getattr(p, "enable_hr", False):
            self._second = None
        elif settings.hires != SAME:
            self._second = library.schedule(settings.hires)
        self._reports: dict[str, SamplingReport] = {}
        self._warned: set[str] = set()

    @property
    def seconds(self) -> float:
        """Sampling time of the last batch, both passes."""
        return sum(report.report.seconds for report in self._reports.values())

    @property
    def name(self) -> str:
        """The first pass's schedule."""
        return self._first.name

    def infotext(self) -> dict[str, Any]:
        """What the pictures' text says; what was run is known only when it is asked for, after sampling."""
        settings = self._settings
        hires = settings.hires
        if hires not in (SAME, OFF):
            hires = self._named(hires, self._second)
        keys = infotext.written(settings, self._named(settings.schedule, self._first), hires)
        for key in (infotext.RUN, infotext.HIRES_RUN):
            keys[key] = lambda key=key, **_: self._reports[key].counts if key in self._reports else None
        return keys

    def attach(self) -> None:
        """Before every sampling: lays the pass's schedule over the sampler that `p` has now."""
        p = self._p
        is_hires = bool(getattr(p, "is_hr_pass", False))
        schedule = self._second if is_hires else self._first
        key = infotext.HIRES_RUN if is_hires else infotext.RUN
        if not is_hires:
            self._reports.clear()
        if schedule is None:
            return
        differs = misfit(
            schedule,
            sampler=plain_name(p.sampler.config.name),
            cfg=p.cfg_scale if schedule.provenance.kind == "searched" else None,
            size=(p.width, p.height) if schedule.provenance.kind == "searched" and not is_hires else None,
        )
        if differs:
            self.warn(differs)
        Sampling(
            p.sampler,
            schedule,
            self._settings.placement,
            self._network,
            self._library.presets,
            self.warn,
            lambda report: self._finish(key, report),
        ).attach()

    def warn(self, message: str) -> None:
        """Says it once, in the log and under the picture."""
        if message not in self._warned:
            self._warned.add(message)
            say(self._p, message)

    def _finish(self, key: str, report: SamplingReport) -> None:
        self._reports[key] = report
        print(f"[Flexiffusion] {report.line}")

    def _named(self, choice: str, schedule: Schedule | None) -> str:
        """What brings a schedule back from a picture: its name, or its whole text in one line."""
        if schedule is None or not choice.startswith("{"):
            return self._library.name_of(choice)
        return json.dumps(json.loads(codec.dumps(schedule)), separators=(",", ":"))


def say(p: Any, message: str) -> None:
    """A warning in the log and under the picture."""
    _log.warning("%s", message)
    comment = getattr(p, "comment", None)
    if comment is not None:
        comment(f"Flexiffusion: {message.removeprefix('Flexiffusion: ')}")


def override(settings: Settings, p: Any) -> Settings:
    """The settings with what an X/Y/Z cell put on `p`."""
    changes = getattr(p, f"{ATTRIBUTE}_axis", None)
    return replace(settings, **changes) if changes else settings


def plain_name(label: str) -> str:
    """A host's label of a sampler or scheduler as schedule files write it: "DPM++ 2S a" -> "dpmpp_2s_ancestral"."""
    name = re.sub(r"[^a-z0-9]+", "_", label.lower().replace("++", "pp").replace("unipc", "uni pc")).strip("_")
    return re.sub(r"_a$", "_ancestral", re.sub(r"^dpm(?=\d)", "dpm_", name))
