"""The extension in the real AUTOMATIC1111, Forge, Forge Neo and reForge, over their HTTP API (marker host).

WEBUI_PATH, FORGE_PATH, FORGE_NEO_PATH and REFORGE_PATH name checkouts whose `venv` can run them; AUTOMATIC1111 also
needs the tokenizer and the configuration of openai/clip-vit-large-patch14 in the Hugging Face cache (HF_HOME). Counts
are taken by hooks of the probe extension, not by what is tested.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webui_server import NAMES, Server, start, stop

from flexiffusion.codec import read
from flexiffusion.presets import bundled_folder
from flexiffusion.schedule import StepsPlan

pytestmark = [pytest.mark.host, pytest.mark.timeout(1500)]


def schedule(pattern: str, name: str = "drawn", branch: int = 2, **more: Any) -> str:
    """A schedule file's text: "FPP FPNN" are two segments."""
    parts = pattern.split()
    document = {
        "format": "flexiffusion/schedule", "version": 1, "name": name,
        "model": {"family": "sd15", "branches": 12},
        "sampling": {"sampler": None, "scheduler": None, "steps": sum(map(len, parts)), "cfg": None, "size": None,
                     "prediction": None},
        "plan": {"kind": "segments", "segments": [
            {"steps": len(part), "active": len(part.rstrip("N")), "branch": branch} for part in parts]},
        "provenance": {"kind": "heuristic"},
    }  # fmt: skip
    return json.dumps(document | more)


ALL_FULL = schedule("F " * 8)
MIXED = schedule("FPN FP FPN")  # of 8 steps 3 full, 3 partial, 2 null


@pytest.fixture(scope="module", params=list(NAMES))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(request.param, tmp_path_factory.mktemp(request.param))
    if running is None:
        pytest.skip("no checkout is given (WEBUI_PATH, FORGE_PATH, FORGE_NEO_PATH, REFORGE_PATH)")
    yield running
    stop(running)


def own_levels(name: str, steps: int) -> tuple[tuple[float, ...], dict[str, int]]:
    """Noise levels of a bundled schedule that brings its own, and what a run of so many steps then counts."""
    plan = read(bundled_folder() / f"{name}.json").plan
    assert isinstance(plan, StepsPlan)
    kinds = [action.kind for action in plan.actions()]
    full, partial = kinds.count("full"), kinds.count("partial")
    return plan.levels, {"full": full, "partial": partial, "null": steps - len(kinds), "misses": 0}


def counts(text: str | None) -> dict[str, int]:
    assert text is not None, "no counts in the infotext"
    return {name: int(value) for name, value in (pair.split() for pair in text.split(", "))}


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def mask() -> Image.Image:
    return Image.fromarray(np.kron([[255, 0], [0, 255]], np.ones((32, 32))).astype(np.uint8))


def documented_samplers(host: str) -> dict[str, str]:
    """The table of docs/webui.md: what happens with each sampler that is named in the host's column."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "webui.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    head = next(i for i, row in enumerate(rows) if row[0] == "what happens")
    column = rows[head].index(host)
    table = itertools.takewhile(lambda row: len(row) == len(rows[head]), rows[head + 2 :])
    return {
        name: row[0].partition(":")[0]
        for row in table
        for name in row[column].split(", ")
        if name not in ("", "all others")
    }


def what_happens(server: Server, name: str) -> str:
    """The row of the table. All full must be off, pixel by pixel, and what is said must be what hooks have counted."""
    off = server.generate(sampler_name=name)
    again = server.generate(sampler_name=name)
    full = server.generate([True, ALL_FULL], sampler_name=name)
    if again.pixels == off.pixels:
        assert full.pixels == off.pixels, "all full is not off"
    assert full.values == off.values and full.steps == off.steps, "all full evaluates other levels"
    before = len(server.logged())
    ours = server.generate([True, MIXED], sampler_name=name)
    if ours.key("Flexi run") is None:
        assert ours.values == off.values and "plain way" in server.logged()[before:], "the plain way, and not said"
        return "plain way"
    said = counts(ours.key("Flexi run"))
    assert (said["full"] + said["partial"], said["full"]) == (ours.calls, ours.full), f"{said} is not what was run"
    if not said["partial"]:
        assert "not one step could run in part" in server.logged()[before:], "nothing was saved, and not said"
        assert not off.finite, "nothing was saved, though it gives a picture without a schedule"
        return "nothing"
    if said["misses"]:
        return "misses"
    if not said["null"]:
        assert ours.values == off.values
        return "no null steps"
    assert said["null"] == 2 and len(ours.values) < len(off.values), "null steps do not act"
    if len(off.values) == 8 and (said["full"], said["partial"]) != (3, 3):  # one evaluation a step
        return "above its levels"
    return "all others"


class TestScript:
    def test_the_api_lists_the_arguments_in_their_order(self, server: Server) -> None:
        listed = {script["name"]: script for script in server.call("/sdapi/v1/script-info")}
        assert [argument["label"] for argument in listed["flexiffusion"]["args"]] == [
            "Flexiffusion", "Schedule", "Hires pass", "With another number of steps",
            "Compare: make the plain picture too", "Speed-up (auto)", "Minutes of a search in place of a picture",
        ]  # fmt: skip
        assert "sd15-deepcache-3" in listed["flexiffusion"]["args"][1]["choices"]

    def test_a_bundled_preset(self, server: Server) -> None:
        ours = server.generate([True, "sd15-deepcache-3"], steps=30)
        assert counts(ours.key("Flexi run")) == {"full": 10, "partial": 20, "null": 0, "misses": 0}
        assert (ours.calls, ours.full) == (30, 10)
        assert ours.key("Flexi schedule") == "sd15-deepcache-3"

    def test_auto(self, server: Server) -> None:
        ours = server.generate([True, "auto", "same", "by position", False, 3], steps=30)
        assert counts(ours.key("Flexi run")) == {"full": 10, "partial": 20, "null": 0, "misses": 0}
        assert (ours.calls, ours.full) == (30, 10)
        few = server.generate([True, "auto"], steps=8)
        assert few.full == 8 and "nothing to gain here" in str(few.key("Flexi note"))

    def test_own_noise_levels(self, server: Server) -> None:
        levels, expected = own_levels("sd15-turns-8", 20)
        ours = server.generate([True, "sd15-turns-8"], steps=20)
        assert counts(ours.key("Flexi run")) == expected
        assert ours.values[1] == pytest.approx(levels[1], rel=1e-4)

    def test_pictures_bring_their_settings_back(self, server: Server) -> None:
        if server.gradio4:
            pytest.skip("`infotext` of Forge's API fails by itself (dfdcbab6, a list type in isinstance)")
        settings = [True, "sd15-deepcache-2", "off", "by position", False]
        first = server.generate(settings, steps=10)
        again = server.restore(first.infotext)
        assert again.pixels == first.pixels
        assert again.key("Flexi hires") == "off"
        drawn = server.generate([True, MIXED])
        assert server.restore(drawn.infotext).pixels == drawn.pixels

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ([True, "no-such-preset"], "there is no schedule"),
            ([True, "sdxl-deepcache-2"], "made for sdxl"),
            ([True, '{"format": 1}'], "format"),
            ([True, 7], "is no str"),
            ([True, "sd15-deepcache-2", "same", "sideways"], "is not known"),
        ],
    )
    def test_what_cannot_be_run_is_said_and_runs_the_plain_way(
        self, server: Server, arguments: list[Any], message: str
    ) -> None:
        before = len(server.logged())
        ours = server.generate(arguments)
        assert ours.pixels == server.generate().pixels
        assert message in server.logged()[before:]

    def test_the_users_own_folder(self, server: Server) -> None:
        folder = server.folder / "models" / "flexiffusion"
        folder.mkdir(exist_ok=True)
        (folder / "mine.json").write_text(MIXED, encoding="utf-8")
        ours = server.generate([True, "mine"])  # read again when a name is asked for that is not known
        assert ours.key("Flexi schedule") == "mine" and counts(ours.key("Flexi run"))["null"] == 2
        (folder / "turbo [v2].json").write_text(MIXED, encoding="utf-8")
        assert server.generate([True, "turbo [v2]"]).pixels == ours.pixels

    def test_nothing_is_written_into_the_extension(self, server: Server) -> None:
        root = Path(__file__).resolve().parents[2]
        listed = {path.name for path in root.iterdir()}
        server.generate([True, MIXED])
        assert {path.name for path in root.iterdir()} == listed


class TestSamplers:
    def test_every_sampler_does_what_the_documentation_says(self, server: Server) -> None:
        """All samplers of the host in one test, since the list is the host's own; docs/webui.md has them in a table.

        HOST_TABLES=FOLDER writes what was seen, one JSON file for each host. HOST_SAMPLERS="Euler,Restart" looks at
        these alone.
        """
        seen, wrong = {}, []
        asked = os.environ.get("HOST_SAMPLERS")
        for name in asked.split(",") if asked else server.samplers:
            try:
                seen[name] = what_happens(server, name)
            except AssertionError as error:
                wrong.append(f"{name}: {str(error).splitlines()[0]}")
        if folder := os.environ.get("HOST_TABLES"):
            Path(folder, f"{server.kind}.json").write_text(json.dumps({"seen": seen, "wrong": wrong}, indent=1))
        assert not wrong
        documented = documented_samplers(NAMES[server.kind])
        assert {name: row for name, row in seen.items() if row != "all others"} == {
            name: row for name, row in documented.items() if name in seen
        }

    def test_own_noise_levels_in_timesteps(self, server: Server) -> None:
        ours = server.generate([True, "sd15-turns-6"], steps=20, sampler_name="DDIM")
        said = counts(ours.key("Flexi run"))
        assert (said["full"], said["partial"], said["misses"]) == (6, 6, 0)


class TestPasses:
    def hires(self, server: Server, arguments: list[Any] | None) -> Any:
        more: dict[str, Any] = {"hr_additional_modules": ["Use same choices"]} if server.gradio4 else {}
        more["hr_upscaler"] = "None" if server.kind == "neo" else "Latent"  # Forge Neo has none in latents
        return server.generate(
            arguments, enable_hr=True, hr_scale=2, denoising_strength=0.7, hr_second_pass_steps=8, hr_cfg=5, **more
        )

    def test_hires(self, server: Server) -> None:
        off = self.hires(server, None)
        # 8 steps at 0.7 are the tail of a list of 11
        assert self.hires(server, [True, ALL_FULL, schedule("F " * 11)]).pixels == off.pixels
        same = self.hires(server, [True, MIXED])
        assert counts(same.key("Flexi run"))["null"] == 2
        assert counts(same.key("Flexi hires run"))["partial"] > 0
        first_only = self.hires(server, [True, MIXED, "off"])
        assert first_only.key("Flexi hires run") is None and counts(first_only.key("Flexi run"))["null"] == 2
        own = self.hires(server, [True, ALL_FULL, "sd15-deepcache-5"])
        assert counts(own.key("Flexi run"))["partial"] == 0
        assert counts(own.key("Flexi hires run"))["partial"] > 0
        assert own.key("Flexi hires") == "sd15-deepcache-5"

    @pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DDIM"])
    def test_img2img_takes_the_tail(self, server: Server, sampler: str) -> None:
        request = {
            "mode": "img2img", "init_images": [encoded(picture())], "denoising_strength": 0.4, "steps": 20,
            "sampler_name": sampler,
        }  # fmt: skip
        off = server.generate(**request)
        assert server.generate([True, schedule("F " * 20)], **request).pixels == off.pixels
        ours = server.generate([True, schedule("FPPPP " * 4)], **request)
        said = counts(ours.key("Flexi run"))
        assert said["full"] == 2 and said["full"] + said["partial"] == len(off.values) and said["misses"] == 0
        assert ours.values == off.values

    def test_inpaint(self, server: Server) -> None:
        request = {
            "mode": "img2img", "init_images": [encoded(picture())], "mask": encoded(mask()), "steps": 12,
            "denoising_strength": 0.9, "inpainting_fill": 1,
        }  # fmt: skip
        off = server.generate(**request)
        # Forge draws the noise under the mask from no seed: it does not repeat itself
        if server.generate(**request).pixels == off.pixels:
            assert server.generate([True, schedule("F " * 12)], **request).pixels == off.pixels
        ours = server.generate([True, schedule("FP " * 6)], **request)
        assert counts(ours.key("Flexi run"))["partial"] >= 4 and ours.pixels != off.pixels

    def test_batches(self, server: Server) -> None:
        request = {"batch_size": 2, "n_iter": 2}
        off = server.generate(**request)
        full = server.generate([True, ALL_FULL], **request)
        assert [image.tobytes() for image in full.images] == [image.tobytes() for image in off.images]
        ours = server.generate([True, MIXED], **request)
        assert (ours.calls, ours.full) == (12, 6)
        for i, image in enumerate(ours.images[-4:]):
            single = server.generate([True, MIXED], seed=1 + i).images[0]
            difference = np.abs(np.asarray(image, int) - np.asarray(single, int))
            assert difference.max() <= 3, i  # rounding of batched matrix products

    def test_a_refiner_takes_over(self, server: Server) -> None:
        if server.kind != "a1111":
            pytest.skip("Forge and its kin load both models in full precision, more than a small machine's memory")
        request = {"refiner_checkpoint": "second", "refiner_switch_at": 0.5}
        off = server.generate(**request)
        assert server.generate([True, ALL_FULL], **request).pixels == off.pixels
        ours = server.generate([True, schedule("FPPPPPPP")], **request)
        said = counts(ours.key("Flexi run"))
        assert said["full"] + said["partial"] == 8 and said["misses"] == 1 and said["full"] == 2
        server.call("/sdapi/v1/options", {"sd_model_checkpoint": "tiny"})


class TestConditioning:
    @pytest.mark.parametrize(
        "request_",
        [
            {"prompt": "a cat AND a dog"},
            {"prompt": "word " * 90},
            {"prompt": "a [cat:dog:0.5] [by night|by day]"},
            {"s_min_uncond": 4.0},
            {"cfg_scale": 1.0},
            {"width": 72, "height": 40},
        ],
        ids=["AND", "long", "editing", "NGMS", "cfg 1", "odd size"],
    )
    def test_all_full_is_off_and_counts_are_right(self, server: Server, request_: dict[str, Any]) -> None:
        off = server.generate(**request_)
        assert server.generate([True, ALL_FULL], **request_).pixels == off.pixels
        ours = server.generate([True, MIXED], **request_)
        said = counts(ours.key("Flexi run"))
        assert (said["full"] + said["partial"], said["full"]) == (ours.calls, ours.full)
        assert said["null"] == 2
        # NGMS leaves the unconds out of a full step, so the next one with them finds no feature and runs in full
        assert said["misses"] == 0 or "s_min_uncond" in request_

    def test_split_batches(self, server: Server) -> None:
        if server.kind != "a1111":
            pytest.skip("Forge and its kin decide by free memory")
        joint = server.generate([True, MIXED])
        server.call("/sdapi/v1/options", {"batch_cond_uncond": False})
        try:
            off = server.generate()
            split = server.generate([True, MIXED])
            assert server.generate([True, ALL_FULL]).pixels == off.pixels
        finally:
            server.call("/sdapi/v1/options", {"batch_cond_uncond": True})
        assert (split.calls, split.full) == (2 * joint.calls, 2 * joint.full)
        assert counts(split.key("Flexi run"))["misses"] == 0
        difference = np.abs(np.asarray(split.images[0], int) - np.asarray(joint.images[0], int))
        assert difference.max() <= 3

    def test_prompt_editing_switches_where_it_would(self, server: Server) -> None:
        """With 4 of 8 levels taken out the switch at half of the steps still comes."""
        ours = server.generate([True, schedule("FPNN FPNN")], prompt="a [cat:dog:0.5]")
        assert ours.steps == [0, 1, 4, 5]
        for prompt in ("a cat", "a dog"):
            assert server.generate([True, schedule("FPNN FPNN")], prompt=prompt).pixels != ours.pixels


class TestOthers:
    def test_integrated_extensions(self, server: Server) -> None:
        if server.kind == "a1111":
            pytest.skip("they are Forge's and its kin's")
        infos = {script["name"]: script for script in server.call("/sdapi/v1/script-info")}
        tried = 0
        for name in infos:
            if not name.startswith(("freeu", "perturbed", "selfattention", "kohya")):
                continue
            arguments = [argument["value"] for argument in infos[name]["args"]]
            if not arguments or not isinstance(arguments[0], bool):
                continue
            arguments[0] = True
            # FreeU divides by the spread over a feature's places: at 64 pixels the deepest has one place, and is NaN
            request = {"alwayson_scripts": {name: {"args": arguments}}, "width": 128, "height": 128}
            off = server.generate(**request)
            assert server.generate([True, ALL_FULL], **request).pixels == off.pixels, name
            ours = server.generate([True, MIXED], **request)
            said = counts(ours.key("Flexi run"))
            assert (said["full"] + said["partial"], said["full"]) == (ours.calls, ours.full), name
            assert said["partial"] > 0, name
            tried += 1
        assert tried >= 3 or server.kind != "forge"

    def test_the_network_is_as_it_was(self, server: Server) -> None:
        server.generate([True, MIXED])
        before = server.call("/probe/unhook", {})
        for arguments in ([True, MIXED], [True, "sd15-turns-8"], [True, ALL_FULL]):
            server.generate(arguments)
            assert server.call("/probe/unhook", {}) == before

    @pytest.mark.parametrize("stop_by", ["interrupt", "skip"])
    def test_the_next_picture_after_a_stop_is_as_ever(self, server: Server, stop_by: str) -> None:
        expected = server.generate([True, MIXED])
        before = server.call("/probe/unhook", {})
        stopped: list[Any] = []
        long = schedule("FP " * 60)

        def work() -> None:
            stopped.append(server.generate([True, long], steps=120, width=128, height=128))

        thread = threading.Thread(target=work)
        thread.start()
        deadline = time.monotonic() + 60
        while server.call("/sdapi/v1/progress")["state"]["sampling_step"] < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        server.call(f"/sdapi/v1/{stop_by}", {})
        thread.join(200)
        assert stopped and stopped[0].calls < 120
        assert counts(stopped[0].key("Flexi run"))["full"] == stopped[0].full
        assert server.generate([True, MIXED]).pixels == expected.pixels
        assert server.call("/probe/unhook", {}) == before

    def test_compare_shows_both(self, server: Server) -> None:
        off, ours = server.generate(), server.generate([True, MIXED])
        both = server.generate([True, MIXED, "same", "by position", True])
        picture_, sheet, plain = both.images
        assert picture_.tobytes() == ours.pixels and plain.tobytes() == off.pixels
        assert sheet.width >= 128 and sheet.height > 64
        assert both.calls == off.calls + ours.calls
        assert both.key("Flexi compare") == "True"

    def test_what_is_kept_for_the_host_is_texts_alone(self, server: Server) -> None:
        """Forge Classic writes it as JSON and failed at every picture; elsewhere the API said null."""
        kept = server.generate([True, "sd15-deepcache-2"]).parameters
        assert kept["Flexi schedule"] == "sd15-deepcache-2"
        assert counts(kept["Flexi run"])["full"] == 4
        assert "Flexi hires run" not in kept

    @pytest.mark.parametrize("preset", ["sd15-turns-15", "sd15-turns-10"])
    @pytest.mark.parametrize("steps, denoise", [(20, 0.3), (20, 0.5), (8, None)])
    def test_turns_never_cost_more_than_plain(
        self, server: Server, preset: str, steps: int, denoise: float | None
    ) -> None:
        """Denoising strength 0.3 made 17 network calls, 7 without the schedule, and nobody said so."""
        request: dict[str, Any] = {"steps": steps}
        if denoise is not None:
            request |= {"mode": "img2img", "init_images": [encoded(picture())], "denoising_strength": denoise}
        off = server.generate(**request)
        before = len(server.logged())
        ours = server.generate([True, preset], **request)
        assert 0 < ours.calls <= off.calls and ours.full < off.full
        assert "it is thinned to" in server.logged()[before:]

    def test_compare_after_an_interrupt_of_the_plain_pass(self, server: Server) -> None:
        made: list[Any] = []
        arguments = [True, schedule("FPP " * 20), "same", "by position", True]
        thread = threading.Thread(target=lambda: made.append(server.generate(arguments, steps=60, width=128)))
        thread.start()
        deadline = time.monotonic() + 60
        while server.call("/sdapi/v1/progress")["state"]["sampling_step"] < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        server.call("/sdapi/v1/interrupt", {})
        thread.join(200)
        (stopped,) = made
        assert len(stopped.images) == 1 and stopped.calls < 60
        assert "x)" not in stopped.infotext and "Flexi run" not in stopped.infotext

    def test_a_plots_cell_without_schedule_says_so(self, server: Server) -> None:
        infos = {s["name"]: s for s in server.call("/sdapi/v1/script-info") if not s["is_img2img"]}
        arguments = [argument["value"] for argument in infos["x/y/z plot"]["args"]]
        labels = infos["x/y/z plot"]["args"][0]["choices"]
        arguments[0] = labels.index("[Flexiffusion] Schedule")
        arguments[1], arguments[2] = "", ["sd15-deepcache-2", "none"]
        for axis in (3, 6):
            arguments[axis : axis + 3] = labels.index("Nothing"), "", []
        labelled = {argument["label"]: i for i, argument in enumerate(infos["x/y/z plot"]["args"])}
        arguments[labelled["Include Sub Images"]] = True
        grid = server.generate(script_name="X/Y/Z plot", script_args=arguments, steps=8)
        texts = grid.infotexts[-2:]
        assert "Flexi run" in texts[0] and "Flexi" not in texts[1].replace("[Flexiffusion] Schedule", "")

    def test_the_xyz_plot(self, server: Server) -> None:
        # axes are numbered, and image to image has others
        infos = {s["name"]: s for s in server.call("/sdapi/v1/script-info") if not s["is_img2img"]}
        arguments = [argument["value"] for argument in infos["x/y/z plot"]["args"]]
        labels = infos["x/y/z plot"]["args"][0]["choices"]
        arguments[0] = labels.index("[Flexiffusion] Schedule")
        arguments[1], arguments[2] = "", ["none", "sd15-deepcache-2"]  # an axis with choices takes them from the list
        for axis in (3, 6):
            arguments[axis : axis + 3] = labels.index("Nothing"), "", []
        labelled = {argument["label"]: i for i, argument in enumerate(infos["x/y/z plot"]["args"])}
        arguments[labelled["Include Sub Images"]] = True
        grid = server.generate(script_name="X/Y/Z plot", script_args=arguments, steps=8)
        plain, ours = server.generate(), server.generate([True, "sd15-deepcache-2"])
        cells = {image.tobytes() for image in grid.images}
        assert (grid.calls, grid.full) == (16, 8 + ours.full)
        assert {plain.pixels, ours.pixels} <= cells


class TestSearch:
    @staticmethod
    def apart(first: Image.Image, second: Image.Image) -> float:
        """Mean difference of two pictures, of 255."""
        return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean())

    @pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M"])
    def test_what_it_finds_is_what_the_picture_shows_and_what_auto_takes(self, server: Server, sampler: str) -> None:
        request = {"steps": 12, "sampler_name": sampler, "scheduler": "Karras"}
        off = server.generate(**request)
        before = server.call("/probe/unhook", {})
        found = server.generate([True, "auto", "same", "by position", False, 2, 0.7], **request)
        assert server.call("/probe/unhook", {}) == before
        assert found.calls > found.full > 4 * 12
        picture_, sheet, plain = found.images
        assert sheet.width >= 128
        name = found.key("Flexi schedule")
        assert name is not None and (server.folder / "models" / "flexiffusion" / "searched" / f"{name}.json").exists()
        assert "candidates on 4 images" in str(found.key("Flexi search"))
        drawn = server.generate([True, name], **request)
        assert counts(drawn.key("Flexi run"))["misses"] == 0
        assert self.apart(drawn.images[0], picture_) < 0.2 * self.apart(plain, picture_)
        # the host's preview of a latent cuts a colour's fraction off, its own picture may round it
        assert np.abs(np.asarray(plain, int) - np.asarray(off.images[0], int)).max() <= 1
        logged = len(server.logged())
        taken = server.generate([True, "auto", "same", "by position", False, 2], **request)
        assert taken.pixels == drawn.pixels
        assert f"{name[:-9]}, searched for this checkpoint" in server.logged()[logged:]

    def test_interrupt_keeps_the_best_so_far(self, server: Server) -> None:
        made: list[Any] = []
        arguments = [True, "auto", "same", "by position", False, 3, 10]
        thread = threading.Thread(target=lambda: made.append(server.generate(arguments, steps=12)))
        thread.start()
        deadline = time.monotonic() + 200
        seen = ""
        while "schedules tried" not in seen and time.monotonic() < deadline:
            answer = server.call("/sdapi/v1/progress")
            seen = answer["textinfo"] or ""
            time.sleep(0.1)
        assert "s left" in seen and answer["eta_relative"] > 0
        time.sleep(5)
        server.call("/sdapi/v1/interrupt", {})
        thread.join(200)
        (stopped,) = made
        assert "it was interrupted" in str(stopped.key("Flexi search")) and len(stopped.images) == 3
        assert server.generate().images

    def test_what_cannot_be_searched_is_said(self, server: Server) -> None:
        arguments = [True, "auto", "same", "by position", False, 2, 1]
        few = server.generate(arguments)
        assert few.pixels == server.generate().pixels and "8 steps are few already" in str(few.key("Flexi note"))
        request = {"mode": "img2img", "init_images": [encoded(picture())], "steps": 12}
        assert "Search in txt2img" in str(server.generate(arguments, **request).key("Flexi note"))
