"""Load a diffusers folder: Stable-Diffusion-layout text-to-image, unconditional latent or pixel diffusion."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from flexiffusion.layout import find_layout
from flexsearch.errors import ModelError
from flexsearch.models.model import DiffusionModel
from flexsearch.sampling.levels import NoiseSchedule
from flexsearch.sampling.solvers import NOISE_KEYS

UNETS = ("UNet2DConditionModel", "UNet2DModel")
DECODERS = {"vae": "AutoencoderKL", "vqvae": "VQModel"}


def load_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> DiffusionModel:
    """Read `model_index.json` and the parts that it names; nothing is downloaded.

    Raises ModelError, naming the file and the remedy, for a folder that is no diffusers pipeline, lacks a part, holds
    weights other than safetensors, or is of a kind that is not supported.
    """
    index = read_json(folder / "model_index.json")
    parts = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[0] is not None}
    if parts.get("unet") not in UNETS:
        raise ModelError(str(folder), f"its unet is {parts.get('unet')}", f"Give a pipeline with {' or '.join(UNETS)}")
    if "text_encoder_2" in parts:
        raise ModelError(
            str(folder), "it has two text encoders (SDXL), which this version cannot run", "Give a pipeline with one"
        )
    unet = load_part(folder, "unet", parts["unet"], dtype)
    layout = find_layout(unet)
    noise_config = {
        key: value
        for key, value in read_json(folder / "scheduler" / "scheduler_config.json").items()
        if key in NOISE_KEYS
    }
    decoder = next((name for name in DECODERS if name in parts), None)
    vae = load_part(folder, decoder, parts[decoder], dtype).to(device) if decoder else None
    text_encoder = tokenizer = None
    if "text_encoder" in parts:
        text_encoder = load_part(folder, "text_encoder", parts["text_encoder"], dtype).to(device)
        tokenizer = load_tokenizer(folder)
    elif parts["unet"] == "UNet2DConditionModel":
        raise ModelError(
            str(folder), "the unet wants text states but there is no text encoder", "Give a whole pipeline folder"
        )
    config = unet.config
    side = config.sample_size if isinstance(config.sample_size, int) else config.sample_size[0]
    scale = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 1
    return DiffusionModel(
        source=str(folder),
        family=family_of(parts["unet"], config, vae is not None),
        sha256=weights_hash(folder / "unet"),
        unet=unet.to(device),
        noise_config=noise_config,
        schedule=NoiseSchedule(alphas_cumprod(noise_config)),
        branches=layout.branches,
        latent_shape=(config.in_channels, side, side),
        device=device,
        dtype=dtype,
        image_size=(side * scale, side * scale),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        default_guidance=7.5 if text_encoder is not None else 1.0,
    )


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


def load_part(folder: Path, name: str, class_name: str, dtype: torch.dtype) -> Any:
    """One component in eval mode, on the CPU, from safetensors only."""
    import diffusers
    import transformers

    library = diffusers if hasattr(diffusers, class_name) else transformers
    maker = getattr(library, class_name, None)
    if maker is None:
        raise ModelError(str(folder / name), f"neither diffusers nor transformers knows {class_name}", "Update them")
    if not any((folder / name).glob("*.safetensors")):
        raise ModelError(
            str(folder / name),
            "it holds no .safetensors, and pickled weights are not loaded",
            "Save the pipeline again with save_pretrained(..., safe_serialization=True)",
        )
    try:
        part = maker.from_pretrained(
            folder / name, local_files_only=True, use_safetensors=True, torch_dtype=dtype, low_cpu_mem_usage=False
        )
    except Exception as error:  # the libraries raise a dozen kinds for broken files
        raise ModelError(str(folder / name), f"it cannot be loaded ({error})", "Copy the folder again") from error
    part.eval().requires_grad_(False)
    return part


def load_tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:
        raise ModelError(
            str(folder / "tokenizer"), f"it cannot be loaded ({error})", "Copy the folder again"
        ) from error


def alphas_cumprod(noise_config: dict[str, Any]) -> tuple[float, ...]:
    from diffusers import DDIMScheduler

    return tuple(DDIMScheduler(**noise_config).alphas_cumprod.double().tolist())


def family_of(unet_class: str, config: Any, latent: bool) -> str:
    """The family name that schedule files carry, from the network's configuration; `latent`: there is a decoder."""
    if unet_class == "UNet2DModel":
        return "ldm" if latent else "ddpm"
    return {768: "sd15", 1024: "sd21"}.get(config.cross_attention_dim, "custom")


def weights_hash(folder: Path) -> str:
    """SHA-256 over the safetensors files of a component, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
