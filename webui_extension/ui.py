"""The accordion. The host builds it more than once (for the API's defaults): it has no effect but to make controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion, ToolButton

from flexiffusion.errors import FlexiffusionError
from flexiffusion.plan import Plan
from flexiffusion.rule import FASTEST
from flexiffusion.schedule import Schedule

from . import estimate, host, preview
from .generation import plain_name
from .settings import AUTO, BY_POSITION, MAPPINGS, OFF, SAME, Settings

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
    speedup: Any
    search: Any
    use: Any
    refresh: Any
    shown: Any

    @property
    def decisive(self) -> list[Any]:
        """Those that decide what is run, in the order of `show`."""
        return [self.schedule, self.hires, self.mapping, self.speedup]

    @property
    def arguments(self) -> list[Any]:
        return [self.enabled, self.schedule, self.hires, self.mapping, self.compare, self.speedup, self.search]


# presses the host's own button, which takes what the controls say at that moment
GENERATE = "() => { gradioApp().querySelector('#txt2img_generate').click(); return []; }"
MINUTES = 3.0
SEARCH_HINT = (
    "Searches a schedule for the speed-up above and for the prompt, sampler, steps, size and guidance that are set, "
    "without hires pass. What it finds is saved, and the slider uses it from then on. Interrupt keeps the best so far."
)


def build(elem_id: Callable[[str], str], is_img2img: bool = False, problem: str | None = None) -> Controls:
    """Makes the accordion in the current gradio context. problem: why nothing can be run here, to be said first."""
    names = host.library.choices(host.checkpoint_family())
    with InputAccordion(False, label=TITLE, elem_id=elem_id("enabled")) as enabled:
        if problem is not None:
            gr.HTML(preview.problem(problem), elem_id=elem_id("problem"))
        speedup = gr.Slider(
            label="Speed-up (auto)",
            minimum=1.0,
            maximum=FASTEST,
            step=0.1,
            value=Settings().speedup,
            elem_id=elem_id("speedup"),
        )
        shown = gr.HTML(show(AUTO), elem_id=elem_id("preview"))
        with gr.Accordion("Choose a schedule", open=False, elem_id=elem_id("choose")):
            with gr.Row():
                # free text too: the name of a schedule that is not here any more, or a whole schedule file
                schedule = gr.Dropdown(
                    label="Schedule",
                    choices=[AUTO, *names],
                    value=AUTO,
                    allow_custom_value=True,
                    elem_id=elem_id("schedule"),
                )
                refresh = ToolButton(value="\U0001f504", elem_id=elem_id("refresh"))
            use = gr.Button("Use this schedule's steps and sampler", elem_id=elem_id("use"))
            with gr.Row():
                hires = gr.Dropdown(
                    label="Hires pass",
                    choices=[SAME, OFF, AUTO, *names],
                    value=SAME,
                    allow_custom_value=True,
                    visible=not is_img2img,  # which has no such pass
                    elem_id=elem_id("hires"),
                )
                mapping = gr.Dropdown(
                    label="With another number of steps",
                    choices=list(MAPPINGS),
                    value=BY_POSITION,
                    elem_id=elem_id("mapping"),
                )
        compare = gr.Checkbox(label="Compare: make the plain picture too", value=False, elem_id=elem_id("compare"))
        # img2img begins with a picture: there is nothing to search there
        with gr.Accordion("Search a schedule", open=False, visible=not is_img2img, elem_id=elem_id("search_part")):
            gr.HTML(preview.problem(SEARCH_HINT), elem_id=elem_id("search_hint"))
            with gr.Row():
                minutes = gr.Slider(
                    label="Minutes",
                    minimum=0.5,
                    maximum=60.0,
                    step=0.5,
                    value=MINUTES,
                    elem_id=elem_id("minutes"),
                )
                start = gr.Button("Search for this model", elem_id=elem_id("start_search"))
        search = gr.Number(
            label="Minutes of a search in place of a picture",
            value=Settings().search,
            visible=False,
            elem_id=elem_id("search"),
        )
    # for one generation alone: the number goes back to 0 when it has begun
    begun = start.click(fn=_begun, inputs=[minutes], outputs=[search, enabled], show_progress=False)
    # one event: the page presses, and then the host answers; after one without an answer nothing would follow
    begun.then(fn=lambda: Settings().search, _js=GENERATE, inputs=[], outputs=[search], show_progress=False)
    # who moves the slider wants what it stands for
    speedup.release(fn=lambda: AUTO, inputs=[], outputs=[schedule], show_progress=False)
    return Controls(enabled, schedule, hires, mapping, compare, speedup, search, use, refresh, shown)


def _begun(minutes: float) -> tuple[float, bool]:
    return minutes, True


def connect_screen(controls: Controls, names: tuple[str, ...], components: list[Any]) -> None:
    """Keeps the preview in step with the host's own controls. components: those of `names`.

    When the accordion opens, the lists follow too: the model may have been loaded, or changed, since the page was made.
    """

    def shown(choice: str, hires: str, mapping: str, speedup: float, *values: Any) -> str:
        return show(choice, hires, mapping, speedup, dict(zip(names, values, strict=True)))

    def opened(choice: str, hires: str, mapping: str, speedup: float, *values: Any) -> tuple[Any, Any, str]:
        return followed(None, choice, hires, mapping, speedup, dict(zip(names, values, strict=True)))

    def refreshed(*values: Any) -> tuple[Any, Any, str]:
        host.library.refresh()
        return opened(*values)

    settings = [*controls.decisive, *components]
    lists = [controls.schedule, controls.hires, controls.shown]
    for component in settings:
        component.change(fn=shown, inputs=settings, outputs=[controls.shown], show_progress=False)
    controls.enabled.change(fn=lambda _, *values: opened(*values), inputs=[controls.enabled, *settings], outputs=lists,
                            show_progress=False)  # fmt: skip
    controls.refresh.click(fn=refreshed, inputs=settings, outputs=lists, show_progress=False)


def connect_end(controls: Controls, names: tuple[str, ...], components: list[Any], log: Any) -> None:
    """Lets the lists and the preview follow the end of a generation, which may have been a search. log: the host's text
    under its pictures."""

    def ended(choice: str, hires: str, mapping: str, speedup: float, *values: Any) -> tuple[Any, Any, str]:
        return followed(None, choice, hires, mapping, speedup, dict(zip(names, values, strict=True)))

    log.change(
        fn=ended,
        inputs=[*controls.decisive, *components],
        outputs=[controls.schedule, controls.hires, controls.shown],
        show_progress=False,
    )


def connect_checkpoint(controls: Controls, names: tuple[str, ...], components: list[Any], checkpoint: Any) -> None:
    """Lets the lists follow the host's own choice of a checkpoint."""

    def changed(
        title: str, choice: str, hires: str, mapping: str, speedup: float, *values: Any
    ) -> tuple[Any, Any, str]:
        return followed(title, choice, hires, mapping, speedup, dict(zip(names, values, strict=True)))

    checkpoint.change(
        fn=changed,
        inputs=[checkpoint, *controls.decisive, *components],
        outputs=[controls.schedule, controls.hires, controls.shown],
        show_progress=False,
    )


def followed(
    title: str | None, choice: str | None, hires: str, mapping: str, speedup: float, screen: Mapping[str, Any]
) -> tuple[Any, Any, str]:
    """The lists for the checkpoint of this title (None: the one that is chosen), a choice that fits it, its preview.

    A schedule that was made for another family is left for "auto"; a pasted or an unknown one stays.
    """
    family = host.checkpoint_family(title)
    found = host.library.choices(family)
    choice = host.library.refit(choice or "", family)
    lists = gr.update(choices=[AUTO, *found], value=choice), gr.update(choices=[SAME, OFF, AUTO, *found])
    return *lists, show(choice, hires, mapping, speedup, screen, title)


def show(
    choice: str | None,
    hires: str = SAME,
    mapping: str = BY_POSITION,
    speedup: float = Settings().speedup,
    screen: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> str:
    """The preview of what is chosen; with `screen`, the host's controls by name, what it would do there."""
    if unable := host.unsupported(title):
        return preview.problem(f"This model is not supported: {unable}. Pictures are made the plain way")
    choice = choice or ""
    if screen is None and choice == AUTO:
        return preview.problem("Auto: a schedule for the speed-up above")
    try:
        family = host.checkpoint_family(title)
        if screen is None:
            return preview.html(host.library.schedule(choice), family)
        main, second = _passes(screen)
        words, schedule, plan = _outlook(choice, speedup, main, mapping, title)
        if schedule is not None and family is not None and family != schedule.model.family:
            return preview.html(schedule, family)
        lines = [words if choice == AUTO else f"With these settings: {words}"]
        if second is not None:
            after = choice if hires == SAME else hires
            lines.append(f"Hires pass: {_outlook(after, speedup, second, mapping, title)[0]}")
        if schedule is None:
            return preview.problem(". ".join(lines))
        return preview.html(schedule, family, lines, plan, is_rule=choice == AUTO and schedule.metrics == ())
    except FlexiffusionError as error:
        return preview.problem(str(error))


def _outlook(
    choice: str, speedup: float, run: estimate.Pass, mapping: str, title: str | None
) -> tuple[str, Schedule | None, Plan | None]:
    """What one pass would do, in words; the schedule, None: the plain way; its plan."""
    if choice == OFF:
        return "the plain way", None, None
    if choice != AUTO:
        schedule = host.library.schedule(choice)
        words, plan = estimate.sentence(schedule, run, MAPPINGS[mapping])
        return words, schedule, plan
    model, recognises = host.model(title)
    chosen = estimate.automatic(speedup, run, model, host.library.presets, recognises)
    if chosen.schedule is None:
        return chosen.said, None, None
    words, plan = estimate.sentence(chosen.schedule, estimate.Pass(run.steps), "position")
    return f"Auto: {words}", chosen.schedule, plan


def connect_button(controls: Controls, name: str, component: Any) -> None:
    """Lets the button set one of the host's own controls; what the schedule leaves open stays as it is."""

    def used(choice: str) -> Any:
        try:
            made = host.library.schedule(choice or "").sampling
        except FlexiffusionError:  # "auto" too: it keeps what is set
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


def _chosen(name: str | None, choices: list[Any]) -> Any:
    """The host's label of what a schedule file calls `name`."""
    labels = [choice[0] if isinstance(choice, (tuple, list)) else choice for choice in choices]
    label = next((label for label in labels if name is not None and plain_name(label) == name), None)
    return gr.update(value=label) if label is not None else gr.update()
