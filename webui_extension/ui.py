"""The accordion. The host builds it more than once (for the API's defaults): it has no effect but to make controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion, ToolButton

from flexiffusion.errors import FlexiffusionError

from . import host, preview
from .generation import plain_name
from .settings import BY_POSITION, MAPPINGS, OFF, SAME

TITLE = "Flexiffusion"


@dataclass(frozen=True, slots=True)
class Controls:
    """The components of one tab; `arguments` in the order of `Settings`."""

    enabled: Any
    schedule: Any
    hires: Any
    mapping: Any
    compare: Any
    use: Any

    @property
    def arguments(self) -> list[Any]:
        return [self.enabled, self.schedule, self.hires, self.mapping, self.compare]


def build(elem_id: Callable[[str], str], problem: str | None = None) -> Controls:
    """Makes the accordion in the current gradio context. problem: why nothing can be run here, to be said first."""
    names = host.library.choices(host.family())
    first = names[0] if names else ""
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

    def refreshed(choice: str) -> tuple[Any, Any, str]:
        host.library.refresh()
        found = host.library.choices(host.family())
        return gr.update(choices=found), gr.update(choices=[SAME, OFF, *found]), show(choice)

    refresh.click(fn=refreshed, inputs=[schedule], outputs=[schedule, hires, shown], show_progress=False)
    schedule.change(fn=show, inputs=[schedule], outputs=[shown], show_progress=False)
    return Controls(enabled, schedule, hires, mapping, compare, use)


def show(choice: str | None) -> str:
    """The preview of what the dropdown holds."""
    try:
        return preview.html(host.library.schedule(choice or ""), host.family())
    except FlexiffusionError as error:
        return preview.problem(str(error))


def connect(use: Any, schedule: Any, steps: Any, sampler: Any, scheduler: Any) -> None:
    """Lets the button set the host's own controls; what the schedule leaves open stays as it is."""

    def used(choice: str) -> tuple[Any, Any, Any]:
        try:
            made = host.library.schedule(choice or "").sampling
        except FlexiffusionError:
            return gr.update(), gr.update(), gr.update()
        return (
            gr.update(value=made.steps),
            _chosen(made.sampler, sampler.choices),
            _chosen(made.scheduler, scheduler.choices),
        )

    use.click(fn=used, inputs=[schedule], outputs=[steps, sampler, scheduler], show_progress=False)


def _chosen(name: str | None, choices: list[Any]) -> Any:
    """The host's label of what a schedule file calls `name`."""
    labels = [choice[0] if isinstance(choice, (tuple, list)) else choice for choice in choices]
    label = next((label for label in labels if name is not None and plain_name(label) == name), None)
    return gr.update(value=label) if label is not None else gr.update()
