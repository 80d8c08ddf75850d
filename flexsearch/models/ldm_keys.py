"""Every tensor of a single-file checkpoint in the original LDM layout: names and shapes, from a few widths.

The layout is that of `openaimodel.UNetModel`, `AutoencoderKL` and the text encoders of CompVis/latent-diffusion,
Stability-AI/stablediffusion and Stability-AI/generative-models. Loading checks files against it; the tool that writes
random checkpoints makes files from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Shapes = Iterator[tuple[str, tuple[int, ...]]]
FamilyName = Literal["sd15", "sd21", "sdxl"]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
SDXL_ADM_SIZES = 6 * 256  # six numbers of picture size and crop, 256 sinusoids each
TOKENS = 77
VOCABULARY = 49_408
RES_BLOCKS = 2


@dataclass(frozen=True)
class TextShape:
    """A CLIP text encoder.

    kind:         how its tensors are named: `clip` as in transformers, `open_clip` as there
    by_open_clip: trained by open_clip (GELU, padded with "!"), not by OpenAI (quick GELU, padded with the end token)
    """

    kind: Literal["clip", "open_clip"]
    prefix: str
    width: int
    layers: int
    by_open_clip: bool = False

    @property
    def heads(self) -> int:
        """64 channels each in all encoders that these families use."""
        return max(1, self.width // 64)


@dataclass(frozen=True)
class Family:
    """What tells a family's checkpoints apart, beside their widths.

    mult:   width of each level, in model channels
    depths: transformer blocks of each level's attention, 0 without
    linear: attention projections are linear layers, not 1x1 convolutions
    texts:  the text encoders, as (kind, prefix, width and layers of the real ones)
    """

    name: FamilyName
    title: str
    mult: tuple[int, ...]
    depths: tuple[int, ...]
    linear: bool
    texts: tuple[TextShape, ...]
    scaling: float  # of the autoencoder's latents
    side: int  # picture size that it was trained at, in pixels
    guidance: float

    @property
    def pooled(self) -> bool:
        """Whether the network is also told the pooled text and the picture's size (`label_emb`)."""
        return len(self.texts) == 2

    def text_layers(self, text: TextShape) -> int:
        """Layers that are computed of the `text.layers` that a file has of one encoder.

        SD2.x was trained on the last but one (of 24), so that the last is left out, where it is there at all.
        """
        last_but_one = text.by_open_clip and not self.pooled
        usual = next(real.layers for real in self.texts if real.by_open_clip == text.by_open_clip)
        return min(text.layers, usual - last_but_one)


FAMILIES: tuple[Family, ...] = (
    Family(
        "sd15", "SD1.x", (1, 2, 4, 4), (1, 1, 1, 0), False,
        (TextShape("clip", "cond_stage_model.transformer.text_model.", 768, 12),), 0.18215, 512, 7.5,
    ),
    Family(
        "sd21", "SD2.x", (1, 2, 4, 4), (1, 1, 1, 0), True,
        (TextShape("open_clip", "cond_stage_model.model.", 1024, 24, True),), 0.18215, 512, 7.5,
    ),
    Family(
        "sdxl", "SDXL", (1, 2, 4), (0, 2, 10), True,
        (
            TextShape("clip", "conditioner.embedders.0.transformer.text_model.", 768, 12),
            TextShape("open_clip", "conditioner.embedders.1.model.", 1280, 32, True),
        ),
        0.13025, 1024, 7.0,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class CheckpointShape:
    """One checkpoint: its family and its widths."""

    family: Family
    channels: int  # of the U-Net's first level
    vae_channels: tuple[int, ...]  # of the autoencoder's levels, from the picture down
    texts: tuple[TextShape, ...]
    in_channels: int = 4

    @property
    def context(self) -> int:
        """Width of the text states that the network attends to."""
        return sum(text.width for text in self.texts)

    @property
    def pooled(self) -> int | None:
        """Width of the pooled text states; None where the network takes none."""
        return self.texts[-1].width if self.family.pooled else None

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor that the network, the autoencoder and the text encoders need."""
        shapes = dict(unet_tensors(self)) | dict(vae_tensors(self.vae_channels))
        for text in self.texts:
            shapes |= dict(clip_tensors(text) if text.kind == "clip" else open_clip_tensors(text))
        return shapes


def layer(name: str, out: int, *inputs: int) -> Shapes:
    """Weight (out, *inputs) and bias of a convolution or linear layer."""
    yield f"{name}.weight", (out, *inputs)
    yield f"{name}.bias", (out,)


def norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def unet_tensors(shape: CheckpointShape) -> Shapes:
    """`openaimodel.UNetModel`, prefixed as in a checkpoint."""
    family, first = shape.family, shape.channels
    widths = [first * mult for mult in family.mult]
    embedding = 4 * first
    yield from layer(f"{UNET}time_embed.0", embedding, first)
    yield from layer(f"{UNET}time_embed.2", embedding, embedding)
    if shape.pooled is not None:
        yield from layer(f"{UNET}label_emb.0.0", embedding, shape.pooled + SDXL_ADM_SIZES)
        yield from layer(f"{UNET}label_emb.0.2", embedding, embedding)
    yield from layer(f"{UNET}input_blocks.0.0", first, shape.in_channels, 3, 3)
    skips, index, width = [first], 0, first
    for level, (following, depth) in enumerate(zip(widths, family.depths, strict=True)):
        for _ in range(RES_BLOCKS):
            index += 1
            block = f"{UNET}input_blocks.{index}"
            yield from _res_block(f"{block}.0", width, following, embedding)
            width = following
            if depth:
                yield from _transformer(f"{block}.1", width, depth, shape)
            skips.append(width)
        if level < len(widths) - 1:
            index += 1
            yield from layer(f"{UNET}input_blocks.{index}.0.op", width, width, 3, 3)
            skips.append(width)
    yield from _res_block(f"{UNET}middle_block.0", width, width, embedding)
    # SD1.x and SD2.x attend in the middle although their lowest level does not
    yield from _transformer(f"{UNET}middle_block.1", width, family.depths[-1] or 1, shape)
    yield from _res_block(f"{UNET}middle_block.2", width, width, embedding)
    index = 0
    for level in reversed(range(len(widths))):
        for position in range(RES_BLOCKS + 1):
            block, unit = f"{UNET}output_blocks.{index}", 1
            yield from _res_block(f"{block}.0", width + skips.pop(), widths[level], embedding)
            width = widths[level]
            if family.depths[level]:
                yield from _transformer(f"{block}.1", width, family.depths[level], shape)
                unit = 2
            if level and position == RES_BLOCKS:
                yield from layer(f"{block}.{unit}.conv", width, width, 3, 3)
            index += 1
    yield from norm(f"{UNET}out.0", first)
    yield from layer(f"{UNET}out.2", 4, first, 3, 3)


def _res_block(name: str, width: int, out: int, embedding: int) -> Shapes:
    yield from norm(f"{name}.in_layers.0", width)
    yield from layer(f"{name}.in_layers.2", out, width, 3, 3)
    yield from layer(f"{name}.emb_layers.1", out, embedding)
    yield from norm(f"{name}.out_layers.0", out)
    yield from layer(f"{name}.out_layers.3", out, out, 3, 3)
    if out != width:
        yield from layer(f"{name}.skip_connection", out, width, 1, 1)


def _transformer(name: str, width: int, depth: int, shape: CheckpointShape) -> Shapes:
    kernel = () if shape.family.linear else (1, 1)
    yield from norm(f"{name}.norm", width)
    yield from layer(f"{name}.proj_in", width, width, *kernel)
    for block in (f"{name}.transformer_blocks.{i}" for i in range(depth)):
        for attention, context in (("attn1", width), ("attn2", shape.context)):
            yield f"{block}.{attention}.to_q.weight", (width, width)
            yield f"{block}.{attention}.to_k.weight", (width, context)
            yield f"{block}.{attention}.to_v.weight", (width, context)
            yield from layer(f"{block}.{attention}.to_out.0", width, width)
        yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from layer(f"{block}.ff.net.2", width, 4 * width)
        for number in (1, 2, 3):
            yield from norm(f"{block}.norm{number}", width)
    yield from layer(f"{name}.proj_out", width, width, *kernel)


def vae_tensors(widths: tuple[int, ...]) -> Shapes:
    """`AutoencoderKL` of 4-channel latents; `widths` from the picture's level down."""
    width = widths[0]
    yield from layer(f"{VAE}encoder.conv_in", width, 3, 3, 3)
    for level, following in enumerate(widths):
        for i in range(RES_BLOCKS):
            yield from _vae_res_block(f"{VAE}encoder.down.{level}.block.{i}", width, following)
            width = following
        if level < len(widths) - 1:
            yield from layer(f"{VAE}encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _vae_middle(f"{VAE}encoder", width)
    yield from norm(f"{VAE}encoder.norm_out", width)
    yield from layer(f"{VAE}encoder.conv_out", 8, width, 3, 3)
    yield from layer(f"{VAE}decoder.conv_in", width, 4, 3, 3)
    yield from _vae_middle(f"{VAE}decoder", width)
    for level in reversed(range(len(widths))):
        for i in range(RES_BLOCKS + 1):
            yield from _vae_res_block(f"{VAE}decoder.up.{level}.block.{i}", width, widths[level])
            width = widths[level]
        if level:
            yield from layer(f"{VAE}decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from norm(f"{VAE}decoder.norm_out", width)
    yield from layer(f"{VAE}decoder.conv_out", 3, width, 3, 3)
    yield from layer(f"{VAE}quant_conv", 8, 8, 1, 1)
    yield from layer(f"{VAE}post_quant_conv", 4, 4, 1, 1)


def _vae_middle(name: str, width: int) -> Shapes:
    yield from _vae_res_block(f"{name}.mid.block_1", width, width)
    yield from norm(f"{name}.mid.attn_1.norm", width)
    for projection in ("q", "k", "v", "proj_out"):
        yield from layer(f"{name}.mid.attn_1.{projection}", width, width, 1, 1)
    yield from _vae_res_block(f"{name}.mid.block_2", width, width)


def _vae_res_block(name: str, width: int, out: int) -> Shapes:
    yield from norm(f"{name}.norm1", width)
    yield from layer(f"{name}.conv1", out, width, 3, 3)
    yield from norm(f"{name}.norm2", out)
    yield from layer(f"{name}.conv2", out, out, 3, 3)
    if out != width:
        yield from layer(f"{name}.nin_shortcut", out, width, 1, 1)


def clip_tensors(text: TextShape) -> Shapes:
    """transformers' `CLIPTextModel`."""
    prefix, width = text.prefix, text.width
    yield f"{prefix}embeddings.token_embedding.weight", (VOCABULARY, width)
    yield f"{prefix}embeddings.position_embedding.weight", (TOKENS, width)
    for name in (f"{prefix}encoder.layers.{i}" for i in range(text.layers)):
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from layer(f"{name}.self_attn.{projection}", width, width)
        yield from norm(f"{name}.layer_norm1", width)
        yield from layer(f"{name}.mlp.fc1", 4 * width, width)
        yield from layer(f"{name}.mlp.fc2", width, 4 * width)
        yield from norm(f"{name}.layer_norm2", width)
    yield from norm(f"{prefix}final_layer_norm", width)


def open_clip_tensors(text: TextShape) -> Shapes:
    """open_clip's text transformer."""
    prefix, width = text.prefix, text.width
    yield f"{prefix}token_embedding.weight", (VOCABULARY, width)
    yield f"{prefix}positional_embedding", (TOKENS, width)
    for name in (f"{prefix}transformer.resblocks.{i}" for i in range(text.layers)):
        yield f"{name}.attn.in_proj_weight", (3 * width, width)
        yield f"{name}.attn.in_proj_bias", (3 * width,)
        yield from layer(f"{name}.attn.out_proj", width, width)
        yield from norm(f"{name}.ln_1", width)
        yield from layer(f"{name}.mlp.c_fc", 4 * width, width)
        yield from layer(f"{name}.mlp.c_proj", width, 4 * width)
        yield from norm(f"{name}.ln_2", width)
    yield from norm(f"{prefix}ln_final", width)
    yield f"{prefix}text_projection", (width, width)
