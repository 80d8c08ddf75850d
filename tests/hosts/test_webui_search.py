"""A search in the place of a picture, by the script on the stand-in host; on real ones in test_webui_host.py."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import webui_stand_in as stand_in
from contract.networks import CONTEXT
from torch import nn
from webui_modules import Component, HostModules, Processing, installed
from webui_stand_in import BRANCHES, Counter, SamplerObject, WebUI

from flexiffusion import codec
from flexiffusion.families import FAMILIES
from flexiffusion.fingerprint import is_same_checkpoint
from flexiffusion.schedule import Schedule

STEPS = 12
MINUTES = 1.0  # counted in candidates, which are the same on every machine
CANDIDATES = 4


@pytest.fixture(autouse=True)
def _small_sd15(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "sd15", replace(FAMILIES["sd15"], width=CONTEXT, branches=BRANCHES))


@pytest.fixture(params=["a1111"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostModules]:
    monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(tmp_path / "user"))
    made = HostModules(WebUI(forge=request.param == "forge"), tmp_path / "models")
    before = state_of(made.webui.unet)
    with installed(made):
        module = importlib.import_module("webui_extension.search")
        find = module.find

        def counted(*arguments: Any, seconds: float, **more: Any) -> Any:
            return find(*arguments, evaluations=round(CANDIDATES * seconds / 60), **more)

        monkeypatch.setattr(module, "find", counted)
        monkeypatch.setattr(module, "IMAGES", 2)
        yield made
    assert state_of(made.webui.unet) == before


def state_of(network: nn.Module) -> list[Any]:
    return [(vars(module).get("forward"), len(module._forward_hooks)) for module in network.modules()]


def generate(host: HostModules, *arguments: Any, func: Any = stand_in.euler, **more: Any) -> Any:
    p = Processing(functools.partial(SamplerObject, host.webui, func), list(arguments), steps=STEPS, **more)
    before = len(host.latents)
    processed = host.generate(p)
    processed.p, processed.latents = p, host.latents[before:]
    processed.text = ast.literal_eval(processed.infotexts[0])
    return processed


def search(host: HostModules, speedup: float = 2.0, minutes: Any = MINUTES, **more: Any) -> Any:
    return generate(host, True, "auto", "same", "by position", False, speedup, minutes, **more)


def saved(host: HostModules) -> list[Path]:
    return sorted(Path(host.modules["modules.paths"]["models_path"]).glob("flexiffusion/searched/*.json"))


def read(host: HostModules) -> Schedule:
    (path,) = saved(host)
    return codec.read(path)


@pytest.mark.parametrize(
    ("host", "func"),
    [
        ("a1111", stand_in.ddim),
        ("forge", stand_in.euler),
        pytest.param("a1111", stand_in.euler, marks=pytest.mark.slow),
        pytest.param("forge", stand_in.ddim, marks=pytest.mark.slow),
    ],
    indirect=["host"],
)
def test_the_picture_is_that_of_the_schedule_and_the_plain_one_lies_beside_it(host: HostModules, func: Any) -> None:
    found = search(host, func=func)
    made = read(host)
    assert made.provenance.kind == "searched" and (made.sampling.sampler, made.sampling.cfg) == ("euler", 7.0)
    assert made.model.family == "sd15" and is_same_checkpoint(host.webui.unet, made.model.fingerprint or ())
    assert made.cost is not None and (made.cost.speedup_macs or 0) > 1.9
    drawn, off = generate(host, True, found.text["Flexi schedule"], func=func), generate(host, False, func=func)
    # DDIM ends at timestep 1, the search at no noise at all
    near = 1e-3 if func is stand_in.euler else 0.1
    apart = (off.latents[0] - found.latents[0]).norm()
    assert (drawn.latents[0] - found.latents[0]).norm() < near * apart
    picture, sheet, plain = found.images
    assert sheet.width == 2 * picture.width
    assert abs(plain.getpixel((0, 0))[0] - off.images[0].getpixel((0, 0))[0]) <= (0 if func is stand_in.euler else 1)
    assert picture.tobytes() != plain.tobytes() and "candidates on 2 images" in found.text["Flexi search"]


def test_auto_and_the_dropdown_find_it_from_then_on(host: HostModules, capsys: pytest.CaptureFixture[str]) -> None:
    from webui_extension import host as around

    name = search(host).text["Flexi schedule"]
    assert name in around.library.choices("sd15")
    capsys.readouterr()
    drawn = generate(host, True, "auto", "same", "by position", False, 2.0)
    assert "searched for this checkpoint" in capsys.readouterr().out and "Flexi run" in drawn.text


def test_it_goes_on_through_the_hosts_own_network_calls(host: HostModules) -> None:
    with Counter(host.webui.unet) as counter:
        search(host)
    assert counter.calls > counter.full > 3 * STEPS  # two teachers, fewer steps, and then mostly partial ones


def test_progress_and_time_left_are_on_the_page_and_put_back(host: HostModules) -> None:
    state = host.modules["modules.shared"]["state"]
    state.job_count, state.job_no = 1, 0
    search(host)
    jobs = [job for job, _ in state.shown]
    assert jobs == sorted(jobs) and jobs[-1] > 500 and "s left" in state.shown[0][1]
    assert (state.job_count, state.job_no, state.textinfo) == (1, 0, None)


def test_an_interrupt_keeps_the_best_so_far(host: HostModules) -> None:
    host.modules["modules.shared"]["state"].stop_at = 50
    found = search(host, minutes=5)
    assert found.text["Flexi schedule"] == saved(host)[0].stem and "it was interrupted" in found.text["Flexi search"]
    assert len(found.images) == 3


def test_an_interrupt_before_anything_was_found_goes_on_to_the_host(host: HostModules) -> None:
    host.webui.before_evaluation = lambda denoiser: setattr(
        host.modules["modules.shared"]["state"], "interrupted", len(denoiser.asked) > 5
    )
    found = search(host)
    assert not saved(host) and len(found.images) == 1
    assert any("stopped before anything was found" in comment for comment in found.p.comments)


def test_what_would_judge_something_else_is_left_out(host: HostModules) -> None:
    found = search(host, enable_hr=True, n_iter=3, batch_size=2, refiner_checkpoint="second", hr_scale=2)
    assert len(found.latents) == 1 and found.p.refiner_checkpoint is None


def test_a_sampler_that_cannot_be_replayed_is_searched_for_its_sibling(host: HostModules) -> None:
    found = search(host, func=stand_in.heun)
    assert read(host).sampling.sampler == "dpmpp_2m"
    assert any("searched for dpmpp_2m. Draw with that one" in comment for comment in found.p.comments)


@pytest.mark.parametrize(
    "more, reason",
    [
        ({"speedup": 1.0}, "the speed-up is 1"),
        ({"init_images": [None]}, "Search in txt2img"),
        ({"func": stand_in.dpm_fast}, "makes its own noise levels"),
        ({"cfg_scale": 1.0}, "look like a distilled model"),
        ({"minutes": -1}, "outside 0 to 600 minutes"),
        ({"minutes": True}, "is no float"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_sentence(host: HostModules, more: Any, reason: str) -> None:
    found = search(host, **more)
    plain = generate(host, False, func=more.get("func", stand_in.euler))
    assert torch.equal(found.latents[0], plain.latents[0]) and not saved(host)
    assert reason in found.text["Flexi note"] and any(reason in comment for comment in found.p.comments)


def test_a_network_that_cannot_be_cut_is_refused(host: HostModules) -> None:
    whole = nn.Module()
    whole.forward = host.webui.unet.forward  # type: ignore[method-assign]
    wrapped = host.webui.sd_model.forge_objects.unet.model if host.webui.order == "forge" else host.webui.sd_model.model
    wrapped.diffusion_model = whole
    assert "this model is not supported" in search(host).text["Flexi note"]


def test_memory_that_is_too_small_is_said(host: HostModules) -> None:
    def full(denoiser: Any) -> None:
        host.webui.before_evaluation = None  # the plain way needs less
        raise torch.OutOfMemoryError("CUDA out of memory")

    host.webui.before_evaluation = full
    found = search(host)
    assert found.text["Flexi note"].startswith("not even one image fits into memory")
    assert torch.equal(found.latents[0], generate(host, False).latents[0])


def test_a_folder_that_cannot_be_written_loses_no_picture(host: HostModules) -> None:
    models = Path(host.modules["modules.paths"]["models_path"])
    models.mkdir()
    (models / "flexiffusion").write_text("a file")
    found = search(host)
    assert any("could not be saved" in comment for comment in found.p.comments)
    assert len(found.images) == 3


def test_restoring_a_picture_begins_no_search(host: HostModules) -> None:
    host.script.ui(False)
    text = search(host).text
    fields = [field[1](text) for field in host.script.infotext_fields]
    assert fields[:2] == [True, text["Flexi schedule"]] and fields[-1] == 0


def test_the_button_asks_for_one_search_and_presses_generate(host: HostModules) -> None:
    from webui_extension import ui

    controls = host.script.ui(False)
    start = next(c for c in Component.made if str(c.arguments.get("elem_id")).endswith("_start_search"))
    (_, begin, inputs, outputs), (_, (press, after), _, last) = start.events
    assert outputs == [controls[-1], controls[0]] and last == [controls[-1]]
    assert begin(inputs[0].value) == (3.0, True) and press == ui.GENERATE and after() == 0
    host.script.ui(True)
    part = [c for c in Component.made if str(c.arguments.get("elem_id")).endswith("_search_part")]
    assert [c.arguments["visible"] for c in part] == [True, False]


def test_lists_and_preview_follow_the_end_of_a_search(host: HostModules) -> None:
    """The host writes its text under the pictures then; the page may have been open for hours."""
    host.script.ui(False)
    steps, denoise = Component(STEPS), Component(0.7)
    for name, component in (("steps", steps), ("hr-checkbox", Component(False)), ("hires_steps", Component(0)),
                            ("denoising_strength", denoise)):  # fmt: skip
        host.script.after_component(component, elem_id=f"txt2img_{name}")
    log = Component("")
    host.script.after_component(log, elem_id="html_log_txt2img")
    name = search(host).text["Flexi schedule"]
    ((kind, ended, inputs, _),) = log.events
    lists, _, shown = ended(*(component.value for component in inputs))
    assert kind == "change" and name in lists["choices"] and lists["value"] == "auto"
    assert "Searched in place for 2x" in shown


def test_an_inner_generation_does_not_search(host: HostModules) -> None:
    """The plain half of a comparison, or ADetailer's parts: their arguments are their own."""
    off = generate(host, False, "auto", "same", "by position", False, 2.0, MINUTES)
    assert not saved(host) and "Flexi schedule" not in off.text


def test_few_steps_are_refused(host: HostModules) -> None:
    p = Processing(
        functools.partial(SamplerObject, host.webui, stand_in.euler),
        [True, "auto", "same", "by position", False, 2.0, MINUTES], steps=8,
    )  # fmt: skip
    host.generate(p)
    assert "8 steps are few already" in p.extra_generation_params["Flexi note"]


def test_the_search_is_the_cores(host: HostModules, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed, model and list: the same candidates here and in every other host."""
    import webui_extension.search as module

    asked: list[Any] = []

    def find(denoiser: Any, noise: Any, levels: Any, speedups: Any, **more: Any) -> Any:
        asked.append(SimpleNamespace(noise=noise, levels=levels, speedups=speedups, **more))
        return original(denoiser, noise, levels, speedups, **more)

    original = module.find
    monkeypatch.setattr(module, "find", find)
    search(host, speedup=3.0)
    (one,) = asked
    assert one.speedups == (3.0,) and one.seed == 3 and one.seconds == pytest.approx(60 * MINUTES)
    assert torch.equal(one.noise[1:], torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))[1:])
    assert len(one.levels) == STEPS and one.noise.shape == (2, 4, 8, 8) and one.batch == 1
    assert read(host).provenance.evaluations == CANDIDATES
