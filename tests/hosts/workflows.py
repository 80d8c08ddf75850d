"""Workflows for the HTTP API of ComfyUI, as Python: every node is a call, every output a link; and saved ones."""

from __future__ import annotations

import itertools
from typing import Any

Link = list[Any]  # [node id, output]


class Graph:
    """An API prompt that is being written: `graph("KSampler", model=..., ...)` adds a node and returns its outputs."""

    def __init__(self) -> None:
        self.prompt: dict[str, Any] = {}
        self._ids = itertools.count(1)

    def __call__(self, class_type: str, **inputs: Any) -> _Outputs:
        name = str(next(self._ids))
        self.prompt[name] = {
            "class_type": class_type,
            "inputs": {key: value[0] if isinstance(value, _Outputs) else value for key, value in inputs.items()},
        }
        return _Outputs(name)


def prompt_of(saved: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """The API prompt of a workflow as the front end saves it; nodes: the host's /object_info."""
    sources = {link[0]: [str(link[1]), link[2]] for link in saved["links"]}
    prompt = {}
    for node in saved["nodes"]:
        known = {name: facts for kind in nodes[node["type"]]["input"].values() for name, facts in kind.items()}
        values, inputs = iter(node.get("widgets_values") or ()), {}
        for one in node["inputs"]:
            if one.get("widget"):
                inputs[one["name"]] = next(values)
                if known[one["name"]][1].get("control_after_generate"):
                    next(values)  # what becomes of the seed after a run: the front end's own widget
            if one.get("link") is not None:
                inputs[one["name"]] = sources[one["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


class _Outputs:
    """Outputs of one node: `node[1]` is the link to the second; the node itself stands for the first."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, index: int) -> Link:
        return [self.name, index]


class TextToImage:
    """The usual workflow up to the sampler, on the random checkpoint."""

    def __init__(self, size: int = 64, batch: int = 1, checkpoint: str = "tiny-sd1.safetensors") -> None:
        self.graph = Graph()
        loaded = self.graph("CheckpointLoaderSimple", ckpt_name=checkpoint)
        self.model: Any = loaded[0]
        self.clip, self.vae = loaded[1], loaded[2]
        self.positive: Any = self.text("a red fox in the snow")
        self.negative: Any = self.text("blurry, text")
        self.latent: Any = self.graph("EmptyLatentImage", width=size, height=size, batch_size=batch)

    def text(self, words: str) -> _Outputs:
        return self.graph("CLIPTextEncode", clip=self.clip, text=words)

    def schedule(self, json: str, preset: str = "sd15-turns-8.json") -> _Outputs:
        return self.graph("FlexiffusionLoadSchedule", preset=preset, json=json)

    def apply(self, json: str, mapping: str = "position") -> None:
        """Puts a schedule on the model."""
        self.model = self.graph(
            "FlexiffusionApplySchedule", model=self.model, schedule=self.schedule(json), mapping=mapping
        )

    def probe(self) -> None:
        """Counts what the network really computes, below everything that is on the model so far."""
        self.model = self.graph("FlexiffusionTestProbe", model=self.model)

    def ksampler(self, **changed: Any) -> _Outputs:
        settings = {
            "seed": 7,
            "steps": 8,
            "cfg": 5.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
            "model": self.model,
            "positive": self.positive,
            "negative": self.negative,
            "latent_image": self.latent,
        }
        return self.graph("KSampler", **(settings | changed))

    def sampler(self, json: str, **changed: Any) -> _Outputs:
        """The pack's own sampler node."""
        settings = {
            "seed": 7,
            "steps": 8,
            "cfg": 5.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
            "mapping": "position",
            "model": self.model,
            "schedule": self.schedule(json),
            "positive": self.positive,
            "negative": self.negative,
            "latent_image": self.latent,
        }
        return self.graph("FlexiffusionSampler", **(settings | changed))

    def save(self, latent: Any, name: str) -> None:
        self.graph("SaveLatent", samples=latent, filename_prefix=name)
