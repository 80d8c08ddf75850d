"""The script: arguments, presets, infotext, passes, comparison, axes, UI; on stand-ins of the host modules."""

from __future__ import annotations

import ast
import copy
import functools
import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import webui_stand_in as stand_in
from contract.networks import CONTEXT
from often import often
from webui_modules import ROOT, Component, HostModules, Processing, Script, installed
from webui_stand_in import BRANCHES, SamplerObject, WebUI

from flexiffusion import codec
from flexiffusion.families import FAMILIES
from flexiffusion.fingerprint import fingerprint_of
from flexiffusion.metadata import ModelInfo, Provenance, Sampling
from flexiffusion.strip import KIND_COLOURS
from webui_extension.network import network_of

GOLDEN = ROOT / "tests" / "golden" / "webui_script.json"
SD15 = ModelInfo("sd15", BRANCHES)
segments = functools.partial(stand_in.segments, **{"model": SD15})
own_levels = functools.partial(stand_in.own_levels, model=SD15)


@pytest.fixture(autouse=True)
def _small_sd15(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's network counts as one of the family that its schedules are for."""
    monkeypatch.setitem(FAMILIES, "sd15", replace(FAMILIES["sd15"], width=CONTEXT, branches=BRANCHES))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostModules]:
    monkeypatch.setenv("FLEXIFFUSION_PRESETS", str(tmp_path / "user"))
    folder = tmp_path / "models" / "flexiffusion"
    folder.mkdir(parents=True)
    codec.write(folder / "mixed.json", segments("FPP FPN FPNN"))
    codec.write(folder / "fifteen.json", segments("FPP FPN FPNN", model=ModelInfo("sd15", 12)))
    codec.write(folder / "turns.json", own_levels((14.6, "F"), (6.0, "P"), (3.0, "F"), (1.5, "P"), (0.7, "F")))
    codec.write(folder / "other.json", segments("FP FP FP FP FP", model=ModelInfo("sdxl", 9)))
    made = HostModules(WebUI(), tmp_path / "models")
    with installed(made):
        yield made


def generate(host: HostModules, *arguments: Any, func: Any = stand_in.euler, **more: Any) -> Any:
    p = Processing(functools.partial(SamplerObject, host.webui, func), list(arguments), **more)
    before = len(host.latents)
    processed = host.generate(p)
    processed.p, processed.latents = p, host.latents[before:]
    processed.text = ast.literal_eval(processed.infotexts[0])
    return processed


class TestPromises:
    def test_arguments_and_keys_are_frozen(self, host: HostModules) -> None:
        """Their order is what API users send; a new one comes last. UPDATE_GOLDEN=1 writes the file."""
        from webui_extension import infotext, settings

        controls = host.script.ui(False)
        found = {
            "title": host.script.title(),
            "arguments": [
                {"name": name, "default": getattr(settings.Settings(), name), "label": control.label}
                for name, control in zip(settings.ARGUMENTS, controls, strict=True)
            ],
            "hires": [settings.SAME, settings.OFF],
            "auto": settings.AUTO,
            "mappings": settings.MAPPINGS,
            "infotext": {
                name: getattr(infotext, name)
                for name in ("SCHEDULE", "HIRES", "MAPPING", "COMPARE", "RUN", "HIRES_RUN", "NOTE", "SPEEDUP", "SEARCH")
            },
        }
        if os.environ.get("UPDATE_GOLDEN"):
            GOLDEN.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))

    def test_a_released_picture_restores_every_control(self, host: HostModules) -> None:
        from webui_extension.settings import ARGUMENTS

        host.script.ui(False)
        released = {
            "Flexi schedule": "mixed", "Flexi hires": "turns", "Flexi mapping": "by noise level",
            "Flexi compare": "True", "Flexi run": "full 3, partial 4, null 3, misses 0",
        }  # fmt: skip
        read = {name: field[1](released) for name, field in zip(ARGUMENTS, host.script.infotext_fields, strict=True)}
        assert read == {
            "enabled": True, "schedule": "mixed", "hires": "turns", "mapping": "by noise level", "compare": True,
            "speedup": None, "search": 0,
        }  # fmt: skip
        without = [field[1]({"Steps": "20"}) for field in host.script.infotext_fields]
        assert without == [False, None, None, None, None, None, None]

    def test_what_is_written_is_what_is_read(self, host: HostModules) -> None:
        host.script.ui(False)
        for arguments in (
            [True, "mixed", "same", "by position", False, None],
            [True, "mixed", "off", "by position", True, None],
            [True, "turns", "other", "by noise level", False, None],
            [True, "auto", "same", "by position", False, 3.5],
            [True, "mixed", "auto", "by position", False, 2.0],
        ):
            text = generate(host, *arguments).text
            assert [field[1](text) for field in host.script.infotext_fields] == [*arguments, 0]

    def test_keys_are_such_that_the_host_can_read(self) -> None:
        import re

        for key in json.loads(GOLDEN.read_text(encoding="utf-8"))["infotext"].values():
            assert re.fullmatch(r"\w[\w \-/]+", key)

    def test_nothing_but_the_host_torch_and_the_standard_library_is_imported(self) -> None:
        allowed = {"torch", "flexiffusion", "webui_extension", "modules", "gradio"} | set(sys.stdlib_module_names)
        for path in [*(ROOT / "webui_extension").glob("*.py"), ROOT / "scripts" / "flexiffusion_webui.py"]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [str(node.module)]
                assert {name.partition(".")[0] for name in names} <= allowed, path.name
                assert not any(name.startswith(("backend", "ldm_patched")) for name in names)

    def test_nothing_is_imported_after_loading(self) -> None:
        """AUTOMATIC1111 has the extension on its path only while it loads."""
        for path in (ROOT / "webui_extension").glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            inside = [
                node
                for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef)
                for node in ast.walk(function)
                if isinstance(node, (ast.Import, ast.ImportFrom))
            ]
            assert inside == [], path.name


class TestGeneration:
    def test_off_is_untouched(self, host: HostModules) -> None:
        plain, _ = host.webui.run(None, steps=10, x=host.webui.noise(seed=3))
        for arguments in ([], [False], [False, "mixed"], [None, "mixed"]):
            processed = generate(host, *arguments)
            assert torch.equal(processed.latents[0], plain)
            assert processed.text == {} and processed.comments == ""

    def test_a_preset_by_name_by_marked_choice_and_by_text(
        self, host: HostModules, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fresh = WebUI()  # without the script
        expected, _ = fresh.run(segments("FPP FPN FPNN"), steps=10, x=fresh.noise(seed=3))
        text = codec.dumps(segments("FPP FPN FPNN")).decode()
        for choice in ("mixed", " mixed ", "mixed [sd15]", text):
            processed = generate(host, True, choice)
            assert torch.equal(processed.latents[0], expected)
            assert processed.text["Flexi run"] == "full 3, partial 4, null 3, misses 0"
            again = generate(host, True, processed.text["Flexi schedule"])
            assert torch.equal(again.latents[0], expected)
        assert "[Flexiffusion] drawn: full 3, partial 4, null 3, misses 0" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ([True, "nowhere"], "there is no schedule 'nowhere'"),
            ([True, ""], "no schedule is chosen"),
            ([True, "{"], "not JSON"),
            ([True, 5], "argument 1 (schedule): 5 is no str"),
            (["yes", "mixed"], "argument 0 (enabled)"),
            ([True, "mixed", "same", "backwards"], "argument 3 (mapping)"),
            ([True, "other"], "made for sdxl"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_run_is_said_under_the_picture(
        self, host: HostModules, arguments: list[Any], message: str
    ) -> None:
        plain = generate(host)
        processed = generate(host, *arguments)
        assert torch.equal(processed.latents[0], plain.latents[0])
        assert message in processed.comments
        assert "Flexi run" not in processed.text
        assert message in processed.text["Flexi note"]  # which API users get too

    def test_what_is_kept_for_the_host_is_texts_alone(self, host: HostModules) -> None:
        """Forge Classic writes it as JSON, and fails at anything else; other hosts' API answers with null."""
        first = generate(host, True, "mixed", "same", "by position", True)
        kept = json.loads(first.info)
        assert kept == {
            "Flexi schedule": "mixed", "Flexi compare": "True", "Flexi run": "full 3, partial 4, null 3, misses 0",
        }  # fmt: skip
        both = json.loads(generate(host, True, "mixed", enable_hr=True).info)
        assert all(isinstance(value, str) for value in both.values()) and "Flexi hires run" in both

    @pytest.mark.parametrize("without", ["none", "nowhere", "other"])
    def test_a_cell_of_a_plot_says_nothing_of_the_cell_before(self, host: HostModules, without: str) -> None:
        host.before_ui[0]()
        axis = next(option for option in host.xyz.axis_options if option.label == "[Flexiffusion] Schedule")
        p = Processing(functools.partial(SamplerObject, host.webui, stand_in.euler), [False])
        texts = []
        for value in ("mixed", without, "mixed"):
            cell = copy.copy(p)  # the host's plot does no more
            axis.apply(cell, value, [])
            texts.append(ast.literal_eval(host.generate(cell).infotexts[0]))
        assert "Flexi run" in texts[0] and texts[2] == texts[0]
        assert "Flexi run" not in texts[1] and ("Flexi schedule" in texts[1]) == (without == "other")

    def test_a_pass_that_runs_the_plain_way_says_nothing_of_the_batch_before(self, host: HostModules) -> None:
        made = []

        def sampler() -> SamplerObject:
            made.append(1)
            return SamplerObject(host.webui, stand_in.euler if len(made) == 1 else stand_in.dpm_fast)

        processed = host.generate(Processing(sampler, [True, "mixed"], n_iter=2))
        first, second = (ast.literal_eval(text) for text in processed.infotexts)
        assert "Flexi run" in first and "Flexi note" not in first
        assert "Flexi run" not in second and "plain way" in second["Flexi note"]

    def test_hires(self, host: HostModules) -> None:
        same = generate(host, True, "mixed", enable_hr=True).text
        assert {"Flexi run", "Flexi hires run"} <= same.keys() and "Flexi hires" not in same
        off = generate(host, True, "mixed", "off", enable_hr=True)
        assert "Flexi hires run" not in off.text and off.text["Flexi hires"] == "off"
        own = generate(host, True, "mixed", "turns", enable_hr=True).text
        assert own["Flexi hires"] == "turns" and own["Flexi hires run"] != same["Flexi hires run"]
        unknown = generate(host, True, "mixed", "nowhere", enable_hr=True)
        assert "there is no schedule 'nowhere'" in unknown.comments
        assert "Flexi run" in generate(host, True, "mixed", "nowhere").text  # no hires pass: not needed

    def test_auto_takes_the_rule_for_what_is_run(self, host: HostModules, capsys: pytest.CaptureFixture[str]) -> None:
        for speedup, full in ((2, 10), (3.0, 6), (4.0, 5)):
            processed = generate(host, True, "auto", "same", "by position", False, speedup, steps=20)
            assert processed.text["Flexi run"] == f"full {full}, partial {20 - full}, null 0, misses 0"
            assert processed.text["Flexi schedule"] == "auto" and processed.text["Flexi speed-up"] == f"{speedup:g}"
            assert f"Auto: the rule for {speedup:g}x" in capsys.readouterr().out and processed.comments == ""
        hires = generate(host, True, "auto", "same", "by noise level", False, 2.0, steps=20, enable_hr=True)
        assert hires.text["Flexi hires run"] == "full 6, partial 7, null 0, misses 0"  # of the 13 that are run
        only = generate(host, True, "mixed", "auto", "by position", False, 2.0, steps=20, enable_hr=True)
        assert only.text["Flexi hires run"] == hires.text["Flexi hires run"]

    def test_auto_says_where_there_is_nothing_to_gain(self, host: HostModules) -> None:
        processed = generate(host, True, "auto", steps=8)
        assert "nothing to gain here: 8 steps are few" in processed.comments
        assert "nothing to gain here" in processed.text["Flexi note"] and "Flexi run" not in processed.text
        assert torch.equal(processed.latents[0], generate(host, steps=8).latents[0])

    def test_auto_takes_a_searched_schedule_of_this_checkpoint(
        self, host: HostModules, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from webui_extension.host import library

        searched = segments(
            "FP " * 10,
            model=ModelInfo("sd15", 4, fingerprint=fingerprint_of(host.webui.unet)),
            provenance=Provenance("searched"),
        )
        codec.write(tmp_path / "models" / "flexiffusion" / "found.json", replace(searched, name="found"))
        library.refresh()
        generate(host, True, "auto", steps=20)
        out = capsys.readouterr().out
        family = network_of(host.webui.sd_model)
        assert family is not None
        expected = "found, searched for this checkpoint" if family.family == "sd15" else "the rule for 2x"
        assert expected in out

    @pytest.mark.parametrize("speedup", [0.5, 5, "2", True])
    def test_a_speed_up_out_of_range_is_refused(self, host: HostModules, speedup: Any) -> None:
        comments = generate(host, True, "auto", "same", "by position", False, speedup).comments
        assert "argument 5 (speedup)" in comments

    def test_every_batch_has_its_own_run(self, host: HostModules) -> None:
        processed = generate(host, True, "mixed", n_iter=3)
        assert len(processed.latents) == 3
        assert len(set(processed.infotexts)) == 1
        assert torch.equal(processed.latents[0], processed.latents[2])

    def test_an_inner_generation_keeps_the_outer_one_whole(self, host: HostModules) -> None:
        """ADetailer makes pictures inside of a picture, with scripts of its own choice."""
        alone = generate(host, True, "mixed", enable_hr=True)

        class Outer(SamplerObject):
            def sample(self, *arguments: Any, **more: Any) -> Any:
                if not host.nested:  # type: ignore[attr-defined]
                    host.nested = True  # type: ignore[attr-defined]
                    generate(host, True, "turns", _ad_inner=True)
                return super().sample(*arguments, **more)

        host.nested = False  # type: ignore[attr-defined]
        p = Processing(functools.partial(Outer, host.webui, stand_in.euler), [True, "mixed"], enable_hr=True)
        processed = host.generate(p)
        assert ast.literal_eval(processed.infotexts[0]) == alone.text
        assert torch.equal(host.latents[-1], alone.latents[-1])

    def test_used_outside_of_what_it_was_searched_for(self, host: HostModules, tmp_path: Path) -> None:
        searched = segments(
            "FPP FPN FPNN",
            sampling=Sampling("heun", "karras", 10, 7.5, (512, 512), None),
            provenance=Provenance("searched"),
        )
        comments = generate(host, True, codec.dumps(searched).decode(), func=stand_in.euler).comments
        for words in ("heun", "sampler euler", "cfg 7", "64 x 64 pixels", "not measured there"):
            assert words in comments
        fitting = generate(
            host, True, codec.dumps(searched).decode(), func=stand_in.heun, cfg_scale=7.5, width=512, height=512
        )
        assert fitting.comments == ""

    def test_compare(self, host: HostModules) -> None:
        plain, ours = generate(host, seed=77), generate(host, True, "mixed", seed=77)
        both = generate(host, True, "mixed", "same", "by position", True, seed=-1)
        assert torch.equal(both.latents[0], plain.latents[0]) and torch.equal(both.latents[1], ours.latents[0])
        assert len(both.images) == 3 and both.images[1].size == (16, 8)
        assert "plain, " in both.comments and "drawn, " in both.comments
        assert both.text["Flexi compare"] == "True" and both.infotexts[2] == plain.infotexts[0]
        inner = generate(host, True, "mixed", "same", "by position", True, _ad_inner=True)
        assert len(inner.images) == 1

    @pytest.mark.parametrize("flag", ["interrupted", "skipped"])
    @pytest.mark.parametrize("while_at", ["plain", "ours"])
    def test_compare_after_a_stop_shows_what_was_made_and_no_figures(
        self, host: HostModules, flag: str, while_at: str
    ) -> None:
        state = host.modules["modules.shared"]["state"]
        made: list[int] = []

        def sampler() -> SamplerObject:
            made.append(1)
            if len(made) == (1 if while_at == "plain" else 2):
                setattr(state, flag, True)
            return SamplerObject(host.webui, stand_in.euler)

        both = host.generate(Processing(sampler, [True, "mixed", "same", "by position", True], n_iter=1))
        assert len(both.images) == len(both.infotexts) == len(made)
        assert "not compared" in both.comments
        assert not any("x)" in text for text in (both.comments, *both.infotexts))
        assert "Flexi run" not in both.infotexts[-1]  # the plain picture comes last

    @pytest.mark.parametrize(
        "name",
        often(["turbo [v2]", " lead", "trail ", "{brace", "none", "same", "off", "auto", "a.json"], [" lead", "none"]),
    )
    def test_every_name_that_is_listed_can_be_chosen(self, host: HostModules, tmp_path: Path, name: str) -> None:
        from webui_extension.host import library

        codec.write(tmp_path / "models" / "flexiffusion" / f"{name}.json", segments("FPPPP FPPPP", model=SD15))
        library.refresh()
        for family in ("sd15", "sdxl", None):
            (choice,) = (c for c in library.choices(family) if name.strip() in c and "/" not in c and _is(c, name))
            processed = generate(host, True, choice, choice, enable_hr=True)
            for key in ("Flexi run", "Flexi hires run"):
                assert processed.text[key].startswith("full 2, partial "), choice
            again = generate(host, True, processed.text["Flexi schedule"].strip())
            assert again.text["Flexi run"] == processed.text["Flexi run"]

    @pytest.mark.parametrize("enabled", [1, "true", " True "])
    def test_a_yes_may_be_written_as_api_clients_do(self, host: HostModules, enabled: Any) -> None:
        assert "Flexi run" in generate(host, enabled, "mixed").text
        assert "Flexi run" not in generate(host, {True: 0}.get(bool(enabled)), "mixed").text

    def test_placing_by_level_what_records_none_is_refused_in_the_words_of_the_control(self, host: HostModules) -> None:
        for arguments in ([True, "mixed", "same", "by noise level"], [True, "turns", "mixed", "by noise level"]):
            comments = generate(host, *arguments, enable_hr=True).comments
            assert 'Choose "by position"' in comments
            assert "$" not in comments and "mapping" not in comments

    def test_a_host_without_the_callback_says_so(
        self, host: HostModules, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """AUTOMATIC1111 before 1.10, SD.Next: the accordion is there, and nothing would ever be called."""
        plain = generate(host)
        monkeypatch.delattr(Script, "process_before_every_sampling")
        host.script.ui(False)
        said = next(c for c in Component.made if str(c.arguments.get("elem_id")).endswith("problem"))
        assert "too old" in said.value and "1.10" in said.value
        processed = generate(host, True, "mixed", "same", "by position", True)
        assert torch.equal(processed.latents[0], plain.latents[0]) and len(processed.latents) == 1
        assert "too old" in processed.comments and "too old" in caplog.text and list(processed.text) == ["Flexi note"]

    def test_the_consoles_bar_ends_where_it_should(self, host: HostModules) -> None:
        """It is moved by the host at every evaluated step, and over the 3 null ones by us."""
        generate(host, True, "mixed")
        assert len(host.bar) == 3
        del host.bar[:]
        generate(host, True, codec.dumps(segments("FP FP FP FP FP")).decode())
        assert host.bar == []

    def test_axes(self, host: HostModules) -> None:
        for _ in range(2):  # the UI may be built again
            host.before_ui[0]()
        options = {option.label: option for option in host.xyz.axis_options}
        assert list(options) == [
            "Nothing", "[Flexiffusion] Speed-up (auto)", "[Flexiffusion] Schedule", "[Flexiffusion] Hires schedule",
        ]  # fmt: skip
        axis = options["[Flexiffusion] Schedule"]
        assert axis.choices()[:2] == ["none", "auto"] and "mixed" in axis.choices()
        latents = []
        for value in ("none", "mixed"):
            cell = Processing(functools.partial(SamplerObject, host.webui, stand_in.euler), [False])
            axis.apply(cell, value, [])
            options["[Flexiffusion] Hires schedule"].apply(cell, "off", [])
            host.generate(cell)
            latents.append(host.latents[-1])
        assert torch.equal(latents[0], generate(host).latents[0])
        assert torch.equal(latents[1], generate(host, True, "mixed").latents[0])

    def test_the_refiner_callback_is_registered(self, host: HostModules) -> None:
        (callback,) = host.denoiser_callbacks
        callback(object())  # another extension's denoiser parameters, without a denoiser

    def test_a_generation_without_a_model(self, host: HostModules) -> None:
        plain = generate(host)
        host.webui.sd_model.model = None
        processed = generate(host, True, "mixed")
        assert "no model is loaded" in processed.comments
        assert torch.equal(processed.latents[0], plain.latents[0])


def _is(choice: str, name: str) -> bool:
    return choice.partition(" [sd15]")[0] in (name, f"{name}.json")


def test_warnings_are_shown_where_the_host_shows_errors_alone(host: HostModules, caplog: Any) -> None:
    """As Forge Neo does: nobody would learn why a picture was made the plain way."""
    from webui_extension.callbacks import register

    root, ours = logging.getLogger(), logging.getLogger("flexiffusion")
    levels = root.level, ours.level
    try:
        root.setLevel(logging.ERROR)
        ours.setLevel(logging.NOTSET)
        register()
        generate(host, True, "nowhere")
        assert "there is no schedule 'nowhere'" in caplog.text
    finally:
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


class TestUi:
    def test_it_can_be_built_again_and_again(self, host: HostModules) -> None:
        first = [(type(c).__name__, c.label) for c in host.script.ui(False)]
        assert [(type(c).__name__, c.label) for c in host.script.ui(False)] == first

    def test_presets_that_do_not_fit_are_marked_and_last(self, host: HostModules, monkeypatch: Any) -> None:
        from webui_extension import host as of_host

        monkeypatch.setattr(of_host, "checkpoint_family", lambda title=None: "sd15")
        choices = host.script.ui(False)[1].choices
        marked = [choice for choice in choices if choice.endswith("]")]
        assert choices[-len(marked) :] == marked and "other [sdxl]" in marked
        assert "fifteen" in choices and "sd15-deepcache-3" in choices and "fifteen [sd15]" not in choices
        turns = [choice for choice in choices if choice.startswith("sd15-turns-")]
        assert turns == [f"sd15-turns-{number}" for number in (6, 8, 10, 12, 15)]
        monkeypatch.setattr(of_host, "checkpoint_family", lambda title=None: None)
        assert "other" in host.script.ui(False)[1].choices

    def test_it_can_be_built_while_the_host_walks_through_all_objects(
        self, host: HostModules, monkeypatch: Any
    ) -> None:
        """CPython then refuses to build a tuple of a generator, in any thread (seen in reForge while it loaded)."""
        from webui_extension import host as of_host

        def refused(network: Any) -> None:
            raise SystemError("Objects/tupleobject.c:927: bad argument to internal function")

        monkeypatch.setattr(of_host, "network_of", lambda loaded: SimpleNamespace(unet=torch.nn.Identity()))
        assert of_host.unsupported() == "Identity has no blocks that a step could leave out"
        monkeypatch.setattr(of_host, "why_not_cut", refused)
        assert of_host.unsupported() is None

    def test_refresh_finds_new_files_and_leaves_broken_ones_out(
        self, host: HostModules, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        page = Page(host)
        folder = tmp_path / "models" / "flexiffusion"
        codec.write(folder / "new.json", segments("F P P P P"[:1] + "PPPP"))
        (folder / "broken.json").write_text("{}", encoding="utf-8")
        schedules, hires, shown = page.fire("refresh", schedule="new")
        assert "new" in schedules["choices"] and "new" in hires["choices"] and schedules["value"] == "new"
        assert "1 full, 4 partial" in shown
        assert not any("broken" in choice for choice in schedules["choices"])
        assert "broken.json" in caplog.text

    def test_lists_and_choice_follow_the_checkpoint(self, host: HostModules, tmp_path: Path) -> None:
        """Forge and its kin load a model at the first picture: its file tells the family before that."""
        page = Page(host)
        for title, family in (("xl", "sdxl"), ("old", "sd15"), ("flux", "flux"), ("broken", None)):
            path = tmp_path / f"{title}.safetensors"
            write_header(path, family)
            host.checkpoints[title] = SimpleNamespace(filename=str(path))
        schedules, hires, _ = page.fire("checkpoint", schedule="sd15-deepcache-2", checkpoint="xl")
        assert schedules["value"] == "auto"
        assert schedules["choices"][0] == "auto" and schedules["choices"][1] == "other"
        assert "sd15-deepcache-2 [sd15]" in schedules["choices"] and hires["choices"][:3] == ["same", "off", "auto"]
        schedules, _, shown = page.fire("checkpoint", schedule="sdxl-deepcache-3", checkpoint="old")
        assert schedules["value"] == "auto" and "Does not fit" not in shown and "Auto: of 20 steps 10 in full" in shown
        assert page.fire("checkpoint", schedule="fifteen", checkpoint="old")[0]["value"] == "fifteen"
        assert page.fire("checkpoint", schedule="mixed", checkpoint="flux")[0]["value"] == "auto"
        text = codec.dumps(segments("FPP FPN FPNN")).decode()
        assert page.fire("checkpoint", schedule=text, checkpoint="xl")[0]["value"] == text
        # nothing is known of it: nothing is marked, nothing is chosen instead
        schedules, _, _ = page.fire("checkpoint", schedule="mixed", checkpoint="broken")
        assert schedules["value"] == "mixed" and not any(choice.endswith("]") for choice in schedules["choices"])
        host.modules["modules.shared"]["opts"].sd_model_checkpoint = "xl"
        assert page.fire("enabled", schedule="mixed")[0]["value"] == "auto"

    def test_it_says_before_drawing_what_is_gained(self, host: HostModules) -> None:
        page = Page(host)
        shown = page.fire("steps", schedule="sd15-deepcache-3", steps=30)
        assert "of 30 steps 10 in full, 20 in part: at best about 2.1 times as fast" in shown
        assert "of 20 steps 7 in full, 13 in part" in page.fire("steps", schedule="sd15-deepcache-3", steps=20)
        few = page.fire("steps", schedule="sd15-turns-15", steps=8)
        assert "of 8 steps 4 in full, 4 in part: at best about 1.9 times as fast" in few
        assert "the scheduler is not used" in few and "fewer than 30 steps" in few
        assert "nothing to gain" in page.fire("steps", schedule="sd15-deepcache-3", steps=4)
        assert "Hires pass" not in shown
        hires = page.fire("steps", schedule="sd15-deepcache-3", steps=30, **{"hr-checkbox": True, "hires_steps": 10})
        assert "Hires pass: of 10 steps " in hires
        off = page.fire("steps", schedule="sd15-deepcache-3", hires="off", **{"hr-checkbox": True})
        assert "Hires pass: the plain way" in off
        own = page.fire("hires", schedule="sd15-deepcache-3", hires="nowhere", **{"hr-checkbox": True})
        assert "there is no schedule" in own
        assert shown.count("not measured") == 1 and "&lt;" not in shown

    def test_it_says_before_drawing_what_img2img_gains(self, host: HostModules) -> None:
        page = Page(host, img2img=True)
        shown = page.fire("denoising_strength", schedule="sd15-turns-15", steps=20, denoising_strength=0.3)
        assert "of 7 steps 4 in full, 3 in part: at best about 1.7 times as fast" in shown
        assert "too few" in page.fire("steps", schedule="sd15-turns-15", steps=10, denoising_strength=0.3)

    def test_the_slider_is_what_the_accordion_opens_with(self, host: HostModules) -> None:
        page = Page(host)
        shown = page.fire("speedup", speedup=3.0, steps=30)
        assert "Auto: of 30 steps 10 in full, 20 in part: at best about 3.0 times as fast" in shown
        assert "not measured" not in shown
        (release,) = (event for event in page.all["speedup"].events if event[0] == "release")
        assert release[1]() == "auto" and release[3] == [page.all["schedule"]]
        assert "nothing to gain here: 8 steps are few already" in page.fire("steps", steps=8)
        hires = page.fire("steps", steps=30, denoising_strength=0.5, **{"hr-checkbox": True, "hires_steps": 12})
        assert "Hires pass: Auto: of 12 steps 6 in full" in hires

    def test_image_to_image_has_no_control_of_a_pass_that_it_has_not(self, host: HostModules) -> None:
        for is_img2img in (False, True):
            hires = host.script.ui(is_img2img)[2]  # an argument of the API in both
            assert hires.label == "Hires pass" and hires.arguments["visible"] is not is_img2img

    def test_a_model_that_cannot_be_cut_is_said_before_drawing(self, host: HostModules) -> None:
        page = Page(host)
        host.webui.sd_model.model.diffusion_model = torch.nn.Linear(2, 2)
        assert "This model is not supported: Linear" in page.fire("steps", schedule="sd15-deepcache-3", steps=30)

    def test_the_preview_escapes_what_strangers_wrote(self, host: HostModules) -> None:
        from webui_extension import ui

        evil = segments("FPP FPN FPNN", description="<script>alert(1)</script>", provenance=Provenance("searched"))
        shown = ui.show(codec.dumps(evil).decode())
        assert "<script>" not in shown and "&lt;script&gt;" in shown
        assert "3 full, 4 partial, 3 null" in shown
        assert shown.count("title=") == 10
        assert [shown.count(colour) for colour in KIND_COLOURS.values()] == [3 + 1, 4 + 1, 3 + 1], (
            "steps and the legend"
        )
        assert "there is no schedule" in ui.show("<b>nowhere</b>") and "<b>nowhere" not in ui.show("<b>nowhere</b>")
        assert "not measured" in ui.show("sd15-deepcache-3")
        assert "images" in ui.show("tiny-fashion-dpmpp_2m-30-2x")

    @pytest.mark.parametrize("without", [None, "scheduler"])
    def test_the_button_uses_what_the_preset_was_made_with(self, host: HostModules, without: str | None) -> None:
        """Forge Classic has no scheduler beside the sampler."""
        page = Page(host, without=without)
        made = segments("FPP FPN FPNN", sampling=Sampling("dpmpp_2m", "karras", 10, 7.5, None, None))
        expected = {"steps": {"value": 10}, "sampling": {"value": "DPM++ 2M"}, "scheduler": {"value": "Karras"}}
        text = codec.dumps(made).decode()
        assert page.press(text) == {name: change for name, change in expected.items() if name != without}
        assert page.press("mixed") == {name: {"value": 10} if name == "steps" else {} for name in page.press("mixed")}
        assert all(change == {} for change in page.press("nowhere").values())


class Page:
    """A tab of the host: its own controls are made after the accordion, its checkpoint list last."""

    def __init__(self, host: HostModules, img2img: bool = False, without: str | None = None) -> None:
        tab = "img2img" if img2img else "txt2img"
        host.script.is_img2img = img2img
        self.accordion = dict(
            zip(
                ("enabled", "schedule", "hires", "mapping", "compare", "speedup", "search"),
                host.script.ui(img2img),
                strict=True,
            )
        )
        host.script.ui(img2img)  # once more, for the API's defaults
        made = {
            "steps": Component(20), "sampling": Component("Euler a", choices=["Euler a", "DPM++ 2M", "UniPC"]),
            "scheduler": Component("Automatic", choices=["Automatic", "Karras", "Align Your Steps"]),
            "denoising_strength": Component(0.7),
        }  # fmt: skip
        if not img2img:
            made |= {"hr-checkbox": Component(False), "hires_steps": Component(0)}
        self.own = {name: component for name, component in made.items() if name != without}
        for name, component in self.own.items():
            host.script.after_component(component, elem_id=f"{tab}_{name}")
            host.script.after_component(component, elem_id=f"other_{name}")
        self.own["checkpoint"] = Component(None, label="Checkpoint")
        for callback in host.after_component:
            callback(self.own["checkpoint"], label="Checkpoint")
        buttons = {
            name: next(c for c in Component.made if str(c.arguments.get("elem_id")).endswith(f"_{name}"))
            for name in ("refresh", "use")
        }
        self.all = self.accordion | self.own | buttons

    def fire(self, name: str, **values: Any) -> Any:
        """What the one listener of a control answers, with these values on the page."""
        ((_, function, inputs, _),) = (event for event in self.all[name].events if event[0] != "release")
        names = {id(component): key for key, component in self.all.items()}
        return function(*(values.get(names[id(component)], component.value) for component in inputs))

    def press(self, schedule: str) -> dict[str, Any]:
        """What the button sets."""
        names = {id(component): key for key, component in self.all.items()}
        return {names[id(outputs[0])]: function(schedule) for _, function, _, outputs in self.all["use"].events}


def write_header(path: Path, family: str | None) -> None:
    """A checkpoint's file without its tensors."""
    shapes: dict[str, list[int]] = {}
    if family in ("sd15", "sdxl"):
        width, branches = FAMILIES[family].width, FAMILIES[family].branches
        for i in range(branches):
            shapes[f"model.diffusion_model.input_blocks.{i}.1.transformer_blocks.0.attn2.to_k.weight"] = [320, width]
    elif family == "flux":
        shapes |= {f"double_blocks.{i}.img_attn.qkv.weight": [9216, 3072] for i in range(19)}
        shapes |= {f"single_blocks.{i}.linear1.weight": [21504, 3072] for i in range(38)}
    text = json.dumps(
        {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    )
    data = text.encode() if family else b"{"
    path.write_bytes(len(data).to_bytes(8, "little") + data)


@pytest.mark.parametrize(
    "label, name",
    [
        ("DPM++ 2M", "dpmpp_2m"), ("DPM++ 2S a", "dpmpp_2s_ancestral"), ("DPM2 a", "dpm_2_ancestral"),
        ("DPM2", "dpm_2"), ("Euler a", "euler_ancestral"), ("Euler", "euler"), ("UniPC", "uni_pc"), ("DDIM", "ddim"),
        ("DPM++ 3M SDE", "dpmpp_3m_sde"), ("SGM Uniform", "sgm_uniform"), ("Karras", "karras"), ("PLMS", "plms"),
    ],
)  # fmt: skip
def test_labels_of_the_host_as_schedule_files_write_them(label: str, name: str, host: HostModules) -> None:
    from webui_extension.generation import plain_name

    assert plain_name(label) == name


def test_metadata_is_what_the_host_reads() -> None:
    import configparser

    parser = configparser.ConfigParser()
    parser.read(ROOT / "metadata.ini")
    assert parser["Extension"]["Name"] == "flexiffusion"
