"""The networks of the bundled emoji model: Flux' classes and Flux' pipeline, small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel


@dataclass(frozen=True)
class Shape:
    """Sizes of all parts. Pictures are `picture` pixels wide; latents are 8 times smaller."""

    picture: int = 64
    vae_channels: tuple[int, int, int, int] = (16, 32, 64, 64)
    latent_channels: int = 16
    width: int = 160
    heads: int = 5
    rope: tuple[int, int, int] = (8, 12, 12)  # of a head's channels: for nothing, for the row, for the column
    double_blocks: int = 4
    single_blocks: int = 8
    text_width: int = 128
    text_layers: int = 2
    vocabulary: int = 2600
    prompt_tokens: int = 12

    @property
    def latent(self) -> int:
        return self.picture // 8


FULL = Shape()


def new_vae(shape: Shape) -> AutoencoderKL:
    """Pictures (B, 3, P, P) in [-1, 1] to latents (B, C, P / 8, P / 8)."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=shape.latent_channels,
        block_out_channels=shape.vae_channels,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=1,  # groups of few channels would wash out what colour a whole picture has
        sample_size=shape.picture,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Straight paths x = (1 - s) x0 + s noise, 1,000 timesteps; evenly spaced levels, not shifted."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)


class Denoiser(nn.Module):
    """The transformer and both text encoders, trained together."""

    def __init__(self, shape: Shape, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.shape = shape
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=shape.text_width,
                intermediate_size=4 * shape.text_width,
                projection_dim=shape.text_width,
                num_hidden_layers=shape.text_layers,
                num_attention_heads=4,
                max_position_embeddings=shape.prompt_tokens,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.text_encoder_2 = T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=shape.text_width,
                d_kv=shape.text_width // 4,
                d_ff=4 * shape.text_width,
                num_layers=shape.text_layers,
                num_heads=4,
                dropout_rate=0.0,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        self.transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * shape.latent_channels,
            num_layers=shape.double_blocks,
            num_single_layers=shape.single_blocks,
            attention_head_dim=shape.width // shape.heads,
            num_attention_heads=shape.heads,
            joint_attention_dim=shape.text_width,
            pooled_projection_dim=shape.text_width,
            guidance_embeds=False,
            axes_dims_rope=shape.rope,
        )
        _silence_blocks(self.transformer)

    def velocity(self, latents: Tensor, sigmas: Tensor, tokens: Tensor) -> Tensor:
        """dx/ds of packed latents (B, N, 4 C) at levels s (B,) under prompts (B, prompt_tokens): noise less picture."""
        half = self.shape.latent // 2
        places = FluxPipeline._prepare_latent_image_ids(1, half, half, latents.device, latents.dtype)
        return self.transformer(
            hidden_states=latents,
            encoder_hidden_states=self.text_encoder_2(tokens)[0],
            pooled_projections=self.text_encoder(tokens).pooler_output,
            timestep=sigmas,
            img_ids=places,
            txt_ids=torch.zeros(tokens.shape[1], 3, dtype=latents.dtype),
        ).sample


def _silence_blocks(transformer: FluxTransformer2DModel) -> None:
    """Start every block as the identity and the output at zero (adaLN-Zero, arXiv 2212.09748, section 3.2)."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    modulations = [
        module
        for block in blocks
        for name, module in block.named_modules()
        if name.endswith((".linear", "norm.linear"))
    ]
    for linear in (*modulations, transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


def pack(latents: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W / 4, 4 C): squares of 2 x 2 are the tokens, as in Flux."""
    return FluxPipeline._pack_latents(latents, *latents.shape)


def unpack(tokens: Tensor, size: int) -> Tensor:
    """The reverse of `pack`, for square latents of `size`."""
    return FluxPipeline._unpack_latents(tokens, size * 8, size * 8, 8)


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents (B, C, H, W) -> pictures, uint8 (B, 3, 8 H, 8 W)."""
    pictures = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@torch.inference_mode()
def sample(
    denoiser: Denoiser, tokenizer: CLIPTokenizer, prompts: Sequence[str], steps: int, guidance: float, seed: int = 0
) -> Tensor:
    """Draw one picture a prompt with Euler's method and guidance (arXiv 2207.12598): scaled latents (B, C, H, W)."""
    shape, count = denoiser.shape, len(prompts)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, shape.latent_channels, shape.latent, shape.latent), generator=generator)
    told = tokenizer([*prompts, *[""] * count], padding="max_length", truncation=True, return_tensors="pt").input_ids
    x = pack(noise)
    levels = torch.linspace(1, 0, steps + 1)
    for level, following in pairwise(levels):
        told_v, untold_v = denoiser.velocity(torch.cat([x, x]), level.expand(2 * count), told).chunk(2)
        x = x + (following - level) * (untold_v + guidance * (told_v - untold_v))
    return unpack(x, shape.latent)
