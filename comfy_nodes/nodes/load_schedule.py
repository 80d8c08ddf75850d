"""Flexiffusion Load Schedule: a schedule from a file of the host's folders, or from text in the workflow itself."""

from __future__ import annotations

import hashlib
import logging
import math
from json import loads
from typing import Any

from comfy_api.latest import io

from ...flexiffusion.codec import dumps
from ...flexiffusion.errors import ScheduleError
from ...flexiffusion.schedule import Schedule
from .. import folders
from ..inline import AUTO, chosen
from .common import SCHEDULE, schema, speedup_input

_log = logging.getLogger("flexiffusion")
EMBEDDED = "flexiffusion"  # the entry of a picture's metadata that holds a schedule


class LoadSchedule(io.ComfyNode):
    """Text wins over the file, so that a workflow with its schedule inside runs on any machine."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["flexiffusion", "deepcache", "speed up", "faster sampling", "schedule preset"],
            node_id="FlexiffusionLoadSchedule",
            display_name="Flexiffusion Load Schedule",
            category="loaders",
            description="Loads a schedule: which sampling steps run in full, in part or not at all. The strip shows "
            "them.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[AUTO, *folders.names()],
                    tooltip="auto: a schedule is chosen when sampling starts, for the speed-up below. Or a bundled "
                    "schedule, or a file of yours in models/flexiffusion (press R after adding one).",
                ),
                io.String.Input(
                    "json",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="The text of a schedule file. If given, it is used instead of the preset, and the workflow "
                    "carries its schedule along.",
                ),
                speedup_input(optional=True),
                io.Boolean.Input(
                    "embed",
                    default=False,
                    optional=True,
                    tooltip="Write the schedule's text into saved pictures: whoever has a picture can take the "
                    "schedule out of it (flexsearch presets add PICTURE.png).",
                ),
            ],
            hidden=[io.Hidden.extra_pnginfo],
            outputs=[
                SCHEDULE.Output(
                    "schedule", display_name="schedule", tooltip="The schedule, for the other Flexiffusion nodes."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, preset: str | None = None) -> bool:
        """Turns the host's own check of `preset` off, which refuses a missing file although the text is there.

        What is wrong with either is said by `execute`, once: an answer from here is repeated for every input.
        """
        return True

    @classmethod
    def fingerprint_inputs(
        cls, preset: str | None = None, json: str | None = "", speedup: float = 2.0, embed: bool = False
    ) -> str | float:
        """The file may change behind its name. (None: from another node, whose own change is what counts.)

        What is embedded is embedded by every run's own `execute`: then no two runs are the same.
        """
        if embed:
            return math.nan
        if json and json.strip():
            return hashlib.sha256(json.encode()).hexdigest()
        if not preset or preset == AUTO:
            return ""
        try:
            return hashlib.sha256(folders.path_of(preset).read_bytes()).hexdigest()
        except (ScheduleError, OSError):
            return ""  # `execute` says what is wrong

    @classmethod
    def execute(cls, preset: str, json: str = "", speedup: float = 2.0, embed: bool = False) -> Any:
        schedule = chosen(preset, json, speedup)
        saved = getattr(getattr(cls, "hidden", None), "extra_pnginfo", None)
        if embed:
            if not isinstance(schedule, Schedule):
                _log.warning("embed: what %s chooses is known when sampling starts: nothing is embedded", preset)
            elif isinstance(saved, dict):
                # the host writes every entry as JSON into the pictures of this run, under the entry's name
                saved[EMBEDDED] = loads(dumps(schedule))
        return io.NodeOutput(schedule)
