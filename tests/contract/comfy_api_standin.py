"""The part of ComfyUI's Python surface that the node definitions touch, so that they can be read without the host."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class _Kind:
    """A socket type: `io.Model.Input("model", tooltip=...)`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def Input(self, id: str, **facts: Any) -> SimpleNamespace:
        return SimpleNamespace(kind=self.name, id=id, facts=facts)

    def Output(self, id: str, **facts: Any) -> SimpleNamespace:
        return SimpleNamespace(kind=self.name, id=id, facts=facts)


@dataclass
class Schema:
    """comfy_api.latest.io.Schema, with the search aliases that newer hosts have."""

    node_id: str
    display_name: str = ""
    category: str = ""
    description: str = ""
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    is_output_node: bool = False
    search_aliases: list[str] = field(default_factory=list)


class _Io(ModuleType):
    Schema = Schema
    ComfyNode = object
    Custom = _Kind
    Hidden = SimpleNamespace(unique_id="UNIQUE_ID", extra_pnginfo="EXTRA_PNGINFO")
    NumberDisplay = SimpleNamespace(slider="slider")
    ControlAfterGenerate = SimpleNamespace(fixed="fixed", randomize="randomize")

    @staticmethod
    def NodeOutput(*results: Any, **more: Any) -> SimpleNamespace:
        return SimpleNamespace(args=results, **more)

    def __getattr__(self, name: str) -> _Kind:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Kind(name.upper())


def install(monkeypatch: pytest.MonkeyPatch, models: Any) -> SimpleNamespace:
    """Puts the stand-ins where the pack imports the host from. Returns the routes that the pack adds."""

    def module(name: str, **contents: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(contents)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    io = _Io("comfy_api.latest.io")
    module("comfy_api")
    module("comfy_api.latest", io=io, ui=SimpleNamespace(), ComfyExtension=object)
    comfy = module("comfy")
    sampler = SimpleNamespace(SAMPLERS=["euler", "dpmpp_2m"], SCHEDULERS=["normal", "karras"])
    comfy.samplers = module("comfy.samplers", KSampler=sampler, KSAMPLER=lambda function: function, ksampler=str)  # type: ignore[attr-defined]
    module("nodes", common_ksampler=None)
    routes: dict[str, Any] = {}

    class Routes(list):  # type: ignore[type-arg]
        def post(self, path: str) -> Any:
            self.append(SimpleNamespace(path=path))
            return lambda handler: routes.setdefault(path, handler)

    module("server", PromptServer=SimpleNamespace(instance=SimpleNamespace(routes=Routes())))
    _folder_paths(module, models)
    return SimpleNamespace(routes=routes)


def _folder_paths(module: Any, models: Any) -> None:
    """The host's folders of models: kinds, each with folders and endings."""
    known: dict[str, tuple[list[str], set[str]]] = {}

    known["checkpoints"] = ([str(models / "checkpoints")], {".safetensors"})
    known["diffusion_models"] = ([str(models / "diffusion_models")], {".safetensors"})

    def add(kind: str, path: str, is_default: bool = False) -> None:
        folders, _ = known.setdefault(kind, ([], set()))
        if path not in folders:
            folders.insert(0 if is_default else len(folders), path)

    def files(kind: str) -> dict[str, str]:
        from pathlib import Path

        folders, endings = known[kind]
        found: dict[str, str] = {}
        for folder in folders:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and path.suffix in endings:
                    found.setdefault(path.relative_to(folder).as_posix(), str(path))
        return found

    module(
        "folder_paths",
        folder_names_and_paths=known,
        models_dir=str(models),
        add_model_folder_path=add,
        get_folder_paths=lambda kind: list(known[kind][0]),
        get_filename_list=lambda kind: sorted(files(kind)),
        get_full_path=lambda kind, name: files(kind).get(name),
    )
