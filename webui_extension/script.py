"""The always visible script: the host's callbacks, each a few lines."""

from __future__ import annotations

import functools
import weakref
from typing import Any

from modules import scripts

from flexiffusion.errors import FlexiffusionError

from . import compare, host, infotext, ui
from .generation import ATTRIBUTE, Generation, forget, note, override, say
from .search import Search
from .settings import ARGUMENTS, Settings, settings_of

# of AUTOMATIC1111 since 1.10; without it this script would be there and do nothing
CALLBACK = "process_before_every_sampling"


def why_not_here() -> str | None:
    """Why this host cannot run schedules; None: it can."""
    if hasattr(scripts.Script, CALLBACK):
        return None
    return (
        f"This program is too old, or of another kind: it lacks the callback {CALLBACK}, so every picture is made the "
        "plain way. Use AUTOMATIC1111 1.10 or later, Forge, Forge Neo or reForge"
    )


_instances: list[weakref.ref[FlexiffusionScript]] = []  # one for each tab


def follow_checkpoint(component: Any, elem_id: str | None) -> None:
    """The host has made a control: its list of checkpoints, which Forge gives no id, is followed in every tab."""
    if elem_id == "setting_sd_model_checkpoint" or (
        elem_id is None and getattr(component, "label", None) == "Checkpoint"
    ):
        for reference in _instances:
            if script := reference():
                script.follow(component)


class FlexiffusionScript(scripts.Script):
    """One instance for each tab. What belongs to a generation is kept on `p`, never here."""

    def __init__(self) -> None:
        super().__init__()
        self._controls: ui.Controls | None = None
        self._hosts: dict[str, Any] = {}
        self._connected: list[Any] = []
        _instances.append(weakref.ref(self))

    def title(self) -> str:
        return ui.TITLE

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        controls = ui.build(self.elem_id, is_img2img, why_not_here())
        if self._controls is None:  # later ones are made for the API's defaults alone, and are never seen
            self._controls = controls
        self.infotext_fields = [
            (component, functools.partial(infotext.read, field=field))
            for component, field in zip(controls.arguments, ARGUMENTS, strict=True)
        ]
        self.paste_field_names = [
            infotext.SCHEDULE, infotext.HIRES, infotext.MAPPING, infotext.COMPARE, infotext.SPEEDUP,
        ]  # fmt: skip
        self._connect()
        return controls.arguments

    def after_component(self, component: Any, **kwargs: Any) -> None:
        """Notes the host's own controls as they are made, in whatever order the user has put the sections."""
        tab = "img2img" if self.is_img2img else "txt2img"
        name = str(kwargs.get("elem_id")).removeprefix(f"{tab}_")
        if f"{tab}_{name}" == kwargs.get("elem_id") and name in (*ui.SCREEN[tab], *ui.BUTTON):
            self._hosts[name] = component
            self._connect()
        if kwargs.get("elem_id") == f"html_log_{tab}":
            self._hosts["log"] = component
            self._connect()

    def follow(self, checkpoint: Any) -> None:
        """The host has made its list of checkpoints."""
        self._hosts["checkpoint"] = checkpoint
        self._connect()

    def before_process(self, p: Any, *arguments: Any) -> None:
        settings = self._settings(p, arguments)
        if settings is not None and settings.search:
            # one picture, of one network and one pass: what is judged is the sampling itself
            p.batch_size, p.n_iter, p.enable_hr, p.refiner_checkpoint = 1, 1, False, None
            return
        # ADetailer's inner pictures are parts of one: nothing to compare
        wanted = settings is not None and settings.compare and why_not_here() is None
        if wanted and not getattr(p, "_ad_inner", False):
            compare.make_plain(p, self._without(p))

    def process(self, p: Any, *arguments: Any) -> None:
        setattr(p, ATTRIBUTE, None)
        forget(p)
        settings = self._settings(p, arguments)
        if settings is None:
            return
        try:
            if unable := why_not_here():
                raise FlexiffusionError(f"Flexiffusion: {unable}")
            if settings.search:
                setattr(p, ATTRIBUTE, Search(p, settings, host.surroundings))
                return
            generation = Generation(p, settings, host.library, host.network, host.progress)
        except FlexiffusionError as error:
            say(p, str(error))
            note(p, str(error))
            return
        setattr(p, ATTRIBUTE, generation)
        p.extra_generation_params.update(generation.infotext())

    def process_before_every_sampling(self, p: Any, *arguments: Any, **kwargs: Any) -> None:
        generation = getattr(p, ATTRIBUTE, None)
        if generation is not None:
            generation.attach()

    def postprocess_batch(self, p: Any, *arguments: Any, **kwargs: Any) -> None:
        compare.note_stop(p)

    def postprocess(self, p: Any, processed: Any, *arguments: Any) -> None:
        generation = getattr(p, ATTRIBUTE, None)
        if isinstance(generation, Search):
            if generation.result is not None:
                compare.add_found(processed, generation.result)
        elif generation is not None:
            compare.add_plain(p, processed, generation.name)

    def _settings(self, p: Any, arguments: tuple[Any, ...]) -> Settings | None:
        """The settings in force; None: the script is off, or was given arguments that it cannot read."""
        try:
            settings = override(settings_of(arguments), p)
        except FlexiffusionError as error:
            say(p, str(error))
            note(p, str(error))
            return None
        return settings if settings.enabled else None

    def _without(self, p: Any) -> list[Any]:
        """The script arguments of `p` with this script off."""
        arguments = list(p.script_args)
        arguments[self.args_from] = False
        return arguments

    def _connect(self) -> None:
        """Connects what is there by now, each thing once: the host makes its controls in an order of its own."""
        if self._controls is None:
            return
        for name in ui.BUTTON:
            if name in self._hosts and self._is_first(name):
                ui.connect_button(self._controls, name, self._hosts[name])
        names = ui.SCREEN["img2img" if self.is_img2img else "txt2img"]
        if not all(name in self._hosts for name in names):
            return
        screen = [self._hosts[name] for name in names]
        if self._is_first("screen"):
            ui.connect_screen(self._controls, names, screen)
        if "log" in self._hosts and self._is_first("log"):
            ui.connect_end(self._controls, names, screen, self._hosts["log"])
        if "checkpoint" in self._hosts and self._is_first("checkpoint"):
            ui.connect_checkpoint(self._controls, names, screen, self._hosts["checkpoint"])

    def _is_first(self, what: str) -> bool:
        """Whether this is connected for the first time to the controls that are there now."""
        done = (what, self._controls)
        if done in self._connected:
            return False
        self._connected.append(done)
        return True
