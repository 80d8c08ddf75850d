"""From what a user types after `--model` to a loaded model."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

import torch

from flexsearch.devices import total_memory
from flexsearch.errors import ConfigError, ModelError
from flexsearch.models.assets import ASSETS
from flexsearch.models.checkpoint import Checkpoint
from flexsearch.models.folder import load_folder
from flexsearch.models.folder_index import is_transformer, read_index
from flexsearch.models.model import no_room
from flexsearch.models.prediction import PREDICTIONS, PredictionName
from flexsearch.models.single_file import load_single_file


class Bundled(NamedTuple):
    """A model that comes with the tool; `size` None: its files say it."""

    family: str
    guidance: float
    size: tuple[int, int] | None = None


BUNDLED = {
    "tiny": Bundled("tiny-fashion", 2.0),
    "pixel": Bundled("pixel-fashion", 1.0),
    "emoji": Bundled("emoji", 3.0, (64, 64)),
}
KINDS_OF_STEPS = 64  # torch.compile gives up after as many graphs of one network: full, and partial by branch
ADDRESSES = ("http://", "https://", "hf:", "civitai:")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # OWNER/NAME of the Hugging Face hub
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_model(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    size: tuple[int, int] | None = None,
    prediction: str = "auto",
    compiled: bool = False,
    frames: int | None = None,
) -> Checkpoint:
    """`tiny`, `pixel` or `emoji` (the bundled models), a .safetensors checkpoint, or a diffusers folder.

    `device` is any torch device or `auto` (the GPU where there is one); `dtype` is float32, float16, bfloat16 or
    `auto` (see `default_dtype`); `size` is a picture's (width, height) in pixels, None for the model's
    own; `prediction` is epsilon, v_prediction or `auto`; `compiled` hands the network to torch.compile; `frames` is the
    number of a video's frames, None for the model's own. Raises ModelError for a model, ConfigError for an argument
    that cannot be used, with the remedy.
    """
    where = find_device(device)
    if dtype == "auto":
        dtype = default_dtype(name, where)
    if dtype not in DTYPES:
        raise ConfigError("--dtype", f"{dtype!r} is not known", f"Choose auto, {', '.join(DTYPES)}")
    predicts = next((known for known in PREDICTIONS if known == prediction), None)
    if predicts is None and prediction != "auto":
        raise ConfigError("--prediction", f"{prediction!r} is not known", f"Choose auto, {', '.join(PREDICTIONS)}")
    try:
        model = _load(name, where, DTYPES[dtype], predicts, size)
    except torch.OutOfMemoryError as error:
        remedy = "Give --dtype float16, or --device cpu"
        raise ModelError(name, f"its network does not fit on {where}", remedy) from error
    if compiled:
        import torch._dynamo.config as dynamo

        dynamo.cache_size_limit = max(dynamo.cache_size_limit, KINDS_OF_STEPS)
        model.network.compile()
    if frames is not None:
        model = model.framed(frames)
    if size is not None:
        model = model if model.image_size == size else model.sized(size)
    if (size is not None or frames is not None) and model.bytes_per_image(1.0) > total_memory(where):
        raise no_room(model)
    return model


def default_dtype(name: str, device: torch.device) -> str:
    """float32 on the CPU; elsewhere float16, and bfloat16 for transformers, most of which overflow in float16."""
    if device.type == "cpu":
        return "float32"
    path = Path(name)
    return "bfloat16" if name not in BUNDLED and path.is_dir() and is_transformer(read_index(path)) else "float16"


def find_device(name: str) -> torch.device:
    """A torch device; `auto` is the GPU where there is one. Raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError("--device", f"{name!r} cannot be used ({reason})", "Choose auto, cpu, cuda or mps") from error
    return device


def _load(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    prediction: PredictionName | None,
    size: tuple[int, int] | None,
) -> Checkpoint:
    if name in BUNDLED:
        model = load_folder(ASSETS / name, device, dtype, prediction, size or BUNDLED[name].size)
        file = ASSETS / name / "prompts.txt"
        prompts = tuple(file.read_text(encoding="utf-8").splitlines()) if file.exists() else ()
        known = BUNDLED[name]
        return dataclasses.replace(
            model, source=name, family=known.family, default_guidance=known.guidance, prompts=prompts
        )
    path = Path(name)
    if path.is_dir():
        return load_folder(path, device, dtype, prediction, size)
    if path.is_file():
        return load_single_file(path, device, dtype, prediction)
    raise _nothing_there(name)


def _nothing_there(name: str) -> ModelError:
    """The refusal of a name that is no path: an address or a repository is not fetched."""
    if name.startswith(ADDRESSES):
        return ModelError(name, "nothing is downloaded", "Fetch it first, then give the file or the folder")
    if REPOSITORY.fullmatch(name) and not name.lower().endswith(".safetensors") and not Path(name).parent.exists():
        problem = "there is no such folder, and nothing is downloaded from repositories"
        return ModelError(
            name, problem, f"Fetch it first, as with `hf download {name} --local-dir FOLDER`, then give the folder"
        )
    return ModelError(
        name,
        "there is no such file or folder",
        "Give a .safetensors checkpoint, a diffusers folder, or `tiny`, `pixel` or `emoji` for a bundled model",
    )
