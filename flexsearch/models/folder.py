"""Load a diffusers folder: SD1.x, SD2.x, SDXL; latent or pixel diffusion, unconditional or of classes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flexiffusion.families import recognised
from flexiffusion.layouts import find_layout
from flexsearch.errors import ModelError
from flexsearch.models.checkpoint import Checkpoint
from flexsearch.models.few_steps import few_step_notes, names_of
from flexsearch.models.finite import require_finite
from flexsearch.models.folder_config import (
    CONDITIONAL_UNET,
    UNCONDITIONAL_UNET,
    Noise,
    check,
    check_numbers,
    in_short,
    known_keys,
    notes,
    read_noise,
)
from flexsearch.models.folder_index import (
    INDEX,
    TEXT_TO_IMAGE,
    Index,
    is_transformer,
    read_index,
    read_json,
    require_unet,
)
from flexsearch.models.identity import sha256_of
from flexsearch.models.model import DiffusionModel
from flexsearch.models.prediction import PredictionName, noise_levels
from flexsearch.models.recognise import FLOATS, other_inputs
from flexsearch.models.safetensors_header import read_header
from flexsearch.models.text import TextEncoder, TextEncoders
from flexsearch.models.variants import UNQUANTISED, refuse_variants, unused

DECODERS = ("vae", "vqvae")
DECODER_CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL", "VQModel")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TEXT_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")
DEFAULT_CHANNELS = {False: 3, True: 4}  # of UNet2DModel and UNet2DConditionModel
COUNTS = ("I64", "I32", "BOOL")  # of buffers, as position_ids
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
IN_ROOT = ("unet", "scheduler")  # parts that the pipelines of 2022 keep in the folder itself


def load_folder(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    prediction: PredictionName | None = None,
    size: tuple[int, int] | None = None,
) -> Checkpoint:
    """Read `model_index.json` and the parts that it names; nothing is downloaded.

    `prediction` None means as the scheduler's configuration says; `size` is a picture's (width, height), for models
    that tell their noise levels for a size only (see also `Checkpoint.sized`). Raises ModelError, naming the file and
    the remedy, for a folder that is no diffusers pipeline, lacks a part or some of its tensors, holds weights other
    than safetensors, or is of a kind that is not supported.
    """
    index = read_index(folder)
    if is_transformer(index):
        from flexsearch.models.pipeline_folder import load_pipeline

        return load_pipeline(folder, index, device, dtype, prediction, size)
    require_unet(folder, index)
    encoders = [name for name in TEXT_ENCODERS if name in index.parts]
    conditioned = index.parts["unet"] == "UNet2DConditionModel"
    _require_parts(folder, index, encoders, conditioned)
    loader = Loader(folder, index.parts, [*index.notes])
    noise = read_noise(loader.at("scheduler"), index.parts.get("scheduler"), prediction)
    loader.check_unet(conditioned, len(encoders))
    unet = loader.part("unet", "U-Net", dtype)
    config = unet.config
    decoder = next((name for name in DECODERS if name in index.parts), None)
    vae = loader.part(decoder, "VAE", torch.float32) if decoder else None
    if vae is not None:
        check_decoder(folder / str(decoder), vae.config, config.in_channels)
    text = TextEncoders(tuple(loader.encoder(name, dtype) for name in encoders)) if encoders else None
    if text is not None:
        check_widths(folder, text, config)
    scale = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 1
    height, width = loader.sample_size(config.sample_size, scale, len(encoders))
    classes = None if conditioned else config.num_class_embeds
    return DiffusionModel(
        source=str(folder),
        family=family_of(index.parts["unet"], config, vae is not None),
        sha256=sha256_of(weight_files(loader.at("unet"))),
        unet=unet.to(device),
        noise_config=noise.noise,
        levels=noise_levels(noise.noise),
        branches=find_layout(unet).branches,
        latent_shape=(config.in_channels, height, width),
        device=device,
        dtype=dtype,
        image_size=(width * scale, height * scale),
        # Conditional U-Nets fit the skips of odd latents together; the others cannot.
        multiple=scale if conditioned else scale * 2 ** (len(config.block_out_channels) - 1),
        vae=vae,
        text=text,
        classes=classes,
        default_guidance=1.0 if text is None else 7.0 if len(encoders) == 2 else 7.5,
        prompts=mixed_classes(classes) if classes else (),
        zero_negative=zeros_for_empty(index, len(encoders)),
        notes=(*loader.notes, *_notes(folder, index, noise, len(encoders))),
    )


def _require_parts(folder: Path, index: Index, encoders: list[str], conditioned: bool) -> None:
    """Raise ModelError for a pipeline without a part that its network needs, or with one of an unknown class."""
    place = str(folder)
    if encoders == ["text_encoder_2"]:
        raise ModelError(place, "it is the SDXL refiner, which only finishes pictures", "Give an SDXL base model")
    if conditioned and not encoders:
        raise ModelError(
            place, "the unet wants text states but there is no text encoder", "Give a whole pipeline folder"
        )
    decoders = [name for name in DECODERS if name in index.parts]
    if not decoders and (conditioned or index.absent.intersection(DECODERS)):
        raise ModelError(place, "it has no VAE, which turns latents into pictures", "Give a folder with the VAE")
    for names, classes in ((encoders, TEXT_CLASSES), (decoders, DECODER_CLASSES)):
        for name in names:
            if index.parts[name] not in classes:
                problem = f"its {name} is of class {index.parts[name]}, which is not run here"
                raise ModelError(place, problem, TEXT_TO_IMAGE)


def zeros_for_empty(index: Index, encoders: int) -> bool:
    """Whether guidance leads away from zeros: what SDXL's pipeline does unless its index says otherwise."""
    return encoders == 2 and bool(index.options.get("force_zeros_for_empty_prompt", True))


def _notes(folder: Path, index: Index, noise: Noise, encoders: int) -> list[str]:
    found = [*noise.notes, *few_step_notes(names_of(folder), noise.scheduler)]
    if zeros_for_empty(index, encoders):
        found.append(
            "as its pipeline does (force_zeros_for_empty_prompt), guidance leads away from zeros instead of the empty "
            "prompt; ComfyUI and the WebUI encode the empty prompt"
        )
    elif index.options.get("force_zeros_for_empty_prompt") and encoders == 1:
        found.append(f"{INDEX} says force_zeros_for_empty_prompt, which only pipelines of two text encoders follow")
    return found


class Loader:
    """Parts of one folder, in eval mode, on the CPU, from safetensors only; `notes` collects what is to be told."""

    def __init__(self, folder: Path, parts: Mapping[str, str], notes: list[str]) -> None:
        self.folder = folder
        self.parts = parts
        self.notes = notes

    def at(self, name: str) -> Path:
        """Where a part is: in a folder of its name, or, as in pipelines of 2022, in the root."""
        own = self.folder / name
        return self.folder if name in IN_ROOT and not own.is_dir() and (self.folder / "config.json").exists() else own

    def check_unet(self, conditioned: bool, encoders: int) -> None:
        """Refuse a network with inputs that nothing gives it, by its configuration: before its weights are read."""
        path = self._require("unet") / "config.json"
        config = read_json(path)
        check(path, config, CONDITIONAL_UNET if conditioned else UNCONDITIONAL_UNET)
        inputs, outputs = (config.get(f"{side}_channels", DEFAULT_CHANNELS[conditioned]) for side in ("in", "out"))
        if outputs == 2 * inputs:
            raise ModelError(
                str(self.folder),
                f"its network predicts the variance too ({inputs} input and {outputs} output channels), which is not "
                "sampled here",
                "Give a model that predicts the noise alone",
            )
        if inputs != outputs:
            raise other_inputs(str(self.folder), inputs)
        if conditioned and (config.get("addition_embed_type") == "text_time") != (encoders == 2):
            told = "the pooled text and the picture's size" if encoders == 1 else "no pooled text"
            problem = f"its network is told {told}, but it has {encoders} text encoder{'s' * (encoders > 1)}"
            raise ModelError(str(path), problem, "Give a whole pipeline folder")
        if str(config.get("attention_type", "default")).startswith("gated"):
            self.notes.append("its GLIGEN adapter (boxes) is not used: the search runs the model without it")

    def part(self, name: str, title: str, dtype: torch.dtype) -> Any:
        """One component. Raises ModelError where it cannot be loaded, lacks tensors or holds NaN."""
        import diffusers
        import transformers

        place, class_name = self._require(name), self.parts[name]
        library = diffusers if hasattr(diffusers, class_name) else transformers
        maker = getattr(library, class_name)
        path = place / "config.json"
        if library is diffusers:
            check_numbers(path, read_json(path))
        mixed = bool(getattr(maker, "_keep_in_fp32_modules", None))
        files = weight_files(place)
        if not files:
            raise ModelError(
                str(place),
                "it holds no .safetensors, and pickled weights are not loaded",
                "Save the pipeline again with save_pretrained(..., safe_serialization=True)",
            )
        for file in files:
            refuse_stored(file)
        try:
            part, loaded = maker.from_pretrained(
                place.resolve(),  # what is relative and not there would be taken for a repository
                local_files_only=True,
                use_safetensors=True,
                torch_dtype=dtype,
                low_cpu_mem_usage=mixed,  # diffusers does not read mixed precisions otherwise
                variant=variant_of(files[0]),
                output_loading_info=True,
            )
        except Exception as error:  # the libraries raise a dozen kinds for broken files
            raise ModelError(str(place), f"it cannot be loaded ({in_short(error)})", "Copy the folder again") from error
        if missing := sorted(loaded["missing_keys"]):
            raise ModelError(
                str(place),
                f"{len(missing):,} of its {len(part.state_dict()):,} tensors are missing, {missing[0]} first",
                "Copy the folder again, or ask the one who made it",
            )
        if surplus := sorted(loaded["unexpected_keys"]):
            self.notes.append(unused(len(surplus), surplus[0], name))
        if library is diffusers:
            if not mixed:  # SD3's weights are left in the file's precision, for the sake of its first buffer
                part.to(dtype)
            self.notes.extend(notes(path, read_json(path), known_keys(maker)))
        require_finite(str(place), title, part.state_dict())
        part.eval().requires_grad_(False)
        return part

    def encoder(self, name: str, dtype: torch.dtype) -> TextEncoder:
        from transformers import CLIPTokenizer

        tokenizer_name = name.replace("text_encoder", "tokenizer")
        self.require_tokenizer(tokenizer_name)
        place = self.at(tokenizer_name)
        try:
            tokenizer = CLIPTokenizer.from_pretrained(place.resolve(), local_files_only=True)
        except Exception as error:
            raise ModelError(str(place), f"it cannot be loaded ({in_short(error)})", "Copy the folder again") from error
        return TextEncoder(self.part(name, "text encoder", dtype), tokenizer, tokenizer.pad_token_id)

    def require_tokenizer(self, name: str) -> None:
        """Raise ModelError where a tokenizer has no words: transformers makes one of what is left."""
        place = self._require(name)
        if not any((place / file).exists() for file in VOCABULARIES):
            raise ModelError(str(place), f"it holds none of {', '.join(VOCABULARIES)}", "Copy the folder again")

    def sample_size(self, said: Any, scale: int, encoders: int) -> tuple[int, int]:
        """Height and width of a sample: the network's own, or, where its configuration says none, the family's."""
        if isinstance(said, int):
            return said, said
        if said is not None:
            height, width = said
            return int(height), int(width)
        if not encoders:
            raise ModelError(
                str(self.at("unet") / "config.json"), "it names no sample_size", "Add the one that it was trained at"
            )
        side = 1024 if encoders == 2 else 512
        self.notes.append(f"its unet/config.json names no sample_size: {side}x{side} is taken; --size sets another")
        return side // scale, side // scale

    def _require(self, name: str) -> Path:
        place = self.at(name)
        if not place.is_dir():
            raise ModelError(str(place), "the folder is missing", "Give a whole pipeline folder: copy it again")
        return place


def refuse_stored(file: Path) -> None:
    """Raise ModelError for a part's file that is damaged, quantised, or of a network that is not run as it is."""
    header = read_header(file)
    refuse_variants(file, header.tensors)
    for name, tensor in header.tensors.items():
        if tensor.dtype not in (*FLOATS, *COUNTS):
            raise ModelError(str(file), f"{name} is of type {tensor.dtype}: its weights are quantised", UNQUANTISED)


def check_decoder(place: Path, config: Any, channels: int) -> None:
    """Raise ModelError for an autoencoder of other latents than the network's."""
    if config.latent_channels != channels:
        raise ModelError(
            str(place),
            f"its latents have {config.latent_channels} channels, but the network's have {channels}",
            "Give the VAE that the network was trained with",
        )
    for key in ("latents_mean", "latents_std"):
        if config.get(key) is not None and len(config[key]) != channels:
            raise ModelError(
                str(place / "config.json"),
                f"{key} has {len(config[key])} values for latents of {channels} channels",
                "Copy the folder again",
            )


def check_widths(folder: Path, text: TextEncoders, config: Any) -> None:
    """Raise ModelError where the network attends to states of another width than the text encoders give."""
    given = sum(encoder.model.config.hidden_size for encoder in text.encoders)
    wanted = config.cross_attention_dim if config.encoder_hid_dim is None else config.encoder_hid_dim
    if isinstance(wanted, int) and wanted != given:
        raise ModelError(
            str(folder),
            f"its text encoders give states of width {given}, but its network attends to {wanted}",
            "Give the text encoders that the network was trained with",
        )


def mixed_classes(count: int) -> tuple[str, ...]:
    """All classes but the last, which stands for none, in a fixed mixed order: neighbours look alike."""
    numbers = list(range(max(1, count - 1)))
    random.Random(0).shuffle(numbers)
    return tuple(map(str, numbers))


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
