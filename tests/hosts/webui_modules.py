"""Stand-ins of the host's Python modules and of gradio, for the script itself: only the names that it uses.

Beside the classes in webui_stand_in.py; the real ones run in test_webui_host.py.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

from PIL import Image
from webui_stand_in import Interrupted

ROOT = Path(__file__).resolve().parents[2]


class Component:
    """A gradio component: what it was made with, and what was connected to it."""

    made: ClassVar[list[Component]] = []

    def __init__(self, value: Any = None, **arguments: Any) -> None:
        self.value = value
        self.arguments = arguments
        self.label = arguments.get("label")
        self.choices = arguments.get("choices")
        self.events: list[tuple[str, Any, list[Any], list[Any]]] = []
        Component.made.append(self)

    def __enter__(self) -> Component:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def click(self, fn: Any, inputs: list[Any], outputs: list[Any], **_: Any) -> Component:
        self.events.append(("click", fn, inputs, outputs))
        return self

    def then(self, fn: Any, inputs: list[Any], outputs: list[Any], _js: str | None = None, **_: Any) -> Component:
        self.events.append(("then", fn if _js is None else (_js, fn), inputs, outputs))
        return self

    def release(self, fn: Any, inputs: list[Any], outputs: list[Any], **_: Any) -> None:
        self.events.append(("release", fn, inputs, outputs))

    def change(self, fn: Any, inputs: list[Any], outputs: list[Any], **_: Any) -> None:
        self.events.append(("change", fn, inputs, outputs))


class Script:
    """The base class of scripts."""

    is_img2img = False
    args_from = 1
    infotext_fields: Any = None
    paste_field_names: Any = None

    def process_before_every_sampling(self, p: Any, *arguments: Any, **kwargs: Any) -> None:
        pass

    def elem_id(self, name: str) -> str:
        return f"script_{'img2img' if self.is_img2img else 'txt2img'}_flexiffusion_{name}"


class AxisOption:
    def __init__(self, label: str, type: Any, apply: Any, choices: Any = None) -> None:
        self.label, self.type, self.apply, self.choices = label, type, apply, choices


class Processing:
    """The host's `p`: one generation, run by `generate`."""

    def __init__(self, sampler: Any, arguments: list[Any], **more: Any) -> None:
        self.make_sampler = sampler
        self.script_args = [0, *arguments]
        self.extra_generation_params: dict[str, Any] = {}
        self.override_settings: dict[str, Any] = {}
        self.comments: dict[str, int] = {}
        self.seed, self.subseed = 3, -1
        self.steps, self.cfg_scale, self.width, self.height, self.n_iter = 10, 7.0, 64, 64, 1
        self.enable_hr = self.is_hr_pass = False
        self.sampler: Any = None
        for name, value in more.items():
            setattr(self, name, value)

    def comment(self, text: str) -> None:
        self.comments[text] = 1


class Processed:
    def __init__(self, p: Processing, images: list[Any], infotexts: list[str]) -> None:
        self.images, self.infotexts, self.index_of_first_image = images, infotexts, 0
        self.info = json.dumps(p.extra_generation_params)  # as the hosts' `js()`, which takes nothing but JSON's types
        self.comments = "".join(f"{comment}\n" for comment in p.comments)


class State(SimpleNamespace):
    """The host's `shared.state`; `stop_at`: set to interrupted when so many jobs are shown as done."""

    def __init__(self) -> None:
        super().__init__(
            job_count=-1, interrupted=False, skipped=False, sampling_step=0, textinfo=None, stop_at=math.inf
        )
        self.shown: list[tuple[int, str]] = []
        self.job_no = 0

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "textinfo" and value:
            self.shown.append((self.job_no, value))
            if self.job_no >= self.stop_at:
                self.interrupted = True


class HostModules:
    """`modules` with one script instance in it. `latents`: what was sampled, pass by pass."""

    def __init__(self, webui: Any, models: Path) -> None:
        self.webui = webui
        webui.begin_evaluation = self._before_evaluation
        self.latents: list[Any] = []
        self.bar: list[int] = []
        self.denoiser_callbacks: list[Any] = []
        self.before_ui: list[Any] = []
        self.after_component: list[Any] = []
        self.checkpoints: dict[str, Any] = {}
        self.script: Any = None
        Component.made = []
        gradio = {name: Component for name in ("Dropdown", "Checkbox", "Button", "HTML", "Row", "Slider", "Accordion",
                                              "Number")}  # fmt: skip
        self.xyz = SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Nothing", str, None)])
        self.modules: dict[str, Any] = {
            "gradio": gradio | {"update": lambda **changes: changes},
            "modules": {},
            "modules.scripts": {
                "Script": Script,
                "AlwaysVisible": object(),
                "scripts_data": [
                    SimpleNamespace(script_class=type("Plot", (), {"__module__": "xyz_grid.py"}), module=self.xyz)
                ],
            },
            "modules.script_callbacks": {
                "on_before_ui": self.before_ui.append,
                "on_cfg_denoiser": self.denoiser_callbacks.append,
                "on_after_component": self.after_component.append,
            },
            "modules.shared": {
                "sd_model": webui.sd_model,
                "opts": SimpleNamespace(sd_model_checkpoint=None),
                "total_tqdm": SimpleNamespace(update=lambda: self.bar.append(1)),
                "state": State(),
            },
            "modules.sd_models": {
                "model_data": SimpleNamespace(sd_model=webui.sd_model),
                "get_closet_checkpoint_match": self.checkpoints.get,
            },
            "modules.sd_samplers_common": {
                "InterruptedException": Interrupted,
                "sample_to_image": self._picture,
            },
            "modules.devices": {"device": "cpu"},
            "modules.paths": {"models_path": str(models)},
            "modules.ui_components": {"InputAccordion": Component, "ToolButton": Component},
            "modules.processing": {
                "get_fixed_seed": lambda seed: 77 if seed == -1 else seed,
                "process_images": self.generate,
            },
            "modules.images": {
                "image_grid": self._grid,
                "GridAnnotation": lambda text="": text,
                "draw_grid_annotations": lambda sheet, width, height, columns, rows: sheet,
            },
        }

    def _before_evaluation(self, denoiser: Any) -> None:
        if self.modules["modules.shared"]["state"].interrupted:
            raise Interrupted
        for callback in self.denoiser_callbacks:
            callback(SimpleNamespace(denoiser=denoiser))

    def _grid(self, pictures: list[Image.Image], rows: int) -> Image.Image:
        return Image.new("RGB", (pictures[0].width * len(pictures) // rows, pictures[0].height * rows))

    def _picture(self, latents: Any, index: int, approximation: int) -> Image.Image:
        levels = (latents[index][:3].flatten(1).std(1).clamp(0, 25) * 10).int().tolist()
        return Image.new("RGB", (8, 8), tuple(levels))

    def generate(self, p: Processing) -> Processed:
        """The order of callbacks that WEBUI.md tells."""
        script, arguments = self.script, tuple(p.script_args[1:])
        script.before_process(p, *arguments)
        script.process(p, *arguments)
        images, infotexts = [], []
        state = self.modules["modules.shared"]["state"]
        for _ in range(p.n_iter):
            latent = None
            state.skipped = False
            if state.interrupted:
                break
            for hires in (False, True) if p.enable_hr else (False,):
                p.is_hr_pass = hires
                p.sampler = p.make_sampler()
                script.process_before_every_sampling(p, *arguments, x=None)
                if hires:
                    script.process_before_every_sampling(p, *arguments, x=None)  # Forge does so twice
                noise = self.webui.noise(seed=p.seed)
                try:
                    latent = p.sampler.sample(p, noise, 0.6 if hires else None)
                except Interrupted:
                    latent = noise  # what there was last
                self.latents.append(latent)
            p.is_hr_pass = False
            script.postprocess_batch(p, *arguments, images=[], batch_number=0)
            images.append(self._picture(latent, 0, 0))
            infotexts.append(self._text(p))
        processed = Processed(p, images, infotexts or [self._text(p)])
        script.postprocess(p, processed, *arguments)
        return processed

    def _text(self, p: Processing) -> str:
        values = {name: value(key=name) if callable(value) else value for name, value in
                  p.extra_generation_params.items()}  # fmt: skip
        return repr({name: str(value) for name, value in values.items() if value is not None})


@contextmanager
def installed(host: HostModules) -> Iterator[Any]:
    """The host's modules in place, and the door loaded anew; all of it is taken away again."""
    before = dict(sys.modules)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("webui_extension", "modules", "gradio")]:
        del sys.modules[name]
    try:
        for name, contents in host.modules.items():
            module = ModuleType(name)
            vars(module).update(contents)
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
        specification = importlib.util.spec_from_file_location(
            "flexiffusion_webui.py", ROOT / "scripts" / "flexiffusion_webui.py"
        )
        assert specification is not None and specification.loader is not None
        door = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(door)
        host.script = door.FlexiffusionScript()
        yield door
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]
        sys.modules.update(before)
