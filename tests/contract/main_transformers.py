"""diffusers' transformer classes that people draw with, at tiny widths: every trunk has at least six blocks.

An entry says what a test must know of a class: its configuration, its inputs, and how many blocks each of its lists
has. Nothing here is known to the code under test.
"""

from __future__ import annotations

import torch
from transformer_inputs import (
    SIDE,
    TEXT,
    TOKENS,
    Entry,
    Inputs,
    drawn,
    flux_config,
    grid,
    hunyuan_config,
    image,
    mask,
    packed,
    plain_config,
    pooled,
    text,
    time,
    video,
    wan_config,
)


def _z_image(rows: int, tokens: int) -> Inputs:
    """Lists of one latent and one text for each row."""
    return {
        "x": [drawn(4, 1, SIDE, SIDE) for _ in range(rows)],
        "cap_feats": [drawn(tokens, TEXT) for _ in range(rows)],
        **time(rows, "t"),
    }


def _hidream(rows: int, tokens: int) -> Inputs:
    return {
        **image(rows),
        **time(rows, "timesteps", 500),
        "encoder_hidden_states_t5": drawn(rows, tokens, TEXT),
        "encoder_hidden_states_llama3": drawn(8, rows, 1, tokens, TEXT),
        "pooled_embeds": drawn(rows, 6),
    }


def _ltx2(rows: int, tokens: int) -> Inputs:
    return {
        "hidden_states": drawn(rows, 3 * 4 * 4, 4),
        "audio_hidden_states": drawn(rows, 7, 4),
        **text(rows, tokens),
        "audio_encoder_hidden_states": drawn(rows, tokens, TEXT),
        **time(rows, value=500),
        "num_frames": 3,
        "height": 4,
        "width": 4,
        "audio_num_frames": 7,
    }


def _hunyuan_dit(rows: int, tokens: int) -> Inputs:
    return {
        **image(rows),
        **time(rows, value=500.0),
        **text(rows, 7),
        **mask(rows, 7, "text_embedding_mask"),
        "encoder_hidden_states_t5": drawn(rows, tokens, TEXT),
        **mask(rows, tokens, "text_embedding_mask_t5"),
        "image_meta_size": torch.full((rows, 6), 64.0),
        "style": torch.zeros(rows, dtype=torch.long),
        "image_rotary_emb": (drawn(SIDE * SIDE // 4, 8), drawn(SIDE * SIDE // 4, 8)),
    }


def _cogview(rows: int, tokens: int) -> Inputs:
    size = torch.full((rows, 2), 64.0)
    return {
        **image(rows),
        **text(rows, tokens),
        **time(rows, value=500),
        "original_size": size,
        "target_size": size,
        "crop_coords": torch.zeros(rows, 2),
    }


def _kandinsky(rows: int, tokens: int) -> Inputs:
    side = SIDE // 2
    return {
        "hidden_states": drawn(rows, 1, SIDE, SIDE, 4),  # channels last
        **text(rows, tokens),
        **pooled(rows),
        **time(rows, value=500.0),
        "visual_rope_pos": [torch.arange(1), torch.arange(side), torch.arange(side)],
        "text_rope_pos": torch.arange(tokens),
    }


def _hunyuan_15(rows: int, tokens: int) -> Inputs:
    return {
        **video(rows, 9),
        **time(rows, value=500.0),
        **text(rows, tokens),
        **mask(rows, tokens),
        "encoder_hidden_states_2": drawn(rows, 7, TEXT),
        **mask(rows, 7, "encoder_attention_mask_2"),
        "image_embeds": drawn(rows, 3, 6),
    }


ENTRIES: dict[str, Entry] = {
    "FluxTransformer2DModel": Entry(
        flux_config(pooled_projection_dim=6),
        lambda n, k: packed(n) | text(n, k) | pooled(n) | time(n) | grid(k),
        (3, 4),
    ),
    "Flux2Transformer2DModel": Entry(
        flux_config(axes_dims_rope=(4, 4, 4, 4), timestep_guidance_channels=16, guidance_embeds=False),
        lambda n, k: packed(n) | text(n, k) | time(n) | grid(k, 4),
        (3, 4),
    ),
    "ChromaTransformer2DModel": Entry(
        flux_config(approximator_num_channels=16, approximator_hidden_dim=16, approximator_layers=1),
        lambda n, k: packed(n) | text(n, k) | time(n) | grid(k)
        | {"attention_mask": torch.ones(n, k + 16, dtype=torch.bool)},
        (3, 4),
    ),
    "SD3Transformer2DModel": Entry(
        plain_config(
            sample_size=SIDE, joint_attention_dim=TEXT, caption_projection_dim=32, pooled_projection_dim=6,
            out_channels=4, pos_embed_max_size=8, dual_attention_layers=(0, 1), qk_norm="rms_norm",
        ),
        lambda n, k: image(n) | text(n, k) | pooled(n) | time(n, value=500),
        (6,),
        note="the last block returns the image alone",
    ),
    "QwenImageTransformer2DModel": Entry(
        plain_config(out_channels=1, joint_attention_dim=TEXT, axes_dims_rope=(4, 4, 8)),
        lambda n, k: packed(n) | text(n, k) | mask(n, k, "encoder_hidden_states_mask") | time(n)
        | {"img_shapes": [[(1, 4, 4)]] * n},
        (6,),
    ),
    "ZImageTransformer2DModel": Entry(
        {"in_channels": 4, "dim": 32, "n_layers": 6, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
         "cap_feat_dim": TEXT, "axes_dims": [4, 4, 8], "axes_lens": [256, 64, 64]},
        _z_image,
        (6,),
        note="refiners always run",
    ),
    "Lumina2Transformer2DModel": Entry(
        {"sample_size": SIDE, "in_channels": 4, "hidden_size": 32, "num_layers": 6, "num_refiner_layers": 1,
         "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 16, "axes_dim_rope": (4, 4, 8),
         "axes_lens": (64, 32, 32), "cap_feat_dim": TEXT},
        lambda n, k: image(n) | time(n) | text(n, k) | mask(n, k),
        (6,),
        ragged=True,
        note="refiners always run; text is cut to the longest of the batch",
    ),
    "AuraFlowTransformer2DModel": Entry(
        {"sample_size": SIDE, "in_channels": 4, "num_mmdit_layers": 3, "num_single_dit_layers": 4,
         "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": TEXT,
         "caption_projection_dim": 32, "pos_embed_max_size": 64},
        lambda n, k: image(n) | text(n, k) | time(n),
        (3, 4),
    ),
    "HiDreamImageTransformer2DModel": Entry(
        plain_config(
            patch_size=2, num_layers=3, num_single_layers=4, caption_channels=[TEXT, TEXT], text_emb_dim=6,
            axes_dims_rope=(4, 4, 8), max_resolution=(8, 8), llama_layers=[0, 1, 2, 3, 4, 5, 6],
            force_inference_output=True,
        ),
        _hidream,
        (3, 4),
        note="image tokens first in the joint stream",
    ),
    "WanTransformer3DModel": Entry(
        wan_config(), lambda n, k: video(n) | time(n, value=500) | text(n, k), (6,)
    ),
    "WanVACETransformer3DModel": Entry(
        wan_config(vace_layers=[0, 2, 5], vace_in_channels=6),  # a hint for the last block: see test_vace
        lambda n, k: video(n) | time(n, value=500) | text(n, k)
        | {"control_hidden_states": drawn(n, 6, 3, SIDE, SIDE)},
        (6,),
        note="VACE blocks run from branch 0 on",
    ),
    "HunyuanVideoTransformer3DModel": Entry(
        hunyuan_config(num_single_layers=4, pooled_projection_dim=6),
        lambda n, k: video(n) | time(n, value=500) | text(n, k) | mask(n, k) | pooled(n)
        | {"guidance": torch.full((n,), 6000.0)},
        (3, 4),
    ),
    "HunyuanVideo15Transformer3DModel": Entry(
        hunyuan_config(in_channels=9, num_layers=6, text_embed_2_dim=TEXT, image_embed_dim=6, target_size=16),
        _hunyuan_15,
        (6,),
    ),
    "MochiTransformer3DModel": Entry(
        plain_config(pooled_projection_dim=8, text_embed_dim=TEXT, time_embed_dim=16, max_sequence_length=16),
        lambda n, k: video(n) | text(n, k) | time(n, value=500) | mask(n, k),
        (6,),
    ),
    "CogVideoXTransformer3DModel": Entry(
        plain_config(
            out_channels=4, time_embed_dim=8, text_embed_dim=TEXT, sample_width=SIDE, sample_height=SIDE,
            sample_frames=9, max_text_seq_length=TOKENS,
        ),
        lambda n, k: {"hidden_states": drawn(n, 3, 4, SIDE, SIDE)} | text(n, k) | time(n, value=500),
        (6,),
        fixed_text=True,
    ),
    "CogView4Transformer2DModel": Entry(
        plain_config(
            out_channels=4, text_embed_dim=TEXT, time_embed_dim=8, condition_dim=4, pos_embed_max_size=8,
            sample_size=SIDE, rope_axes_dim=(8, 8),
        ),
        _cogview,
        (6,),
    ),
    "LTXVideoTransformer3DModel": Entry(
        plain_config(out_channels=4, cross_attention_dim=32, caption_channels=TEXT),
        lambda n, k: {"hidden_states": drawn(n, 3 * 4 * 4, 4), "num_frames": 3, "height": 4, "width": 4}
        | text(n, k) | time(n, value=500) | mask(n, k),
        (6,),
    ),
    "LTX2VideoTransformer3DModel": Entry(
        plain_config(
            out_channels=4, cross_attention_dim=32, caption_channels=TEXT, audio_in_channels=4,
            audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=8,
            audio_cross_attention_dim=16,
        ),
        _ltx2,
        (6,),
        note="video and sound",
    ),
    "PixArtTransformer2DModel": Entry(
        plain_config(
            out_channels=8, cross_attention_dim=32, sample_size=SIDE, caption_channels=TEXT,
            use_additional_conditions=False,
        ),
        lambda n, k: image(n) | text(n, k) | time(n, value=500) | mask(n, k)
        | {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
        (6,),
    ),
    "DiTTransformer2DModel": Entry(
        plain_config(sample_size=SIDE, num_embeds_ada_norm=10),
        lambda n, k: image(n) | time(n, value=500) | {"class_labels": torch.arange(n)},
        (6,),
        fixed_text=True,
        note="the head reads the time embedding of block 0",
    ),
    "SanaTransformer2DModel": Entry(
        plain_config(
            out_channels=4, num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32,
            caption_channels=TEXT, sample_size=SIDE,
        ),
        lambda n, k: image(n) | text(n, k) | time(n, value=500) | mask(n, k),
        (6,),
    ),
    "Krea2Transformer2DModel": Entry(
        plain_config(
            num_key_value_heads=1, intermediate_size=24, timestep_embed_dim=16, text_hidden_dim=TEXT,
            num_text_layers=2, text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=16,
            num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 4, 8),
        ),
        lambda n, k: packed(n) | {"encoder_hidden_states": drawn(n, k, 2, TEXT)} | time(n)
        | {"position_ids": torch.cat([grid(k)["txt_ids"], grid(k)["img_ids"]])},
        (6,),
    ),
    "Kandinsky5Transformer3DModel": Entry(
        {"in_visual_dim": 4, "in_text_dim": TEXT, "in_text_dim2": 6, "time_dim": 16, "out_visual_dim": 4,
         "model_dim": 32, "ff_dim": 24, "num_text_blocks": 1, "num_visual_blocks": 6, "axes_dims": (4, 4, 8)},
        _kandinsky,
        (6,),
        note="text blocks always run",
    ),
    "ErnieImageTransformer2DModel": Entry(
        {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 6, "ffn_hidden_size": 24, "in_channels": 4,
         "out_channels": 4, "text_in_dim": TEXT, "rope_axes_dim": (4, 4, 8)},
        lambda n, k: image(n) | time(n, value=500)
        | {"text_bth": drawn(n, k, TEXT), "text_lens": torch.tensor([k] * n)},
        (6,),
        note="tokens first: (tokens, B, width)",
    ),
    "HunyuanDiT2DModel": Entry(
        plain_config(
            attention_head_dim=8, patch_size=2, sample_size=SIDE, hidden_size=16, cross_attention_dim=TEXT,
            cross_attention_dim_t5=TEXT, pooled_projection_dim=8, text_len=7, text_len_t5=TOKENS,
        ),
        _hunyuan_dit,
        (6,),
        fixed_text=True,
        note="late blocks read early ones; right since nothing runs behind the skipped ones",
    ),
}  # fmt: skip
