"""Load an SD1.x, SD2.x or SDXL checkpoint from one .safetensors file in the original LDM layout, without any network.

diffusers' own functions convert the tensors; configurations follow from the file's shapes; the tokenizer is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from flexiffusion.layout import find_layout
from flexsearch.errors import ModelError
from flexsearch.models.assets import ASSETS
from flexsearch.models.identity import sha256_of
from flexsearch.models.ldm_keys import TOKENS, UNET, VAE, VOCABULARY, CheckpointShape, TextShape
from flexsearch.models.model import DiffusionModel
from flexsearch.models.prediction import (
    SD2_BIAS,
    ZERO_SNR_MARK,
    PredictionName,
    noise_config,
    noise_levels,
    recognise_prediction,
)
from flexsearch.models.recognise import canonical, recognise
from flexsearch.models.safetensors_header import read_header
from flexsearch.models.text import TextEncoder, TextEncoders

END_OF_TEXT, EXCLAMATION_MARK = VOCABULARY - 1, 0  # what CLIP pads with, and what open_clip does
VAE_SCALE = 8


def load_single_file(
    path: Path, device: torch.device, dtype: torch.dtype, prediction: PredictionName | None = None
) -> DiffusionModel:
    """Read a checkpoint; `prediction` None means as recognised from the file.

    Raises ModelError, naming the file, what is wrong with it and the remedy.
    """
    header = read_header(path)
    names = canonical(header.tensors)
    shape = recognise(path, {name: header.tensors[stored] for name, stored in names.items()})
    family = shape.family
    try:
        with safe_open(path, "pt") as file:

            def read(prefix: str, wanted: torch.dtype = dtype) -> dict[str, Tensor]:
                """The needed tensors below a prefix, by canonical name."""
                return {
                    name: file.get_tensor(names[name]).to(wanted)
                    for name in shape.tensors()
                    if name.startswith(prefix) and name in names
                }

            if prediction is None:
                bias = file.get_tensor(names[SD2_BIAS]) if family.name == "sd21" else None
                prediction = recognise_prediction(family.name, set(names), header.metadata, bias)
            unet = make_unet(shape, read(UNET))
            vae = make_vae(shape, read(VAE, torch.float32))
            encoders = tuple(make_text_encoder(shape, text, read(text.prefix)) for text in shape.texts)
    except SafetensorError as error:
        raise ModelError(str(path), f"it cannot be read ({error})", "Download or copy it again") from error
    noise = noise_config(prediction, ZERO_SNR_MARK in names)
    side = 768 if family.name == "sd21" and prediction == "v_prediction" else family.side
    return DiffusionModel(
        source=str(path),
        family=family.name,
        sha256=sha256_of([path]),
        unet=unet.to(device),
        noise_config=noise,
        levels=noise_levels(noise),
        branches=find_layout(unet).branches,
        latent_shape=(4, side // VAE_SCALE, side // VAE_SCALE),
        device=device,
        dtype=dtype,
        image_size=(side, side),
        multiple=VAE_SCALE,
        vae=vae,
        text=TextEncoders(encoders),
        default_guidance=family.guidance,
    )


def unet_config(shape: CheckpointShape) -> dict[str, Any]:
    """The arguments of diffusers' `UNet2DConditionModel`."""
    family = shape.family
    widths = tuple(shape.channels * mult for mult in family.mult)
    config: dict[str, Any] = {
        "sample_size": family.side // VAE_SCALE,
        "in_channels": shape.in_channels,
        "block_out_channels": widths,
        "down_block_types": tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in family.depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(family.depths)),
        "transformer_layers_per_block": tuple(depth or 1 for depth in family.depths),
        "cross_attention_dim": shape.context,
        # diffusers' name; what it takes is the number of heads: 8 in SD1.x, of 64 channels each in the others
        "attention_head_dim": tuple(max(1, width // 64) for width in widths) if family.linear else 8,
        "use_linear_projection": family.linear,
    }
    if shape.pooled is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": shape.pooled + 6 * 256,
        }
    return config


def make_unet(shape: CheckpointShape, tensors: dict[str, Tensor]) -> nn.Module:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = unet_config(shape)
    converted = convert_ldm_unet_checkpoint(
        tensors, {"layers_per_block": 2, "class_embed_type": None, "num_class_embeds": None, **config}
    )
    return filled(lambda: UNet2DConditionModel(**config), converted)


def make_vae(shape: CheckpointShape, tensors: dict[str, Tensor]) -> nn.Module:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    levels = len(shape.vae_channels)
    config = {
        "block_out_channels": shape.vae_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": shape.family.scaling,
    }
    return filled(lambda: AutoencoderKL(**config), convert_ldm_vae_checkpoint(tensors, config))


def make_text_encoder(shape: CheckpointShape, text: TextShape, tensors: dict[str, Tensor]) -> TextEncoder:
    """A CLIP text encoder. SD2.x's only one is used without its last layer, which is left out here."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    opened = text.kind == "open_clip"
    pooled = opened and shape.pooled is not None
    layers = text.layers - 1 if opened and not pooled else text.layers
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=text.width,
        intermediate_size=4 * text.width,
        num_hidden_layers=layers,
        num_attention_heads=text.heads,
        max_position_embeddings=TOKENS,
        hidden_act="gelu" if opened else "quick_gelu",
        projection_dim=text.width,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=END_OF_TEXT,
    )
    maker = CLIPTextModelWithProjection if pooled else CLIPTextModel
    if opened:
        surplus = f"{text.prefix}transformer.resblocks.{layers}."
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(surplus)}
        # The first argument is asked for its width only, and only where there is no projection.
        converted = convert_open_clip_checkpoint(SimpleNamespace(config=config), kept, prefix=text.prefix)
    else:
        converted = {f"text_model.{name.removeprefix(text.prefix)}": tensor for name, tensor in tensors.items()}
    if not pooled:
        converted.pop("text_projection.weight", None)
    model = filled(lambda: maker(config), converted)
    tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "clip", local_files_only=True)
    return TextEncoder(model, tokenizer, EXCLAMATION_MARK if opened else END_OF_TEXT)


def filled(make: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module that takes over `tensors` as they are: no second copy, no initialisation. In eval mode, on the CPU."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module = make()
    wanted = module.state_dict()
    if not any(name.startswith("text_model.") for name in wanted):  # transformers from 5.6 on
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    module.load_state_dict({name: tensors[name].reshape(value.shape) for name, value in wanted.items()}, assign=True)
    return module.eval().requires_grad_(False)
