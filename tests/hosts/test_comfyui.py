"""The node pack in a running ComfyUI, through its HTTP API, with random weights. Rows are users' complaints."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui import PACK, Failed, Server
from drawn_schedules import schedule, segments, steps
from torch import Tensor
from workflows import TextToImage

from flexiffusion.codec import dumps, loads
from flexiffusion.schedule import ModelInfo, SegmentsPlan, StepsPlan

pytestmark = pytest.mark.host

NODES = {
    "FlexiffusionSampler",
    "FlexiffusionApplySchedule",
    "FlexiffusionLoadSchedule",
    "FlexiffusionScheduleSigmas",
    "FlexiffusionCompare",
    "FlexiffusionAuto",
    "FlexiffusionSearch",
}
T = 8
# every sampler of the host that evaluates once at each listed level, by what the pack says; the others get a note
TWELVE = (
    "euler", "euler_ancestral", "lms", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "ddpm", "lcm", "ipndm", "deis",
    "ddim", "uni_pc",
)  # fmt: skip
_names = itertools.count()


def written(plan: SegmentsPlan | StepsPlan, name: str = "test", **more: Any) -> str:
    return dumps(schedule(plan, name, teacher=T, **({"model": ModelInfo("sd15", 12)} | more))).decode()


ALL_FULL = written(segments("F " * T))
HALF = written(segments("FP FP FP FP"))
WITH_NULLS = written(segments("FPPN FPNN"))


def sampled(host: Server, workflow: TextToImage, latent: Any) -> tuple[Tensor, list[dict[str, Any]]]:
    """Runs the workflow up to this latent: what came out, and what the probe saw of each sampling."""
    name = f"latent{next(_names)}"
    workflow.save(latent, name)
    host.probed()
    host.run(workflow.graph.prompt)
    return host.latent(name), host.probed()


def kinds(probed: dict[str, Any]) -> str:
    return "".join("F" if call["deep"] else "P" for call in probed["calls"])


def misses(host: Server) -> int:
    """Of the last sampling, by the host's log."""
    return int(re.findall(r"misses (\d+)", host.log())[-1])


def applied(json: str, **settings: Any) -> TextToImage:
    """Text to image with the schedule on the model and the probe below it."""
    workflow = TextToImage(**settings)
    workflow.apply(json)
    workflow.probe()
    return workflow


def plain(**settings: Any) -> TextToImage:
    workflow = TextToImage(**settings)
    workflow.probe()
    return workflow


class TestLoading:
    def test_under_any_folder_name(self, comfyui: Server) -> None:
        log = comfyui.log()
        assert re.search(rf"[\d.]+ seconds: .*{re.escape(PACK)}", log)
        assert "IMPORT FAILED" not in log and "Traceback" not in log

    def test_what_the_front_end_is_told(self, comfyui: Server) -> None:
        info = comfyui.get("/object_info")
        ours = {name for name in info if name.startswith("Flexiffusion")}
        assert {name for name in ours if not name.startswith("FlexiffusionTest")} == NODES
        presets = info["FlexiffusionLoadSchedule"]["input"]["required"]["preset"][1]["options"]
        assert "sd15-turns-8" in presets and not any("schema" in name for name in presets)
        for name in NODES:
            node = info[name]
            inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
            assert all(facts[1].get("tooltip") for facts in inputs.values()), name
            assert len(node["output_tooltips"]) == len(node["output"]) and all(node["output_tooltips"])
            assert node["description"] and node["category"]

    def test_web_files_docs_and_workflows_are_served(self, comfyui: Server) -> None:
        scripts = comfyui.get("/extensions")
        assert any(path.endswith("/flexiffusion.js") for path in scripts)
        templates = comfyui.get("/workflow_templates")
        assert templates[PACK], "example_workflows/*.json"
        translations = comfyui.get("/i18n")
        for language in ("en", "zh", "ja"):
            assert set(translations[language]["nodeDefs"]).issuperset(NODES)

    def test_presets_for_a_model_file(self, comfyui: Server) -> None:
        found = comfyui.post("/flexiffusion/presets", {"model": "tiny-sd1.safetensors"})
        assert found["family"] == "sd15"
        assert "sd15-turns-10" in found["presets"]
        assert all(name.startswith("sd15-") for name in found["presets"] if name != "auto")
        assert "flux-alternate-linear" in comfyui.post("/flexiffusion/presets", {"model": "none"})["presets"]

    def test_the_strip(self, comfyui: Server) -> None:
        shown = comfyui.post("/flexiffusion/strip", {"preset": "sd15-deepcache-3.json"})
        assert [kind for kind, _ in shown["steps"]] == ["full", "partial", "partial"] * 10
        assert shown["counts"] == "10 full, 20 partial"
        shown = comfyui.post("/flexiffusion/strip", {"preset": "", "json": WITH_NULLS})
        assert shown["counts"] == "2 full, 3 partial, 3 null"
        for wrong in ({"preset": "none.json"}, {"json": "{"}, {}, {"preset": "../../server.log"}):
            with pytest.raises(Failed, match="error"):
                comfyui.post("/flexiffusion/strip", wrong)


class TestSchedules:
    def test_all_full_is_bitwise_the_host_alone(self, comfyui: Server) -> None:
        workflow = plain()
        expected, _ = sampled(comfyui, workflow, workflow.ksampler())
        workflow = applied(ALL_FULL)
        by_model, probed = sampled(comfyui, workflow, workflow.ksampler())
        assert torch.equal(by_model, expected) and kinds(probed[0]) == "F" * T
        workflow = plain()
        by_node, _ = sampled(comfyui, workflow, workflow.sampler(ALL_FULL))
        assert torch.equal(by_node, expected)

    def test_text_to_image(self, comfyui: Server) -> None:
        workflow = applied(WITH_NULLS)
        first, (probed,) = sampled(comfyui, workflow, workflow.ksampler())
        assert kinds(probed) == "FPPFP" and probed["restored"] and len(probed["sigmas"]) == 6
        workflow = plain()
        again, _ = sampled(comfyui, workflow, workflow.sampler(WITH_NULLS))
        assert torch.equal(first, again), "both nodes are one engine"
        assert "full 2, partial 3, null 3, misses 0, " in comfyui.log()

    def test_own_levels_and_the_report(self, comfyui: Server) -> None:
        own = written(steps((14.7, "F"), (6.0, "P"), (3.0, "F"), (1.5, "P"), (0.6, "F"), (0.1, "P")))
        workflow = plain()
        sampler = workflow.sampler(own, steps=0)
        workflow.graph("PreviewAny", source=sampler[1])
        workflow.save(sampler, "own")
        comfyui.probed()
        done = comfyui.run(workflow.graph.prompt)
        (probed,) = comfyui.probed()
        assert probed["sigmas"][1:] == pytest.approx([6.0, 3.0, 1.5, 0.6, 0.1, 0.0])
        assert kinds(probed) == "FPFPFP"
        wanted = r"full 3, partial 3, null 2, misses 0, [\d.]+ s, .*; estimated [\d.]+x against 8 full"
        assert re.search(wanted, done.texts())

    def test_image_to_image(self, comfyui: Server) -> None:
        """Row 15."""
        own = written(steps((14.7, "F"), (6.0, "P"), (2.0, "F"), (1.0, "P"), (0.6, "F"), (0.3, "P"), (0.1, "F")))
        workflow = plain()
        start = workflow.ksampler()
        after = workflow.sampler(own, latent_image=start, denoise=0.4)
        _, (_, probed) = sampled(comfyui, workflow, after)
        first = probed["sigmas"][0]
        assert first < 2.5 and kinds(probed)[0] == "F"
        # it comes after a level, and takes the place of the next one where it is nearer to that
        levels = (6.0, 2.0, 1.0, 0.6, 0.3, 0.1)
        below = [low for high, low in itertools.pairwise(levels) if low * (high / low) ** 0.45 < first]
        assert probed["sigmas"][1:] == pytest.approx([*below, 0.0])

    def test_batch_of_four(self, comfyui: Server) -> None:
        """Row 3: noise differs by place in the batch, so one alone is picked out of it."""
        workflow = applied(HALF, batch=4)
        four, (probed,) = sampled(comfyui, workflow, workflow.ksampler())
        assert four.shape[0] == 4 and {call["rows"] for call in probed["calls"]} == {8} and kinds(probed) == "FPFPFPFP"
        workflow = applied(HALF, batch=4)
        picked = workflow.graph("LatentFromBatch", samples=workflow.latent, batch_index=2, length=1)
        one, _ = sampled(comfyui, workflow, workflow.ksampler(latent_image=picked))
        torch.testing.assert_close(one, four[2:3], rtol=2e-2, atol=2e-2)

    def test_bypassed(self, comfyui: Server) -> None:
        """Row 8: the front end links a bypassed node's model input to its output."""
        workflow = plain()
        before, _ = sampled(comfyui, workflow, workflow.ksampler())
        workflow = applied(HALF)
        sampled(comfyui, workflow, workflow.ksampler())
        workflow = plain()
        after, (probed,) = sampled(comfyui, workflow, workflow.ksampler(seed=8))
        workflow = plain()
        after, (probed,) = sampled(comfyui, workflow, workflow.ksampler())
        assert torch.equal(before, after) and kinds(probed) == "F" * T

    def test_compare(self, comfyui: Server) -> None:
        workflow = plain()
        sampler = workflow.graph(
            "FlexiffusionCompare", model=workflow.model, schedule=workflow.schedule(HALF), seed=7, steps=0, cfg=5.0,
            sampler_name="euler", scheduler="normal", positive=workflow.positive, negative=workflow.negative,
            latent_image=workflow.latent, denoise=1.0, mapping="position", vae=workflow.vae,
        )  # fmt: skip
        workflow.graph("SaveImage", images=sampler, filename_prefix="compared")
        comfyui.probed()
        done = comfyui.run(workflow.graph.prompt)
        assert [kinds(probed) for probed in comfyui.probed()] == ["F" * T, "FPFPFPFP"]
        wanted = r"without: [\d.]+ s; with: [\d.]+ s \([\d.]+x\)\nPSNR .*: [\d.]+ dB\ntest: full 4, partial 4"
        assert re.search(wanted, done.texts())
        from PIL import Image

        (picture,) = (comfyui.folder / "output").glob("compared*.png")
        assert Image.open(picture).size == (128, 64)


class TestOtherNodes:
    def check(
        self, comfyui: Server, with_node: Any, wanted: str = "FPFPFPFP", orders: Sequence[str] = ("before", "after")
    ) -> Tensor:
        """The node acts, all-full equals the host alone, partial steps run as planned without misses.

        orders: whether the schedule goes on the model before or after the node; for one that leaves the model alone
            both are one prompt, of which the host would run the first only.
        """
        begin = len(comfyui.log())
        workflow = plain()
        without, _ = sampled(comfyui, workflow, workflow.ksampler())
        workflow = TextToImage()
        with_node(workflow)
        workflow.probe()
        alone, _ = sampled(comfyui, workflow, workflow.ksampler())
        assert not torch.equal(alone, without), "the node must matter"
        for order in orders:
            workflow = TextToImage()
            if order == "before":
                workflow.apply(ALL_FULL)
            with_node(workflow)
            if order == "after":
                workflow.apply(ALL_FULL)
            workflow.probe()
            full, _ = sampled(comfyui, workflow, workflow.ksampler())
            assert torch.equal(full, alone), order
        results = []
        for order in orders:
            workflow = TextToImage()
            if order == "before":
                workflow.apply(HALF)
            with_node(workflow)
            if order == "after":
                workflow.apply(HALF)
            workflow.probe()
            result, (probed,) = sampled(comfyui, workflow, workflow.ksampler())
            assert kinds(probed) == wanted, order
            results.append(result)
        assert torch.equal(results[0], results[-1]), "the order of the nodes does not matter"
        assert misses(comfyui) == 0
        assert "could not be applied" not in comfyui.log()[begin:]  # what the host says of a residual that does not fit
        return results[0]

    def test_controlnet(self, comfyui: Server) -> None:
        """Rows 1 and 2."""

        def with_control(workflow: TextToImage) -> None:
            graph = workflow.graph
            hint = graph("EmptyImage", width=64, height=64, batch_size=1, color=0x8040FF)
            net = graph("ControlNetLoader", control_net_name="tiny-control.safetensors")
            both = graph(
                "ControlNetApplyAdvanced", positive=workflow.positive, negative=workflow.negative, control_net=net,
                image=hint, strength=1.0, start_percent=0.0, end_percent=1.0, vae=workflow.vae,
            )  # fmt: skip
            workflow.positive, workflow.negative = both[0], both[1]

        self.check(comfyui, with_control, orders=("after",))
        workflow = applied(WITH_NULLS)
        with_control(workflow)
        _, (probed,) = sampled(comfyui, workflow, workflow.ksampler())
        assert [call["control"] for call in probed["calls"]] == [True] * 5, "never for a null step"

    def test_lora(self, comfyui: Server) -> None:
        """Row 11: on or off, and another strength, change the picture."""

        def with_lora(strength: float) -> Any:
            def add(workflow: TextToImage) -> None:
                file, graph = "tiny-lora.safetensors", workflow.graph
                workflow.model = graph(
                    "LoraLoaderModelOnly", model=workflow.model, lora_name=file, strength_model=strength
                )

            return add

        strong = self.check(comfyui, with_lora(1.0))
        weak = TextToImage()
        with_lora(0.5)(weak)
        weak.apply(HALF)
        assert not torch.equal(sampled(comfyui, weak, weak.ksampler())[0], strong)

    def test_freeu(self, comfyui: Server) -> None:
        def with_freeu(workflow: TextToImage) -> None:
            # widths of this checkpoint are 320 at every level, so FreeU (1280 and 640) would do nothing; scale by hand
            workflow.model = workflow.graph("FreeU_V2", model=workflow.model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)

        workflow = applied(HALF)
        expected, _ = sampled(comfyui, workflow, workflow.ksampler())
        workflow = TextToImage()
        with_freeu(workflow)
        workflow.apply(HALF)
        workflow.probe()
        result, (probed,) = sampled(comfyui, workflow, workflow.ksampler())
        assert kinds(probed) == "FPFPFPFP" and torch.isfinite(result).all() and result.shape == expected.shape

    def test_perturbed_attention_guidance(self, comfyui: Server) -> None:
        def with_pag(workflow: TextToImage) -> None:
            workflow.model = workflow.graph("PerturbedAttentionGuidance", model=workflow.model, scale=3.0)

        # one call for cond and uncond, and one for the perturbed cond
        self.check(comfyui, with_pag, wanted="FFPP" * 4)

    def test_area_conditioning(self, comfyui: Server) -> None:
        def with_area(workflow: TextToImage) -> None:
            graph = workflow.graph
            house = workflow.text("a house")
            left = graph("ConditioningSetArea", conditioning=house, width=64, height=64, x=0, y=0, strength=1.0)
            workflow.positive = graph("ConditioningCombine", conditioning_1=workflow.positive, conditioning_2=left)
            workflow.latent = graph("EmptyLatentImage", width=128, height=64, batch_size=1)

        workflow = TextToImage()
        with_area(workflow)
        workflow.apply(HALF)
        workflow.probe()
        _, (probed,) = sampled(comfyui, workflow, workflow.ksampler())
        calls = len(probed["calls"]) // T
        assert calls > 1 and kinds(probed) == ("F" * calls + "P" * calls) * 4
        assert misses(comfyui) == 0

    def test_a_cache_on_the_same_model_is_warned_of(self, comfyui: Server) -> None:
        workflow = TextToImage()
        workflow.model = workflow.graph(
            "EasyCache", model=workflow.model, reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False
        )
        workflow.apply(HALF)
        result, _ = sampled(comfyui, workflow, workflow.ksampler())
        assert torch.isfinite(result).all()
        assert "EasyCache is on the same model" in comfyui.log()


class TestSamplers:
    def test_custom_sampling_by_model_and_by_sigmas(self, comfyui: Server) -> None:
        """SamplerCustom with the schedule on the model, with thinned sigmas, and with both: the same levels."""
        seen = {}
        for way in ("model", "sigmas", "both"):
            workflow = TextToImage()
            if way != "sigmas":
                workflow.apply(WITH_NULLS)
            workflow.probe()
            graph = workflow.graph
            sigmas: Any = graph("BasicScheduler", model=workflow.model, scheduler="karras", steps=T, denoise=1.0)
            if way != "model":
                sigmas = graph("FlexiffusionScheduleSigmas", sigmas=sigmas, schedule=workflow.schedule(WITH_NULLS))
            sampler = graph("KSamplerSelect", sampler_name="dpmpp_2m")
            result = graph(
                "SamplerCustom", model=workflow.model, add_noise=True, noise_seed=7, cfg=5.0, sampler=sampler,
                positive=workflow.positive, negative=workflow.negative, sigmas=sigmas, latent_image=workflow.latent,
            )  # fmt: skip
            seen[way] = sampled(comfyui, workflow, result)
        sigmas_of = {way: probed[0]["sigmas"] for way, (_, probed) in seen.items()}
        assert sigmas_of["model"] == sigmas_of["sigmas"] == sigmas_of["both"] and len(sigmas_of["model"]) == 6
        assert kinds(seen["model"][1][0]) == kinds(seen["both"][1][0]) == "FPPFP"
        assert kinds(seen["sigmas"][1][0]) == "FFFFF"
        assert torch.equal(seen["model"][0], seen["both"][0])

    def test_a_guider(self, comfyui: Server) -> None:
        workflow = applied(HALF)
        graph = workflow.graph
        result = graph(
            "SamplerCustomAdvanced",
            noise=graph("RandomNoise", noise_seed=7),
            guider=graph("BasicGuider", model=workflow.model, conditioning=workflow.positive),
            sampler=graph("KSamplerSelect", sampler_name="euler"),
            sigmas=graph("BasicScheduler", model=workflow.model, scheduler="normal", steps=T, denoise=1.0),
            latent_image=workflow.latent,
        )
        _, (probed,) = sampled(comfyui, workflow, result)
        assert kinds(probed) == "FPFPFPFP" and {call["rows"] for call in probed["calls"]} == {1}

    def test_advanced_in_two_slices(self, comfyui: Server) -> None:
        """By noise level each slice does what the whole run does there, but for its first step, which is full."""

        def slices(json: str, *cuts: int) -> list[dict[str, Any]]:
            workflow = TextToImage()
            workflow.apply(json, mapping="level")
            workflow.probe()
            latent: Any = workflow.latent
            for start, end in itertools.pairwise(cuts):
                last = end == cuts[-1]
                latent = workflow.graph(
                    "KSamplerAdvanced", model=workflow.model, add_noise="disable" if start else "enable", noise_seed=7,
                    steps=12, cfg=5.0, sampler_name="euler", scheduler="normal", positive=workflow.positive,
                    negative=workflow.negative, latent_image=latent, start_at_step=start, end_at_step=end,
                    return_with_leftover_noise="disable" if last else "enable",
                )  # fmt: skip
            return sampled(comfyui, workflow, latent)[1]

        def done(run: dict[str, Any]) -> list[tuple[float, bool]]:
            return [(round(call["sigma"], 4), call["deep"]) for call in run["calls"]]

        def own(ratio: float, count: int) -> str:
            return written(steps(*[(round(14.0 * ratio**i, 4), "FP"[i % 2]) for i in range(count)]))

        # the second slice begins at 1.39, which is a level of the host's list; of `own` it takes the place of 1.75
        for used, partial in ((written(segments("FPPP FPPN FPNN")), 6), (own(0.5, 8), 4)):
            whole, (first, second) = done(slices(used, 0, 12)[0]), slices(used, 0, 6, 12)
            assert first["sigmas"][-1] == second["sigmas"][0] > 0
            cut = len(first["calls"])
            assert sum(not deep for _, deep in whole) == partial
            assert done(first) == whole[:cut]
            assert done(second) == [(round(second["sigmas"][0], 4), True), *whole[cut + 1 :]]

        # with 1.39 seven of its steps lie in the second slice, where six were asked for: it is thinned (rule 10 of
        # docs/design.md), so its levels and kinds are others than the whole run's
        fine = own(0.62, 12)
        whole, (first, second) = done(slices(fine, 0, 12)[0]), slices(fine, 0, 6, 12)
        assert done(first) == whole[: len(first["calls"])] and kinds(first) == "FPFPF"
        assert kinds(second) == "FFPFPF" and len(second["calls"]) == 6
        assert "has 7 steps here and 6 were asked for: it is thinned to 6" in comfyui.log()

    @pytest.mark.parametrize("name", TWELVE)
    def test_twelve_samplers_run_what_is_planned(self, comfyui: Server, name: str) -> None:
        """Row 13."""
        workflow = applied(WITH_NULLS)
        before = len(comfyui.log())
        result, (probed,) = sampled(comfyui, workflow, workflow.ksampler(sampler_name=name))
        assert kinds(probed) == "FPPFP" and torch.isfinite(result).all()
        assert "evaluates the network more than once" not in comfyui.log()[before:]

    def test_every_other_sampler_runs_or_says_why_not(self, comfyui: Server) -> None:
        """Row 13: executed counts equal the plan, or it was said before sampling that they do not."""
        (names,) = (comfyui.get("/object_info/KSampler")["KSampler"]["input"]["required"]["sampler_name"][:1],)
        for name in names[0]:
            if name in TWELVE:
                continue
            workflow = applied(WITH_NULLS)
            before = len(comfyui.log())
            result, (probed,) = sampled(comfyui, workflow, workflow.ksampler(sampler_name=name))
            assert torch.isfinite(result).all(), name
            said = comfyui.log()[before:]
            notes = ("more than once a step", "chooses noise levels", "evaluated the network", "sets its own steps")
            noted = any(note in said for note in notes)
            assert noted != (kinds(probed) == "FPPFP"), (name, kinds(probed))
            assert probed["restored"], name


class TestTrouble:
    def test_interrupted_then_run_again(self, comfyui: Server) -> None:
        """Row 8 and the paragraph under the rows: the next run is like a fresh one."""
        workflow = applied(HALF)
        expected, _ = sampled(comfyui, workflow, workflow.ksampler())
        for calls in (1, 2, 5):
            workflow = applied(written(segments("FP " * 50)))
            workflow.save(workflow.ksampler(steps=100, seed=next(_names)), "never")
            comfyui.probed()
            identity = comfyui.start(workflow.graph.prompt)
            while comfyui.calls() < calls:
                time.sleep(0.02)
            comfyui.post("/interrupt", {})
            comfyui.wait(identity)
            (probed,) = comfyui.probed()
            assert probed["ended"] == "interrupted" and calls <= len(probed["calls"]) < 100
            assert probed["restored"]
        workflow = applied(HALF)
        again, _ = sampled(comfyui, workflow, workflow.ksampler())
        assert torch.equal(again, expected)

    def test_other_sizes_between(self, comfyui: Server) -> None:
        """Rows 5 to 7."""
        results = []
        for size, batch in ((64, 1), (128, 2), (64, 1)):
            workflow = applied(WITH_NULLS, size=size, batch=batch)
            result, (probed,) = sampled(comfyui, workflow, workflow.ksampler())
            assert kinds(probed) == "FPPFP"
            results.append(result)
        assert torch.equal(results[0], results[2])

    def test_never_more_calls_than_were_asked_for(self, comfyui: Server) -> None:
        """8 steps asked, 30 calls were run."""
        workflow = TextToImage()
        loaded = workflow.graph("FlexiffusionLoadSchedule", preset="sd15-turns-15", json="")
        workflow.model = workflow.graph(
            "FlexiffusionApplySchedule", model=workflow.model, schedule=loaded, mapping="position"
        )
        workflow.probe()
        before = len(comfyui.log())
        _, (probed,) = sampled(comfyui, workflow, workflow.ksampler())
        assert kinds(probed) == "FPFPFPFP"
        assert "sd15-turns-15 has 30 steps here and 8 were asked for: it is thinned to 8" in comfyui.log()[before:]

    def test_a_picture_carries_its_schedule_where_asked(self, comfyui: Server) -> None:
        from PIL import Image

        workflow = plain()
        loaded = workflow.graph("FlexiffusionLoadSchedule", preset="sd15-turns-6", json="", embed=True)
        latent = workflow.sampler(HALF, schedule=loaded)
        picture = workflow.graph("VAEDecode", samples=latent, vae=workflow.vae)
        workflow.graph("SaveImage", images=picture, filename_prefix="embedded")
        comfyui.wait(
            comfyui.post(
                "/prompt", {"prompt": workflow.graph.prompt, "extra_data": {"extra_pnginfo": {"workflow": {}}}}
            )["prompt_id"]
        )
        (file,) = (comfyui.folder / "output").glob("embedded_*.png")
        text = Image.open(file).text["flexiffusion"]  # type: ignore[attr-defined]
        assert loads(text.encode()).name == "sd15-turns-6"

    def test_start_and_end(self, comfyui: Server) -> None:
        workflow = plain()
        _, (probed,) = sampled(comfyui, workflow, workflow.sampler(HALF, start_percent=0.3, end_percent=0.8))
        drawn = kinds(probed)
        assert drawn.startswith("FF") and drawn.endswith("FF") and "P" in drawn

    def test_a_preset_that_is_not_there(self, comfyui: Server) -> None:
        """With its text inside a workflow runs anywhere; without, the refusal names the file and the folders."""
        workflow = plain()
        workflow.schedule = lambda json, preset="": workflow.graph(  # type: ignore[method-assign]
            "FlexiffusionLoadSchedule", preset="of another machine.json", json=json
        )
        sampled(comfyui, workflow, workflow.sampler(HALF))
        workflow = plain()
        loaded = workflow.graph("FlexiffusionLoadSchedule", preset="of another machine.json", json="")
        workflow.save(workflow.sampler(HALF, schedule=loaded), "never")
        with pytest.raises(Failed, match=r"of another machine.json: there is no such schedule in .*/flexiffusion"):
            comfyui.run(workflow.graph.prompt)

    def test_a_broken_text_is_refused_with_its_place(self, comfyui: Server) -> None:
        workflow = plain()
        workflow.save(workflow.sampler(HALF.replace('"steps": 2', '"steps": 0', 1)), "never")
        with pytest.raises(Failed, match=r"segments\[0\].steps") as refusal:
            comfyui.run(workflow.graph.prompt)
        assert json.loads(str(refusal.value))[1]["exception_message"].count("segments[0].steps") == 1, "said once"

    def test_another_family_is_refused_with_those_that_fit(self, comfyui: Server) -> None:
        """Row 18."""
        workflow = plain()
        loaded = workflow.graph("FlexiffusionLoadSchedule", preset="sdxl-turns-6.json", json="")
        workflow.save(workflow.sampler(HALF, schedule=loaded), "never")
        with pytest.raises(Failed, match=r"made for sdxl with 9 branches, but the model is sd15.*sd15-turns-6"):
            comfyui.run(workflow.graph.prompt)

    def test_a_file_of_the_users_is_listed_and_read_again_when_it_changes(self, comfyui: Server) -> None:
        folder = comfyui.folder / "models" / "flexiffusion"
        folder.mkdir(exist_ok=True)
        mine = folder / "mine.json"
        try:
            seen = []
            for json in (HALF, WITH_NULLS):
                mine.write_text(json)
                workflow = plain()
                loaded = workflow.graph("FlexiffusionLoadSchedule", preset="mine.json", json="")
                seen.append(kinds(sampled(comfyui, workflow, workflow.sampler(HALF, schedule=loaded))[1][0]))
            assert seen == ["FPFPFPFP", "FPPFP"]
            node = comfyui.get("/object_info/FlexiffusionLoadSchedule")["FlexiffusionLoadSchedule"]
            assert "mine" in node["input"]["required"]["preset"][1]["options"]
        finally:
            mine.unlink()


def fixtures() -> Sequence[Path]:
    """Workflows of released versions, as the API takes them; none is ever changed (row 20)."""
    return sorted((Path(__file__).parent.parent / "golden" / "workflows").glob("*.json"))


@pytest.mark.parametrize("path", fixtures(), ids=lambda path: path.stem)
def test_released_workflows_still_run(comfyui: Server, path: Path) -> None:
    prompt = json.loads(path.read_text())
    comfyui.run(prompt)
