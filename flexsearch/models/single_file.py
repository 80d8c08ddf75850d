"""Load an SD1.x, SD2.x or SDXL checkpoint from one .safetensors file in the original LDM layout, without any network.

diffusers' own functions convert the tensors; configurations follow from the file's shapes; the tokenizer is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from flexiffusion.layouts import find_layout
from flexsearch.errors import ModelError
from flexsearch.models.assets import ASSETS
from flexsearch.models.few_steps import few_step_notes, names_of
from flexsearch.models.finite import require_finite
from flexsearch.models.identity import sha256_of
from flexsearch.models.ldm_keys import TOKENS, UNET, VAE, VOCABULARY, CheckpointShape, TextShape
from flexsearch.models.model import DiffusionModel
from flexsearch.models.prediction import (
    SD2_BIAS,
    PredictionName,
    noise_config,
    noise_levels,
    recognise_prediction,
    zero_snr_of,
)
from flexsearch.models.recognise import canonical, is_transposed, recognise, text_notes
from flexsearch.models.safetensors_header import Header, read_header
from flexsearch.models.sidecar import read_sidecar
from flexsearch.models.text import TextEncoder, TextEncoders
from flexsearch.models.variants import extras

END_OF_TEXT, EXCLAMATION_MARK = VOCABULARY - 1, 0  # what CLIP pads with, and what open_clip does
VAE_SCALE = 8
TITLE_KEY = "modelspec.title"


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
            weights = Weights(path, file, names, shape)
            prediction, noise, notes = _training(header, weights, prediction)
            unet = make_unet(shape, weights.below(UNET, "U-Net", dtype))
            vae = make_vae(shape, weights.below(VAE, "VAE", torch.float32))
            encoders = tuple(
                make_text_encoder(shape, text, weights.below(text.prefix, "text encoder", dtype))
                for text in shape.texts
            )
    except SafetensorError as error:
        raise ModelError(str(path), f"it cannot be read ({error})", "Download or copy it again") from error
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
        notes=notes,
    )


@dataclass(frozen=True)
class Weights:
    """The tensors of an open checkpoint by their canonical names."""

    path: Path
    file: Any  # safetensors' open file; it has no types
    names: Mapping[str, str]  # canonical -> stored
    shape: CheckpointShape

    def tensor(self, name: str) -> Tensor:
        stored = self.names[name]
        tensor: Tensor = self.file.get_tensor(stored)
        return tensor.T.contiguous() if is_transposed(stored) else tensor

    def below(self, prefix: str, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """The needed tensors of one part. Raises ModelError, naming the part, where they are not finite."""
        found = {
            name: self.tensor(name).to(dtype)
            for name in self.shape.tensors()
            if name.startswith(prefix) and name in self.names
        }
        require_finite(str(self.path), part, found)
        return found


def _training(
    header: Header, weights: Weights, asked: PredictionName | None
) -> tuple[PredictionName, dict[str, Any], tuple[str, ...]]:
    """What the network predicts, the noise that it was trained with, and all notes on the file."""
    path, names, shape = weights.path, weights.names, weights.shape
    family = shape.family
    sidecar = read_sidecar(path, family)
    told = () if sidecar is None else sidecar.notes
    if asked is None:
        bias = weights.tensor(SD2_BIAS) if family.name == "sd21" else None
        asked, disagreement = recognise_prediction(path, family.name, names, header.metadata, sidecar, bias)
        told += disagreement
    zero_snr, not_followed = zero_snr_of(names, asked)
    named = [*names_of(path), header.metadata.get(TITLE_KEY, "")]
    notes = (*told, *not_followed, *text_notes(shape), *extras(names, shape.tensors()), *few_step_notes(named))
    return asked, noise_config(asked, zero_snr), notes


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
    """A CLIP text encoder, of its layers those that the family uses (see `Family.text_layers`)."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    opened = text.by_open_clip
    pooled = opened and shape.pooled is not None
    layers = shape.family.text_layers(text)
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
    if text.kind == "open_clip":
        # The first argument is asked for its width only, and only where there is no projection.
        converted = convert_open_clip_checkpoint(SimpleNamespace(config=config), tensors, prefix=text.prefix)
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
