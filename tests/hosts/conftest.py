"""The hosts' checkouts and their servers; tests skip where the environment names none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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
