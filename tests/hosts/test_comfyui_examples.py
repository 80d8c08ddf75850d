"""The saved example workflows on a running ComfyUI: only checkpoint, size and time are a test's."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfyui import ROOT, Server
from workflows import TextToImage, prompt_of

from flexiffusion.codec import read

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]

EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
PROBE = "probe"
SEEDS = itertools.count(1000)  # the host does not run again what it has the result of


def example(host: Server, name: str, **search: Any) -> dict[str, Any]:
    """The prompt of an example, on the random checkpoint at 64 pixels, the probe on the loaded model.

    search: other inputs of the search node
    """
    saved = json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = prompt_of(saved, host.get("/object_info"))
    for number, node in list(prompt.items()):
        inputs = node["inputs"]
        if node["class_type"] == "CheckpointLoaderSimple":
            inputs["ckpt_name"] = "tiny-sd1.safetensors"
            prompt[PROBE] = {"class_type": "FlexiffusionTestProbe", "inputs": {"model": [number, 0]}}
        if node["class_type"] == "EmptyLatentImage":
            inputs |= {"width": 64, "height": 64}
        if node["class_type"] == "FlexiffusionSearch":
            inputs |= search
        for seed in {"seed", "noise_seed"} & set(inputs):
            inputs[seed] = next(SEEDS)
    for number, node in prompt.items():
        if number != PROBE and isinstance(node["inputs"].get("model"), list):
            source, output = node["inputs"]["model"]
            if prompt[source]["class_type"] == "CheckpointLoaderSimple":
                node["inputs"]["model"] = [PROBE, output]
    return prompt


def pictures(host: Server, prefix: str = "flexiffusion") -> set[Path]:
    return set((host.folder / "output").glob(f"{prefix}_*.png"))


@pytest.fixture
def found(comfyui: Server) -> Iterator[Path]:
    """The folder that a search saves in; what it saves is removed afterwards."""
    folder = comfyui.folder / "models" / "flexiffusion" / "searched"
    before = set(folder.glob("*.json"))
    yield folder
    for path in set(folder.glob("*.json")) - before:
        path.unlink()


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.stem not in ("auto", "search")], ids=lambda path: path.stem)
def test_runs_as_it_is_saved(comfyui: Server, path: Path) -> None:
    comfyui.probed()
    done = comfyui.run(example(comfyui, path.stem))
    assert done.status == "success"
    last = comfyui.probed()[-1]["calls"]
    assert any(call["deep"] for call in last) and not all(call["deep"] for call in last)


def test_auto_runs_half_of_the_steps_in_full(comfyui: Server) -> None:
    before, log = pictures(comfyui), len(comfyui.log())
    comfyui.probed()
    comfyui.run(example(comfyui, "auto"))
    (made,) = pictures(comfyui) - before
    assert made.stat().st_size > 0
    (probed,) = comfyui.probed()
    full = sum(call["deep"] for call in probed["calls"])
    assert full == 15 and len(probed["calls"]) == 30 and probed["restored"]
    said = comfyui.log()[log:]
    assert "Auto: the rule for 2x (no searched schedule fits this model and these settings)" in said
    assert f"full {full}, partial {30 - full}, null 0, misses 0" in said


def test_auto_takes_what_search_has_found_for_the_checkpoint(comfyui: Server, found: Path) -> None:
    done = comfyui.run(example(comfyui, "search", minutes=0.5, images=2))
    report = done.texts()
    assert re.search(r"\d+ candidates on 2 images", report)
    saved = [Path(line.removeprefix("saved: ")) for line in report.splitlines() if line.startswith("saved: ")]
    assert saved and all(path.parent.name == found.name and path.exists() for path in saved)
    schedule = read(saved[0])
    assert schedule.provenance.kind == "searched" and schedule.model.fingerprint and schedule.model.family == "sd15"
    assert len(pictures(comfyui, "flexiffusion-found")) == len(pictures(comfyui, "flexiffusion-plain")) == 2
    before = len(comfyui.log())
    comfyui.probed()
    comfyui.run(example(comfyui, "auto"))
    said = comfyui.log()[before:]
    assert f"Auto: {schedule.name}, searched for this checkpoint" in said
    (probed,) = comfyui.probed()
    kinds = [action.kind for action in schedule.plan.actions() if action.kind != "null"]
    assert [call["deep"] for call in probed["calls"]] == [kind == "full" for kind in kinds]


def test_a_search_with_a_clip_shows_other_prompts(comfyui: Server, found: Path) -> None:
    """Every picture of the search is the one that the host's own sampler makes of its prompt, with and without what was
    found."""
    texts = (ROOT / "flexsearch" / "assets" / "prompts.txt").read_text(encoding="utf-8").splitlines()[:2]
    same: dict[str, Any] = {"seed": next(SEEDS), "steps": 12, "cfg": 5.0, "sampler_name": "euler",
                            "scheduler": "karras", "denoise": 1.0}  # fmt: skip
    workflow = TextToImage(batch=1)
    workflow.probe()
    search = workflow.graph(
        "FlexiffusionSearch", model=workflow.model, positive=workflow.positive, negative=workflow.negative,
        latent_image=workflow.latent, clip=workflow.clip, speedups="2", minutes=0.3, images=3, **same,
    )  # fmt: skip
    for output, name in enumerate(("clip-found", "clip-plain")):
        workflow.save(search[output], name)
    comfyui.probed()
    assert comfyui.run(workflow.graph.prompt).status == "success"
    (probed,) = comfyui.probed()
    assert {call["rows"] for call in probed["calls"]} == {2} and probed["restored"], "an image at a time, and its CFG"
    given = [set(call["texts"]) for call in probed["calls"][:3]]  # the first step of the plain pictures
    (negative,) = set.intersection(*given)
    assert len({text for texts_ in given for text in texts_ - {negative}}) == 3
    (saved,) = found.glob("*.json")
    made = {name: comfyui.latent(f"clip-{name}") for name in ("found", "plain")}
    assert not made["found"].equal(made["plain"])
    for row, text in enumerate(("a red fox in the snow", *texts)):
        for name, json_ in (("plain", None), ("found", saved.read_text(encoding="utf-8"))):
            alone = TextToImage(batch=3)
            if json_ is not None:
                alone.apply(json_)
            alone.positive = alone.text(text)
            alone.save(alone.ksampler(**same), "clip-alone")
            comfyui.run(alone.graph.prompt)
            wanted, shown = comfyui.latent("clip-alone"), made[name][row]
            apart = float((wanted[row] - shown).norm() / wanted[row].norm())
            assert apart < 1e-3, (name, row, apart)
            # other prompts are further away than that
            assert float((wanted[row] - made[name][row - 1]).norm() / wanted[row].norm()) > 0.1


def test_a_search_that_is_stopped_keeps_the_best(comfyui: Server, found: Path) -> None:
    before = set(found.glob("*.json"))
    comfyui.probed()
    identity = comfyui.start(example(comfyui, "search", minutes=60.0, images=2))
    until = time.monotonic() + 600
    while comfyui.calls() < 150:  # the teacher's 30 and those of some candidates
        assert time.monotonic() < until, "the search does not get on"
        time.sleep(0.05)
    comfyui.post("/interrupt", {})
    done = comfyui.wait(identity)
    assert done.status == "success" and "it was interrupted" in done.texts()
    made = set(found.glob("*.json")) - before
    assert made and all(read(path).provenance.kind == "searched" for path in made)
