"""Makes example_workflows/ and docs/images/comfyui-*.png with the host's real front end in a headless Chromium.

    COMFYUI_PATH=DIR python tests/hosts/pictures.py [--images | NAME ...]    # in the host's Python, with playwright

--images: leaves the example workflows as they are. Of examples and images that are named these are made, and no others.
The graphs are written here as API prompts, laid out in the browser, saved by the front end itself and photographed.
Chromium is Debian's; the checkpoint is one of random weights, so pictures in previews are noise.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfyui import ROOT, Server
from playwright.sync_api import Browser, Page, sync_playwright
from workflows import Graph

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"  # the name that the host's own templates use
Place = tuple[int, int, int, int]  # x, y, width, height


def start(places: dict[str, Place], preset: str | None) -> tuple[Graph, Any, Any, Any, Any, Any]:
    graph = Graph()

    def put(place: Place, kind: str, **inputs: Any) -> Any:
        node = graph(kind, **inputs)
        places[node.name] = place
        return node

    loaded = put((0, 0, 320, 100), "CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
    schedule = None
    if preset is not None:
        schedule = put((0, 170, 320, 280), "FlexiffusionLoadSchedule", preset=preset, json="", speedup=2.0, embed=False)
    positive = put((370, 0, 320, 130), "CLIPTextEncode", clip=loaded[1], text="a red fox in the snow, morning light")
    negative = put((370, 190, 320, 130), "CLIPTextEncode", clip=loaded[1], text="blurry, text, watermark")
    latent = put((370, 380, 320, 110), "EmptyLatentImage", width=512, height=512, batch_size=1)
    put.graph = graph  # type: ignore[attr-defined]
    return graph, put, loaded, schedule, (positive, negative), latent


def settings(conditioning: Any, latent: Any) -> dict[str, Any]:
    return {
        "seed": 7,
        "steps": 0,
        "cfg": 7.0,
        "sampler_name": "dpmpp_2m",
        "scheduler": "normal",
        "positive": conditioning[0],
        "negative": conditioning[1],
        "latent_image": latent,
        "denoise": 1.0,
        "mapping": "position",
        "start_percent": 0.0,
        "end_percent": 1.0,
    }


def faster_text_to_image(places: dict[str, Place]) -> Graph:
    graph, put, loaded, schedule, conditioning, latent = start(places, "sd15-turns-10")
    sampler = put(
        (740, 0, 330, 470), "FlexiffusionSampler", model=loaded[0], schedule=schedule, **settings(conditioning, latent)
    )
    picture = put((1120, 0, 220, 60), "VAEDecode", samples=sampler, vae=loaded[2])
    put((1120, 120, 320, 270), "SaveImage", images=picture, filename_prefix="flexiffusion")
    put((1120, 440, 320, 160), "PreviewAny", source=sampler[1])
    return graph


def compare_with_and_without(places: dict[str, Place]) -> Graph:
    graph, put, loaded, schedule, conditioning, latent = start(places, "sd15-turns-12")
    compared = put(
        (740, 0, 420, 720), "FlexiffusionCompare", model=loaded[0], schedule=schedule, vae=loaded[2],
        **settings(conditioning, latent),
    )  # fmt: skip
    put((1210, 0, 320, 200), "PreviewAny", source=compared[1])
    put((1210, 260, 320, 360), "PreviewImage", images=compared[4])
    return graph


def faster_with_any_sampler(places: dict[str, Place]) -> Graph:
    graph, put, loaded, schedule, conditioning, latent = start(places, "sd15-alternate-linear")
    model = put(
        (0, 510, 320, 150), "FlexiffusionApplySchedule", model=loaded[0], schedule=schedule, mapping="position",
        start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    sigmas = put((740, 0, 300, 110), "BasicScheduler", model=model, scheduler="karras", steps=30, denoise=1.0)
    thinned = put((740, 170, 300, 60), "FlexiffusionScheduleSigmas", sigmas=sigmas, schedule=schedule)
    chosen = put((740, 290, 300, 60), "KSamplerSelect", sampler_name="dpmpp_2m")
    result = put(
        (1090, 0, 330, 240), "SamplerCustom", model=model, add_noise=True, noise_seed=7, cfg=7.0, sampler=chosen,
        positive=conditioning[0], negative=conditioning[1], sigmas=thinned, latent_image=latent,
    )  # fmt: skip
    picture = put((1090, 300, 220, 60), "VAEDecode", samples=result, vae=loaded[2])
    put((1090, 420, 320, 270), "SaveImage", images=picture, filename_prefix="flexiffusion")
    return graph


def auto(places: dict[str, Place]) -> Graph:
    graph, put, loaded, _, conditioning, latent = start(places, None)
    model = put((0, 170, 320, 100), "FlexiffusionAuto", model=loaded[0], speedup=2.0)
    result = put(
        (740, 0, 330, 474), "KSampler", model=model, seed=7, steps=30, cfg=7.0, sampler_name="dpmpp_2m",
        scheduler="karras", positive=conditioning[0], negative=conditioning[1], latent_image=latent, denoise=1.0,
    )  # fmt: skip
    picture = put((1090, 300, 220, 60), "VAEDecode", samples=result, vae=loaded[2])
    put((1090, 420, 320, 270), "SaveImage", images=picture, filename_prefix="flexiffusion")
    return graph


def search(places: dict[str, Place]) -> Graph:
    graph, put, loaded, _, conditioning, latent = start(places, None)
    asked = settings(conditioning, latent) | {"steps": 30, "scheduler": "karras"}
    for name in ("mapping", "start_percent", "end_percent"):
        del asked[name]
    found = put(
        (740, 0, 380, 560), "FlexiffusionSearch", model=loaded[0], **asked, speedups="2, 3", minutes=3.0, images=4
    )
    for row, (number, prefix) in enumerate(((0, "found"), (1, "plain"))):
        picture = put((1170, 430 * row, 220, 60), "VAEDecode", samples=found[number], vae=loaded[2])
        put((1170, 430 * row + 120, 320, 270), "SaveImage", images=picture, filename_prefix=f"flexiffusion-{prefix}")
    put((1530, 0, 380, 200), "PreviewAny", source=found[3])
    return graph


AFTER = {"FlexiffusionAuto": (0, 0, 330, 90), "KSampler": (370, 0, 280, 262)}  # what is shown of a run, and where
MAKERS = (faster_text_to_image, compare_with_and_without, faster_with_any_sampler, auto, search)
LAY_OUT = """async ([prompt, places]) => {
  await window.app.loadApiJson(prompt, "example");
  await new Promise((resolve) => setTimeout(resolve, 1500));  // the front end arranges the nodes by itself
  for (const node of window.app.graph._nodes) {
    const [x, y, width, height] = places[String(node.id)];
    node.pos = [x, y];
    node.setSize([width, Math.max(height, node.computeSize()[1])]);
  }
  window.app.graph.setDirtyCanvas(true, true);
}"""
FIT = """([margin, only]) => {
  const nodes = window.app.graph._nodes.filter((node) => !only || only.includes(String(node.id)));
  const box = nodes.map((n) => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
  const left = Math.min(...box.map((b) => b[0])) - margin, top = Math.min(...box.map((b) => b[1])) - margin;
  const right = Math.max(...box.map((b) => b[2])) + margin, bottom = Math.max(...box.map((b) => b[3])) + margin;
  const ds = window.app.canvas.ds, shown = window.app.canvas.canvas.getBoundingClientRect();
  const [x, y] = [90, 110];  // right of the side bar and below the menu
  const [wide, high] = [(shown.width - x - 20) / (right - left), (shown.height - y - 60) / (bottom - top)];
  ds.scale = Math.min(wide, high, only ? 1 : 1.5);
  ds.offset = [x / ds.scale - left, y / ds.scale - top];
  window.app.canvas.draw(true, true);
  return [(right - left) * ds.scale, (bottom - top) * ds.scale, shown.left + x, shown.top + y];
}"""
SAVED = """() => {
  const graph = window.app.graph.serialize();
  graph.extra = { flexiffusion: { family: "sd15" } };  // of which a checkpoint is chosen where it is opened
  return JSON.parse(JSON.stringify(graph));  // what is undefined would arrive as null, which the host's schema refuses
}"""


def photograph(page: Page, path: Path, margin: int = 30, only: list[str] | None = None) -> None:
    """only: ids of the nodes to show, not enlarged; None: all nodes"""
    width, height, left, top = page.evaluate(FIT, [margin, only])
    page.wait_for_timeout(700)
    clip = {"x": left, "y": top, "width": width, "height": height}
    page.screenshot(path=path, clip=clip, **({"type": "jpeg", "quality": 82} if path.suffix == ".jpg" else {}))


def main() -> None:
    checkout, models = Path(os.environ["COMFYUI_PATH"]), Path(os.environ["FLEXIFFUSION_TEST_MODELS"])
    examples, images = ROOT / "example_workflows", ROOT / "docs" / "images"
    examples.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(checkout, Path(folder) / "base", models, "flexiffusion") as server,
        sync_playwright() as playwright,
    ):
        # no first-run dialog and no map over the graph
        server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        named = [argument for argument in sys.argv[1:] if argument != "--images"]
        if not named or set(named) & {make.__name__ for make in MAKERS}:
            page = opened(browser, server, 1)
            for make in () if "--images" in sys.argv else MAKERS:
                if not named or make.__name__ in named:
                    example(page, make, examples)
            if not named:
                schedules(page, images)
        if not named or after_a_run.__name__ in named:
            after_a_run(opened(browser, server, 2), images)
        browser.close()


def opened(browser: Browser, server: Server, scale: int) -> Page:
    page = browser.new_page(viewport={"width": 1700, "height": 1000}, device_scale_factor=scale)
    page.goto(f"http://{server.address}/")
    loaded = "() => window.app?.graph?._nodes && window.LiteGraph?.registered_node_types?.FlexiffusionSampler"
    page.wait_for_function(loaded, timeout=120_000)
    page.wait_for_timeout(4000)
    page.keyboard.press("Escape")
    return page


def example(page: Page, make: Callable[[dict[str, Place]], Graph], folder: Path) -> None:
    places: dict[str, Place] = {}
    graph = make(places)
    page.evaluate(LAY_OUT, [graph.prompt, places])
    page.wait_for_timeout(1500)
    saved = page.evaluate(SAVED)
    for node in saved["nodes"]:
        if node["type"] == "FlexiffusionCompare":
            node["widgets_values"][1] = "fixed"  # loading a prompt sets what becomes of a seed to "randomize"
    text = json.dumps(saved, indent=1, ensure_ascii=False)
    (folder / f"{make.__name__}.json").write_text(text + "\n", encoding="utf-8")
    photograph(page, folder / f"{make.__name__}.jpg")


def after_a_run(page: Page, images: Path) -> None:
    """Auto with its report, in Nodes 2.0 and the dark theme; the random checkpoint at 64 pixels."""
    page.evaluate("() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    graph = auto({})
    for node in graph.prompt.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node["inputs"]["ckpt_name"] = "tiny-sd1.safetensors"
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"] |= {"width": 64, "height": 64}
    kinds = {number: node["class_type"] for number, node in graph.prompt.items()}
    shown = {number: AFTER[kind] for number, kind in kinds.items() if kind in AFTER}
    page.evaluate(LAY_OUT, [graph.prompt, dict.fromkeys(graph.prompt, (3000, 0, 300, 100)) | shown])
    page.wait_for_timeout(1500)
    page.evaluate("() => window.app.queuePrompt(0)")
    reported = "() => window.app.graph._nodes.some((node) => node.widgets?.some((one) => one.name === 'last report'))"
    page.wait_for_function(reported, timeout=300_000)
    page.wait_for_timeout(3000)
    photograph(page, images / "comfyui-auto.png", margin=16, only=list(shown))


def schedules(page: Page, images: Path) -> None:
    """The strip in both themes: turns, DeepCache, one with null steps, and a text that is refused."""
    nulls = (ROOT / "schedules" / "sd15-deepcache-3.json").read_text()
    nulls = nulls.replace('"steps": 3, "active": 3', '"steps": 3, "active": 2').replace(
        '"layout": "front"', '"layout": "even"'
    )
    for theme, vue in ((theme, vue) for vue in (False, True) for theme in ("dark", "light")):
        page.evaluate("(theme) => window.app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
        page.evaluate("(on) => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", vue)
        graph, places = Graph(), {}
        for row, (preset, text) in enumerate(
            (
                ("sd15-turns-10", ""),
                ("sd15-deepcache-3", ""),
                ("sd15-turns-10", nulls),
                ("sd15-turns-10", '{"format": 1}'),
            )
        ):
            node = graph("FlexiffusionLoadSchedule", preset=preset, json=text, embed=False)
            places[node.name] = (row % 2 * 380, row // 2 * 290, 350, 230)
        page.evaluate(LAY_OUT, [graph.prompt, places])
        page.wait_for_timeout(1500)
        photograph(page, images / f"comfyui-strip-{theme}{'-nodes2' if vue else ''}.png")
    page.evaluate("() => window.app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    page.evaluate("() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")


if __name__ == "__main__":
    main()
