"""Load a diffusers folder: SD1.x, SD2.x, SDXL; latent or pixel diffusion, unconditional or of classes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from flexiffusion.families import recognised
from flexiffusion.layout import find_layout
from flexsearch.errors import ModelError
from flexsearch.models.identity import sha256_of
from flexsearch.models.model import DiffusionModel
from flexsearch.models.prediction import NOISE_KEYS, PredictionName, noise_levels, with_zero_snr
from flexsearch.models.recognise import CHANNELS
from flexsearch.models.text import TextEncoder, TextEncoders

UNETS = ("UNet2DConditionModel", "UNet2DModel")
DECODERS = ("vae", "vqvae")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def load_folder(
    folder: Path, device: torch.device, dtype: torch.dtype, prediction: PredictionName | None = None
) -> DiffusionModel:
    """Read `model_index.json` and the parts that it names; nothing is downloaded.

    `prediction` None means as the scheduler's configuration says. Raises ModelError, naming the file and the remedy,
    for a folder that is no diffusers pipeline, lacks a part, holds weights other than safetensors, or is of a kind that
    is not supported.
    """
    index = read_json(folder / "model_index.json")
    parts = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[0] is not None}
    if parts.get("unet") not in UNETS:
        raise ModelError(str(folder), f"its unet is {parts.get('unet')}", f"Give a pipeline with {' or '.join(UNETS)}")
    encoders = [name for name in TEXT_ENCODERS if name in parts]
    conditioned = parts["unet"] == "UNet2DConditionModel"
    if encoders == ["text_encoder_2"]:
        raise ModelError(str(folder), "it is the SDXL refiner, which only finishes pictures", "Give an SDXL base model")
    if conditioned and not encoders:
        raise ModelError(
            str(folder), "the unet wants text states but there is no text encoder", "Give a whole pipeline folder"
        )
    unet = load_part(folder, "unet", parts["unet"], dtype)
    config = unet.config
    if config.in_channels != config.out_channels:
        kind = CHANNELS.get(config.in_channels, "a model for other inputs than text")
        raise ModelError(
            str(folder),
            f"it is {kind} ({config.in_channels} input channels), which the search cannot run",
            "Give the text-to-image model that it was made from",
        )
    decoder = next((name for name in DECODERS if name in parts), None)
    vae = load_part(folder, decoder, parts[decoder], torch.float32) if decoder else None
    text = TextEncoders(tuple(load_encoder(folder, name, parts, dtype) for name in encoders)) if encoders else None
    side = config.sample_size if isinstance(config.sample_size, int) else config.sample_size[0]
    scale = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 1
    noise = read_noise(folder, prediction)
    classes = None if conditioned else config.num_class_embeds
    return DiffusionModel(
        source=str(folder),
        family=family_of(parts["unet"], config, vae is not None),
        sha256=sha256_of(weight_files(folder / "unet")),
        unet=unet.to(device),
        noise_config=noise,
        levels=noise_levels(noise),
        branches=find_layout(unet).branches,
        latent_shape=(config.in_channels, side, side),
        device=device,
        dtype=dtype,
        image_size=(side * scale, side * scale),
        # Conditional U-Nets fit the skips of odd latents together; the others cannot.
        multiple=scale if conditioned else scale * 2 ** (len(config.block_out_channels) - 1),
        vae=vae,
        text=text,
        classes=classes,
        default_guidance=1.0 if text is None else 7.0 if len(encoders) == 2 else 7.5,
        prompts=mixed_classes(classes) if classes else (),
    )


def read_noise(folder: Path, prediction: PredictionName | None) -> dict[str, Any]:
    """What of the scheduler's configuration says how the network was trained."""
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    noise = {key: value for key, value in config.items() if key in NOISE_KEYS}
    if prediction is not None:
        noise["prediction_type"] = prediction
    return with_zero_snr(noise) if config.get("rescale_betas_zero_snr") else noise


def mixed_classes(count: int) -> tuple[str, ...]:
    """All classes but the last, which stands for none, in a fixed mixed order: neighbours look alike."""
    numbers = list(range(max(1, count - 1)))
    random.Random(0).shuffle(numbers)
    return tuple(map(str, numbers))


def load_encoder(folder: Path, name: str, parts: dict[str, str], dtype: torch.dtype) -> TextEncoder:
    tokenizer = load_tokenizer(folder / name.replace("text_encoder", "tokenizer"))
    return TextEncoder(load_part(folder, name, parts[name], dtype), tokenizer, tokenizer.pad_token_id)


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
    files = weight_files(folder / name)
    if not files:
        raise ModelError(
            str(folder / name),
            "it holds no .safetensors, and pickled weights are not loaded",
            "Save the pipeline again with save_pretrained(..., safe_serialization=True)",
        )
    try:
        part = maker.from_pretrained(
            folder / name,
            local_files_only=True,
            use_safetensors=True,
            torch_dtype=dtype,
            low_cpu_mem_usage=False,
            variant=variant_of(files[0]),
        )
    except Exception as error:  # the libraries raise a dozen kinds for broken files
        raise ModelError(str(folder / name), f"it cannot be loaded ({error})", "Copy the folder again") from error
    part.eval().requires_grad_(False)
    return part


def load_tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ModelError(str(folder), f"it cannot be loaded ({error})", "Copy the folder again") from error


def family_of(unet_class: str, config: Any, latent: bool) -> str:
    """The family name that schedule files carry, from the network's configuration; `latent`: there is a decoder."""
    if unet_class == "UNet2DModel":
        return "ldm" if latent else "ddpm"
    return recognised(config.cross_attention_dim) or "custom"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a component that are read, by name: of one precision where there are several."""
    files = sorted(folder.glob("*.safetensors"))
    variants = [variant_of(file) for file in files]
    wanted = None if None in variants or not files else variants[0]
    return [file for file, variant in zip(files, variants, strict=True) if variant == wanted]


def variant_of(file: Path) -> str | None:
    """`fp16` of `diffusion_pytorch_model.fp16.safetensors`: what `save_pretrained(variant=...)` put into the name."""
    middle = file.name.split(".")[1:-1]
    return middle[0].split("-")[0] if middle else None
