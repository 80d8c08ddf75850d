"""The accordion. The host builds it more than once (for the API's defaults): it has no effect but to make controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion, ToolButton

from flexiffusion.errors import FlexiffusionError

from . import estimate, host, preview
from .generation import plain_name
from .settings import BY_POSITION, MAPPINGS, OFF, SAME

TITLE = "Flexiffusion"

# The host's own controls that decide what a schedule gains, by the ends of their elem_id, in the order of `Screen`.
SCREEN = {
    "txt2img": ("steps", "hr-checkbox", "hires_steps", "denoising_strength"),
    "img2img": ("steps", "denoising_strength"),
}
# Those that the button sets; Forge Classic has no scheduler.
BUTTON = ("steps", "sampling", "scheduler")


@dataclass(frozen=True, slots=True)
class Controls:
    """The components of one tab; `arguments` in the order of `Settings`."""

    enabled: Any
    schedule: Any
    hires: Any
    mapping: Any
    compare: Any
    use: Any
    refresh: Any
    shown: Any

    @property
    def arguments(self) -> list[Any]:
        return [self.enabled, self.schedule, self.hires, self.mapping, self.compare]


def build(elem_id: Callable[[str], str], problem: str | None = None) -> Controls:
    """Makes the accordion in the current gradio context. problem: why nothing can be run here, to be said first."""
    family = host.checkpoint_family()
    names = host.library.choices(family)
    first = host.library.default(family)
    with InputAccordion(False, label=TITLE, elem_id=elem_id("enabled")) as enabled:
        if problem is not None:
            gr.HTML(preview.problem(problem), elem_id=elem_id("problem"))
        with gr.Row():
            # free text too: the name of a schedule that is not here any more, or a whole schedule file
            schedule = gr.Dropdown(
                label="Schedule", choices=names, value=first, allow_custom_value=True, elem_id=elem_id("schedule")
            )
            refresh = ToolButton(value="\U0001f504", elem_id=elem_id("refresh"))
        shown = gr.HTML(show(first), elem_id=elem_id("preview"))
        use = gr.Button("Use this schedule's steps and sampler", elem_id=elem_id("use"))
        with gr.Row():
            hires = gr.Dropdown(
                label="Hires pass",
                choices=[SAME, OFF, *names],
                value=SAME,
                allow_custom_value=True,
                elem_id=elem_id("hires"),
            )
            mapping = gr.Dropdown(
                label="Place on other numbers of steps",
                choices=list(MAPPINGS),
                value=BY_POSITION,
                elem_id=elem_id("mapping"),
            )
            compare = gr.Checkbox(label="Compare: make the plain picture too", value=False, elem_id=elem_id("compare"))
    return Controls(enabled, schedule, hires, mapping, compare, use, refresh, shown)


def connect_screen(controls: Controls, names: tuple[str, ...], components: list[Any]) -> None:
    """Keeps the preview in step with the host's own controls. components: those of `names`.

    When the accordion opens, the lists follow too: the model may have been loaded, or changed, since the page was made.
    """

    def shown(choice: str, hires: str, mapping: str, *values: Any) -> str:
        return show(choice, hires, mapping, dict(zip(names, values, strict=True)))

    def opened(choice: str, hires: str, mapping: str, *values: Any) -> tuple[Any, Any, str]:
        return followed(None, choice, hires, mapping, dict(zip(names, values, strict=True)))

    def refreshed(*values: Any) -> tuple[Any, Any, str]:
        host.library.refresh()
        return opened(*values)

    settings = [controls.schedule, controls.hires, controls.mapping, *components]
    lists = [controls.schedule, controls.hires, controls.shown]
    for component in settings:
        component.change(fn=shown, inputs=settings, outputs=[controls.shown], show_progress=False)
    controls.enabled.change(fn=lambda _, *values: opened(*values), inputs=[controls.enabled, *settings], outputs=lists,
                            show_progress=False)  # fmt: skip
    controls.refresh.click(fn=refreshed, inputs=settings, outputs=lists, show_progress=False)


def connect_checkpoint(controls: Controls, names: tuple[str, ...], components: list[Any], checkpoint: Any) -> None:
    """Lets the lists follow the host's own choice of a checkpoint."""

    def changed(title: str, choice: str, hires: str, mapping: str, *values: Any) -> tuple[Any, Any, str]:
        return followed(title, choice, hires, mapping, dict(zip(names, values, strict=True)))

    checkpoint.change(
        fn=changed,
        inputs=[checkpoint, controls.schedule, controls.hires, controls.mapping, *components],
        outputs=[controls.schedule, controls.hires, controls.shown],
        show_progress=False,
    )


def followed(
    title: str | None, choice: str | None, hires: str, mapping: str, screen: Mapping[str, Any]
) -> tuple[Any, Any, str]:
    """The lists for the checkpoint of this title (None: the one that is chosen), a choice that fits it, its preview.

    A schedule that was made for another family is left for the default one; a pasted or an unknown one stays.
    """
    family = host.checkpoint_family(title)
    found = host.library.choices(family)
    choice = host.library.refit(choice or "", family)
    lists = gr.update(choices=found, value=choice), gr.update(choices=[SAME, OFF, *found])
    return *lists, show(choice, hires, mapping, screen, title)


def show(
    choice: str | None,
    hires: str = SAME,
    mapping: str = BY_POSITION,
    screen: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> str:
    """The preview of what the dropdown holds; with `screen`, the host's controls by name, what it would do there."""
    if unable := host.unsupported(title):
        return preview.problem(f"This model is not supported: {unable}. Pictures are made the plain way")
    try:
        schedule = host.library.schedule(choice or "")
        family = host.checkpoint_family(title)
        if screen is None or (family is not None and family != schedule.model.family):
            return preview.html(schedule, family)
        main, second = _passes(screen)
        words, plan = estimate.sentence(schedule, main, MAPPINGS[mapping])
        lines = [f"With these settings: {words}"]
        if second is not None:
            lines.append(f"Hires pass: {_hires_words(schedule, hires, second, mapping)}")
        return preview.html(schedule, family, lines, plan)
    except FlexiffusionError as error:
        return preview.problem(str(error))


def connect_button(controls: Controls, name: str, component: Any) -> None:
    """Lets the button set one of the host's own controls; what the schedule leaves open stays as it is."""

    def used(choice: str) -> Any:
        try:
            made = host.library.schedule(choice or "").sampling
        except FlexiffusionError:
            return gr.update()
        if name == "steps":
            return gr.update(value=made.steps)
        return _chosen(made.sampler if name == "sampling" else made.scheduler, component.choices)

    controls.use.click(fn=used, inputs=[controls.schedule], outputs=[component], show_progress=False)


def _passes(screen: Mapping[str, Any]) -> tuple[estimate.Pass, estimate.Pass | None]:
    steps, denoise = int(screen["steps"] or 1), float(screen["denoising_strength"] or 0)
    if "hr-checkbox" not in screen:
        return estimate.image_to_image(steps, denoise), None
    second = estimate.hires(int(screen["hires_steps"] or 0) or steps, denoise) if screen["hr-checkbox"] else None
    return estimate.text_to_image(steps), second


def _hires_words(schedule: Any, hires: str, second: estimate.Pass, mapping: str) -> str:
    if hires == OFF:
        return "the plain way"
    own = schedule if hires == SAME else host.library.schedule(hires)
    return estimate.sentence(own, second, MAPPINGS[mapping])[0]


def _chosen(name: str | None, choices: list[Any]) -> Any:
    """The host's label of what a schedule file calls `name`."""
    labels = [choice[0] if isinstance(choice, (tuple, list)) else choice for choice in choices]
    label = next((label for label in labels if name is not None and plain_name(label) == name), None)
    return gr.update(value=label) if label is not None else gr.update()
