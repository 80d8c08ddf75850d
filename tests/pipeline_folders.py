"""Small diffusers pipelines with a transformer and random weights, one of each family, written as their folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from transformers import CLIPTokenizer

from tools.small_tokenizer import small_tokenizer

WORDS = ("a red heart", "a slice of pizza", "the face of a dog", "one yellow star")
WIDTH = 16  # of text states
CHAT = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
TOKENS = 160  # that a prompt may have; some pipelines put a long one of their own before it


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Reads prompts of a few tokens, with a chat template and an id for what fills them up."""
    made = small_tokenizer(folder, WORDS, 600, TOKENS)
    made.pad_token = made.eos_token
    made.chat_template = CHAT
    return made


def clip(kind: str, words: CLIPTokenizer) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=TOKENS, projection_dim=WIDTH, eos_token_id=words.eos_token_id, pad_token_id=1,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def t5(kind: str, words: CLIPTokenizer) -> Any:
    config = getattr(transformers, kind.replace("EncoderModel", "Config"))
    return getattr(transformers, kind)(
        config(vocab_size=len(words), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def chat_model(kind: str, words: CLIPTokenizer) -> Any:
    """A decoder (Qwen3, Gemma 2) whose last hidden states but one are read."""
    config = getattr(transformers, kind.replace("Model", "Config"))
    return getattr(transformers, kind)(
        config(
            vocab_size=len(words), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, head_dim=8,
            num_attention_heads=2, num_key_value_heads=2, pad_token_id=words.pad_token_id,
        )
    )  # fmt: skip


def qwen_vl(words: CLIPTokenizer) -> Any:
    text = {
        "vocab_size": len(words), "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def vae(channels: int, levels: int = 4) -> Any:
    """An autoencoder whose latents are 2^(levels - 1) times smaller than pictures."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4,) * levels, down_block_types=("DownEncoderBlock2D",) * levels, norm_num_groups=2,
        up_block_types=("UpDecoderBlock2D",) * levels, latent_channels=channels, layers_per_block=1,
        scaling_factor=1.5, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def video_vae(kind: str) -> Any:
    """An autoencoder of videos: of 8 x 8 pixels and four frames a latent."""
    return getattr(diffusers, kind)(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1] * 4, latents_std=[1.5] * 4,
    )  # fmt: skip


def flow(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


def flux(words: CLIPTokenizer, guidance_embeds: bool = False) -> dict[str, Any]:
    return {
        "transformer": diffusers.FluxTransformer2DModel(
            in_channels=16, num_layers=2, num_single_layers=4, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH,
            axes_dims_rope=(2, 2, 4), guidance_embeds=guidance_embeds, **HEADS,
        ),
        "text_encoder": clip("CLIPTextModel", words), "tokenizer": words,
        "text_encoder_2": t5("T5EncoderModel", words), "tokenizer_2": words,
        "vae": vae(4), "scheduler": flow(use_dynamic_shifting=True),
    }  # fmt: skip


def flux_guided(words: CLIPTokenizer) -> dict[str, Any]:
    return flux(words, guidance_embeds=True)


def sd3(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "transformer": diffusers.SD3Transformer2DModel(
            sample_size=8, in_channels=4, out_channels=4, num_layers=6, joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16, pooled_projection_dim=2 * WIDTH, pos_embed_max_size=16, **HEADS,
        ),
        "text_encoder": clip("CLIPTextModelWithProjection", words), "tokenizer": words,
        "text_encoder_2": clip("CLIPTextModelWithProjection", words), "tokenizer_2": words,
        "text_encoder_3": transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=len(words), d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ), "tokenizer_3": words,
        "vae": vae(4), "scheduler": flow(shift=3.0),
    }  # fmt: skip


def qwen_image(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "transformer": diffusers.QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=6, joint_attention_dim=WIDTH, axes_dims_rope=(2, 2, 4), **HEADS
        ),
        "text_encoder": qwen_vl(words), "tokenizer": words, "vae": video_vae("AutoencoderKLQwenImage"),
        "scheduler": flow(use_dynamic_shifting=True, shift_terminal=0.02, time_shift_type="exponential"),
    }  # fmt: skip


def z_image(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "transformer": diffusers.ZImageTransformer2DModel(
            in_channels=4, dim=16, n_layers=6, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
            axes_dims=[2, 2, 4], axes_lens=[512, 16, 16],
        ),
        "text_encoder": chat_model("Qwen3Model", words), "tokenizer": words,
        "vae": vae(4), "scheduler": flow(shift=3.0),
    }  # fmt: skip


def lumina2(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "transformer": diffusers.Lumina2Transformer2DModel(
            sample_size=8, in_channels=4, hidden_size=16, num_layers=6, num_refiner_layers=1, num_attention_heads=2,
            num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(300, 16, 16), cap_feat_dim=WIDTH,
        ),
        "text_encoder": chat_model("Gemma2Model", words), "tokenizer": words,
        "vae": vae(4), "scheduler": flow(shift=6.0),
    }  # fmt: skip


def wan(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "transformer": diffusers.WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=WIDTH, freq_dim=16,
            ffn_dim=32, num_layers=6, rope_max_seq_len=32,
        ),
        "text_encoder": t5("UMT5EncoderModel", words), "tokenizer": words, "vae": video_vae("AutoencoderKLWan"),
        "scheduler": flow(shift=5.0),
    }  # fmt: skip


def pixart(words: CLIPTokenizer, learned: bool = True) -> dict[str, Any]:
    """PixArt-Sigma, which is no flow model; its network predicts the variance too, and its pipeline drops that."""
    return {
        "transformer": diffusers.PixArtTransformer2DModel(
            in_channels=4, out_channels=8 if learned else 4, num_layers=6, cross_attention_dim=16, sample_size=32,
            caption_channels=WIDTH, norm_num_groups=1, **HEADS,
        ),
        "text_encoder": t5("T5EncoderModel", words), "tokenizer": words, "vae": vae(4),
        "scheduler": diffusers.DDIMScheduler(clip_sample=False),
    }  # fmt: skip


def chroma(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "transformer": diffusers.ChromaTransformer2DModel(
            in_channels=16, num_layers=2, num_single_layers=4, joint_attention_dim=WIDTH, axes_dims_rope=(2, 2, 4),
            approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1, **HEADS,
        ),
        "text_encoder": t5("T5EncoderModel", words), "tokenizer": words, "vae": vae(4), "scheduler": flow(),
    }  # fmt: skip


def aura_flow(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "transformer": diffusers.AuraFlowTransformer2DModel(
            sample_size=8, num_mmdit_layers=2, num_single_dit_layers=4, joint_attention_dim=WIDTH,
            caption_projection_dim=16, pos_embed_max_size=64, **HEADS,
        ),
        "text_encoder": t5("UMT5EncoderModel", words), "tokenizer": words, "vae": vae(4), "scheduler": flow(shift=1.73),
    }  # fmt: skip


def ltx(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "transformer": diffusers.LTXVideoTransformer3DModel(
            in_channels=8, out_channels=8, cross_attention_dim=16, num_layers=6, caption_channels=WIDTH, **HEADS
        ),
        "text_encoder": t5("T5EncoderModel", words), "tokenizer": words,
        "vae": diffusers.AutoencoderKLLTXVideo(
            latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
            layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, patch_size=1,
        ),
        "scheduler": flow(use_dynamic_shifting=True, shift_terminal=0.1, base_shift=0.95, max_shift=2.05),
    }  # fmt: skip


def hunyuan_video(words: CLIPTokenizer) -> dict[str, Any]:
    """Its pipeline puts a template before prompts, longer than these tokenizers read: CLIP alone is told them."""
    return {
        "transformer": diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4, out_channels=4, num_layers=2, num_single_layers=4, num_refiner_layers=1, patch_size=2,
            text_embed_dim=WIDTH, pooled_projection_dim=WIDTH, rope_axes_dim=(2, 2, 4), **HEADS,
        ),
        "text_encoder": chat_model("LlamaModel", words), "tokenizer": words,
        "text_encoder_2": clip("CLIPTextModel", words), "tokenizer_2": words,
        "vae": diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        ),
        "scheduler": flow(shift=7.0),
    }  # fmt: skip


def sana(words: CLIPTokenizer) -> dict[str, Any]:
    return {
        "transformer": diffusers.SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_layers=6, num_cross_attention_heads=2, cross_attention_head_dim=8,
            cross_attention_dim=16, caption_channels=WIDTH, sample_size=32, **HEADS,
        ),
        "text_encoder": chat_model("Gemma2Model", words), "tokenizer": words,
        "vae": diffusers.AutoencoderDC(
            latent_channels=4, attention_head_dim=2, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
            encoder_block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4,
            encoder_qkv_multiscales=((),) * 4, decoder_qkv_multiscales=((),) * 4,
            encoder_layers_per_block=(1,) * 4, decoder_layers_per_block=(1,) * 4, upsample_block_type="interpolate",
            downsample_block_type="stride_conv",
        ),
        "scheduler": flow(shift=3.0),
    }  # fmt: skip


# The pipeline's class, and its parts: those that differ in how the network is called, and in its samples.
PIPELINES: dict[str, tuple[str, Callable[[CLIPTokenizer], dict[str, Any]]]] = {
    "flux": ("FluxPipeline", flux),
    "flux-guided": ("FluxPipeline", flux_guided),
    "sd3": ("StableDiffusion3Pipeline", sd3),
    "qwen-image": ("QwenImagePipeline", qwen_image),
    "z-image": ("ZImagePipeline", z_image),
    "lumina2": ("Lumina2Pipeline", lumina2),
    "wan": ("WanPipeline", wan),
    "pixart-sigma": ("PixArtSigmaPipeline", pixart),
    "chroma": ("ChromaPipeline", chroma),
    "aura-flow": ("AuraFlowPipeline", aura_flow),
    "ltx": ("LTXPipeline", ltx),
    "sana": ("SanaPipeline", sana),
}
VIDEOS = {"hunyuan-video": ("HunyuanVideoPipeline", hunyuan_video)}


def write_transformer_pipeline(folder: Path, name: str, **parts: Any) -> Path:
    """The folder of one of `PIPELINES` or `VIDEOS`; `parts` are put in place of its own."""
    maker, made = (PIPELINES | VIDEOS)[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        components = made(tokenizer(folder / "words")) | parts
        for part in components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
    getattr(diffusers, maker)(**components).save_pretrained(folder)
    return folder
