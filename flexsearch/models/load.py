"""From what a user types after `--model` to a loaded model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from flexsearch.errors import ConfigError, ModelError
from flexsearch.models.folder import load_folder
from flexsearch.models.model import DiffusionModel

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUNDLED = "tiny"  # what --model is called when none is given
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(name: str, device: str = "auto", dtype: str = "auto") -> DiffusionModel:
    """`tiny` (the bundled model) or the path of a diffusers folder.

    `device` is any torch device or `auto` (the GPU where there is one); `dtype` is float32, float16, bfloat16 or
    `auto` (float16 on a GPU, float32 elsewhere). Raises ModelError with the remedy.
    """
    quiet()
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if dtype == "auto":
        dtype = "float16" if where.type == "cuda" else "float32"
    if dtype not in DTYPES:
        raise ConfigError("--dtype", f"{dtype!r} is not known", f"Choose auto, {', '.join(DTYPES)}")
    if name == BUNDLED:
        model = load_folder(ASSETS / BUNDLED, where, DTYPES[dtype])
        prompts = tuple((ASSETS / BUNDLED / "prompts.txt").read_text(encoding="utf-8").splitlines())
        return dataclasses.replace(model, source=BUNDLED, family="tiny-fashion", default_guidance=2.0, prompts=prompts)
    path = Path(name)
    if path.is_dir():
        return load_folder(path, where, DTYPES[dtype])
    if path.is_file():
        raise ModelError(name, "single files cannot be loaded by this version", "Give a diffusers folder")
    raise ModelError(name, "there is no such folder", f"Give a diffusers folder, or `{BUNDLED}` for the bundled model")


def quiet() -> None:
    """Keep the libraries' progress bars and hints off the terminal; their errors still come as exceptions."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
