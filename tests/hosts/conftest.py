"""The hosts' checkouts and their servers; tests skip where the environment names none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("COMFYUI_PATH names no checkout of ComfyUI")
    if not (Path(path) / "main.py").exists():
        pytest.fail(f"COMFYUI_PATH={path}: there is no main.py. Give the folder of ComfyUI")
    return Path(path).resolve()


@pytest.fixture(scope="session")
def comfyui_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with random weights; FLEXIFFUSION_TEST_MODELS keeps it between runs."""
    from random_weights import write_checkpoint, write_controlnet, write_lora

    kept = os.environ.get("FLEXIFFUSION_TEST_MODELS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("models")
    for name, write in (
        ("checkpoints/tiny-sd1.safetensors", write_checkpoint),
        ("controlnet/tiny-control.safetensors", write_controlnet),
        ("loras/tiny-lora.safetensors", write_lora),
    ):
        if not (folder / name).exists():
            write(folder / name)
    return folder


@pytest.fixture(scope="session")
def comfyui(comfyui_path: Path, comfyui_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from comfyui import Server

    with Server(comfyui_path, tmp_path_factory.mktemp("host") / "base", comfyui_models) as server:
        yield server


@pytest.fixture(scope="session")
def comfy(comfyui_path: Path) -> Iterator[None]:
    """The host's own modules in this process, on the CPU."""
    from comfy_families import import_host
    from comfy_sampling import LOADED

    import_host()
    yield
    LOADED.clear()  # a model that is left takes leave of modules of the host that are gone by then


@pytest.fixture
def load(comfy: None) -> Iterator[Callable[[str], Any]]:
    """Gives a family's tiny transformer by name; afterwards no module may have another forward or hook."""
    from comfy_sampling import loaded, state

    before: list[tuple[Any, Any]] = []

    def get(name: str) -> Any:
        found = loaded(name)
        before.append((found.network, state(found.network)))
        return found

    yield get
    for network, was in before:
        assert state(network) == was
