"""The pack's part of the front end, in the host's own front end in Debian's Chromium: classic nodes and Nodes 2.0."""

from __future__ import annotations

import itertools
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from comfyui import ROOT, Server
from test_comfyui import ALL_FULL, HALF
from workflows import Graph, TextToImage

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium"),
]

SEEDS = itertools.count(500)
OTHER = "only-a-header-of-sdxl.safetensors"
NODE = "window.app.graph._nodes.find((node) => node.comfyClass === {kind!r})"
WIDGET = NODE + "?.widgets?.find((widget) => widget.name === {name!r})"


class FrontEnd:
    """One tab with the host's front end."""

    def __init__(self, tab: chromium.Page, host: Server) -> None:
        self.tab, self.host = tab, host
        # no first-run dialog; whatever a graph is drawn as, it stays as it was asked for
        host.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
        tab.send("Emulation.setDeviceMetricsOverride", width=1500, height=1000, deviceScaleFactor=1, mobile=False)
        tab.send("Page.navigate", url=f"http://{host.address}/")
        self.until("!!(window.app?.graph?._nodes && window.LiteGraph?.registered_node_types?.FlexiffusionAuto)")

    def until(self, script: str, seconds: float = 180) -> Any:
        """Waits until a JavaScript expression is true, and returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.tab.run(f"(() => {{ try {{ return {script}; }} catch {{ return false; }} }})()")):
            assert time.monotonic() < end, (script, self.tab.complaints())
            time.sleep(0.2)
        return value

    def vue(self, on: bool) -> None:
        self.tab.run(f"window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', {json.dumps(on)})")

    def load(self, graph: Graph) -> None:
        self.tab.run(f"window.app.loadApiJson({json.dumps(graph.prompt)}, 'test')")
        self.until(f"window.app.graph._nodes.length === {len(graph.prompt)}")

    def queue(self) -> None:
        self.tab.run("window.app.queuePrompt(0).then(() => true)")

    def widget(self, kind: str, name: str) -> str:
        return f"({WIDGET.format(kind=kind, name=name)})"


@pytest.fixture(scope="module")
def front(comfyui: Server) -> Iterator[FrontEnd]:
    with chromium.page() as tab:
        yield FrontEnd(tab, comfyui)


@pytest.fixture(params=[False, True], ids=["classic", "nodes2"])
def drawn(request: pytest.FixtureRequest, front: FrontEnd) -> FrontEnd:
    front.vue(request.param)
    return front


@pytest.fixture
def other_model(comfyui: Server) -> Iterator[str]:
    """A file whose header is that of an SDXL checkpoint, and nothing else."""
    shapes = {f"model.diffusion_model.input_blocks.{i}.0.in_layers.2.weight": [320, 320, 3, 3] for i in range(9)}
    shapes["model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"] = [640, 2048]
    tensors = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(tensors).encode()
    path: Path = comfyui.folder / "models" / "checkpoints" / OTHER
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    yield OTHER
    path.unlink()


def ending(workflow: TextToImage, latent: Any) -> Graph:
    picture = workflow.graph("VAEDecode", samples=latent, vae=workflow.vae)
    workflow.graph("PreviewImage", images=picture)
    return workflow.graph


def test_reports_are_shown_in_the_nodes_that_go_on_a_model(drawn: FrontEnd) -> None:
    """They were executed long before the sampling ends."""
    workflow = TextToImage()
    workflow.apply(HALF)
    drawn.load(ending(workflow, workflow.ksampler(seed=next(SEEDS))))
    drawn.queue()
    shown = drawn.until(drawn.widget("FlexiffusionApplySchedule", "last report") + ".value")
    assert shown.startswith("test: full 4, partial 4, null 0, misses 0, ")
    workflow = TextToImage()
    workflow.model = workflow.graph("FlexiffusionAuto", model=workflow.model, speedup=2.0)
    drawn.load(ending(workflow, workflow.ksampler(seed=next(SEEDS), steps=12)))
    drawn.queue()
    first, second = drawn.until(drawn.widget("FlexiffusionAuto", "last report") + ".value").split("\n")
    assert first.startswith("rule-2x: full 6, partial 6, null 0, misses 0, ")
    assert second.startswith("Auto: the rule for 2x")
    inside = drawn.tab.run(
        f"(() => {{ const node = {NODE.format(kind='FlexiffusionAuto')}; "
        "return node.size[1] >= node.computeSize()[1]; })()"
    )
    assert inside, "the node has room for its report"


def test_a_report_is_not_saved_with_the_workflow(front: FrontEnd) -> None:
    front.vue(False)
    workflow = TextToImage()
    latent = workflow.sampler(ALL_FULL, seed=next(SEEDS))
    front.load(ending(workflow, latent))
    before = front.tab.run(f"({NODE.format(kind='FlexiffusionSampler')}).serialize().widgets_values")
    front.queue()
    shown = front.until(front.widget("FlexiffusionSampler", "last report") + ".value")
    assert shown.startswith("test: full 8, partial 0")
    after = front.tab.run(f"({NODE.format(kind='FlexiffusionSampler')}).serialize().widgets_values")
    assert len(after) == len(before)


def test_the_presets_are_those_of_the_connected_model(drawn: FrontEnd, other_model: str) -> None:
    names = drawn.widget("FlexiffusionLoadSchedule", "preset") + ".options.values"
    for model, family in (("tiny-sd1.safetensors", "sd15"), (other_model, "sdxl")):
        workflow = TextToImage(checkpoint=model)
        workflow.apply("")
        drawn.load(workflow.graph)
        fitting = f"{names}.length > 3 && {names}.every((name) => name === 'auto' || name.startsWith('{family}-'))"
        drawn.until(f"{fitting} && {names}", 30)


def test_the_presets_follow_a_model_that_is_chosen_later(drawn: FrontEnd, other_model: str) -> None:
    workflow = TextToImage()
    workflow.apply("")
    drawn.load(workflow.graph)
    names = drawn.widget("FlexiffusionLoadSchedule", "preset") + ".options.values"
    drawn.until(f"{names}.every((name) => !name.startsWith('sdxl-'))", 30)
    loader = drawn.widget("CheckpointLoaderSimple", "ckpt_name")
    # as a user's choice in the list does it
    drawn.tab.run(f"(() => {{ const w = {loader}; w.value = {OTHER!r}; w.callback?.(w.value); }})()")
    drawn.until(f"{names}.length > 3 && {names}.every((name) => name === 'auto' || name.startsWith('sdxl-'))", 30)


def test_an_example_takes_a_checkpoint_of_its_family(drawn: FrontEnd, other_model: str) -> None:
    """The name in it is that of the host's own templates, which nobody need have."""
    saved = json.loads((ROOT / "example_workflows" / "auto.json").read_text(encoding="utf-8"))
    loader = drawn.widget("CheckpointLoaderSimple", "ckpt_name")
    for family, wanted in (("sd15", "tiny-sd1.safetensors"), ("sdxl", other_model)):
        saved["extra"]["flexiffusion"]["family"] = family
        drawn.tab.run(f"window.app.loadGraphData({json.dumps(saved)}).then(() => true)")
        drawn.until(f"{loader}.value === {wanted!r}", 30)
    saved["extra"]["flexiffusion"]["family"] = "flux"
    drawn.tab.run(f"window.app.loadGraphData({json.dumps(saved)}).then(() => true)")
    drawn.until(f"{loader}.value === 'v1-5-pruned-emaonly-fp16.safetensors'", 30)
