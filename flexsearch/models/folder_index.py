"""What a diffusers folder says that it holds: `model_index.json`, and where to look when there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexsearch.errors import ModelError

INDEX = "model_index.json"
UNETS = ("UNet2DConditionModel", "UNet2DModel")
TEXT_TO_IMAGE = "Give a text-to-image model of SD1.x, SD2.x or SDXL, or a DDPM"
# Parts that are read, and those that change no picture of the search.
PARTS = ("unet", "vae", "vqvae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
TRANSFORMER = "transformer"
NETWORKS = ("prior", "decoder")  # in place of a U-Net
BESIDE = ("safety_checker", "feature_extractor", "watermark")
OPTIONS = ("force_zeros_for_empty_prompt", "requires_safety_checker", "add_watermarker", "requires_aesthetics_score")


@dataclass(frozen=True)
class Index:
    """`parts`: name -> class, where there is one; `absent`: named as null; `notes`: on what is not read or followed."""

    pipeline: str
    parts: Mapping[str, str]
    absent: frozenset[str]
    options: Mapping[str, Any]
    notes: tuple[str, ...]


def read_index(folder: Path) -> Index:
    """Raises ModelError for a folder without one, with what the folder is instead, and for entries of no known form."""
    path = folder / INDEX
    if not path.exists():
        raise _no_index(folder)
    parts: dict[str, str] = {}
    absent: set[str] = set()
    options: dict[str, Any] = {}
    for name, value in read_json(path).items():
        if not isinstance(value, list) or name.startswith("_"):
            options[name] = value
        elif value in ([None, None], [None]):
            absent.add(name)
        elif len(value) == 2 and all(isinstance(word, str) for word in value):
            parts[name] = value[1]
        else:
            raise ModelError(
                str(path), f"its entry {name} is {json.dumps(value)}, not [library, class]", "Copy the folder again"
            )
    unread = [] if TRANSFORMER in parts else [name for name in parts if name not in (*PARTS, *BESIDE)]
    notes = [f"its {name} ({parts[name]}) is not used: the search runs the model without it" for name in unread]
    notes += [
        f"{INDEX} says {name}: {json.dumps(value)}, which is not understood here and not followed"
        for name, value in options.items()
        if not name.startswith("_") and name not in OPTIONS and value and TRANSFORMER not in parts
    ]
    return Index(str(options.get("_class_name", "")), parts, frozenset(absent), options, tuple(notes))


def is_transformer(index: Index) -> bool:
    """Whether the pipeline's network is a transformer, which the pipeline's own loop calls."""
    return TRANSFORMER in index.parts and "unet" not in index.parts


def require_unet(folder: Path, index: Index) -> None:
    """Raise ModelError for a pipeline whose network is none of the U-Nets that are run here."""
    unet = index.parts.get("unet")
    if unet in UNETS:
        return
    networks = [f"{name}: {maker}" for name, maker in index.parts.items() if name in NETWORKS]
    named = f"its pipeline is {index.pipeline}" if index.pipeline else "it is a pipeline"
    if unet is not None:
        problem = f"{named}, whose U-Net is of class {unet}"
    elif networks:
        problem = f"{named}, which has no U-Net ({', '.join(networks)})"
    else:
        problem = f"{named} without a U-Net"
    raise ModelError(str(folder), problem, f"Give a pipeline with {' or '.join(UNETS)}")


def read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(str(path), "the file is missing", "Give a folder that save_pretrained() wrote") from None
    except (OSError, ValueError) as error:
        raise ModelError(str(path), f"it cannot be read ({error})", "Copy the folder again") from error
    if not isinstance(document, dict):
        raise ModelError(str(path), f"it holds a {type(document).__name__}, not an object", "Copy the folder again")
    return document


def _no_index(folder: Path) -> ModelError:
    """What a folder without an index is, and what to give instead."""
    place = str(folder)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        return ModelError(place, f"it cannot be read ({error.strerror})", "Check the path and its permissions")
    if not entries:
        return ModelError(place, "the folder is empty", "Give a folder that save_pretrained() wrote, or a file")
    snapshots = sorted((folder / "snapshots").glob(f"*/{INDEX}"))
    if snapshots:
        problem = "it is a repository's root in the Hugging Face cache, not the pipeline itself"
        return ModelError(place, problem, f"Give {snapshots[-1].parent}")
    if (folder / "config.json").exists():
        maker = read_json(folder / "config.json").get("_class_name", "a model")
        problem = f"it is one part of a pipeline ({maker}), not a whole one"
        remedy = f"Give {folder.parent}" if (folder.parent / INDEX).exists() else "Give a folder with all its parts"
        return ModelError(place, problem, remedy)
    files = [entry.name for entry in entries if entry.suffix.lower() == ".safetensors"]
    if files:
        problem = f"it is no pipeline, but a folder with {len(files):,} .safetensors file{'s' * (len(files) > 1)}"
        return ModelError(place, problem, f"Give one of them, as {folder / files[0]}")
    below = sorted(folder.glob(f"*/{INDEX}"))
    if below:
        return ModelError(place, "it holds pipelines, but is none itself", f"Give {below[0].parent}")
    return ModelError(
        str(folder / INDEX), "the file is missing", "Give a folder that save_pretrained() wrote, or a .safetensors file"
    )
