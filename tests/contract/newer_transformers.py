"""More of diffusers' transformer classes: those that came lately, and relatives of the ones in transformer_networks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from transformer_networks import (
    SIDE,
    TEXT,
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
    text,
    time,
    video,
    wan_config,
)


def _flux3(rows: int, tokens: int) -> Inputs:
    """With one reference picture of nine tokens."""
    places = {"img_ids": grid(tokens, 4)["img_ids"], "txt_ids": grid(tokens, 4)["txt_ids"]}
    reference = {"image_cond_hidden_states": drawn(rows, 9, 4), "image_cond_ids": torch.ones(9, 4)}
    return {**packed(rows), **text(rows, tokens), **time(rows), **places, **reference}


def _qwen21(rows: int, tokens: int) -> Inputs:
    image_mask = torch.zeros(rows, tokens + 4, dtype=torch.bool)
    image_mask[:, tokens:] = True
    return {
        **packed(rows),
        **text(rows, tokens),
        **time(rows),
        "img_shapes": [[(1, 4, 4)]] * rows,
        "img_mask": image_mask,
    }


def _glm(rows: int, tokens: int) -> Inputs:
    return {
        **image(rows),
        **text(rows, tokens),
        "prior_token_id": torch.randint(8, (rows, SIDE * SIDE // 4)),
        "prior_token_drop": torch.zeros(rows, dtype=torch.bool),
        **time(rows, value=500),
        "target_size": torch.full((rows, 2), 64.0),
        "crop_coords": torch.zeros(rows, 2),
    }


def _minimax(rows: int, tokens: int) -> Inputs:
    """One sequence of text, video (3 frames of 4 x 4) and sound."""
    sizes = (tokens, 48, 7)
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    at = [torch.arange(first, last) for first, last in pairwise(ends)]
    kinds = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    return {
        "hidden_states": drawn(rows, 48, 16),
        "audio_hidden_states": drawn(rows, 7, 4),
        **text(rows, tokens),
        "timestep": torch.tensor([500.0, 0.0, 500.0]),
        "timestep_indices": kinds,
        "token_tags": kinds,
        "position_ids": torch.arange(ends[-1])[:, None].expand(-1, 3).float(),
        "video_indices": at[1],
        "audio_indices": at[2],
        "text_indices": at[0],
    }


def _ideogram(rows: int, tokens: int) -> Inputs:
    length = tokens + SIDE * SIDE // 4
    indicator = torch.full((rows, length), 2)
    indicator[:, :tokens] = 3
    return {
        "hidden_states": drawn(rows, length, 4),
        **time(rows),
        "encoder_hidden_states": drawn(rows, length, TEXT),
        "position_ids": torch.arange(length)[None, :, None].expand(rows, -1, 3),
        "segment_ids": torch.zeros(rows, length, dtype=torch.long),
        "indicator": indicator,
    }


def _cogview3(rows: int, tokens: int) -> Inputs:
    size = torch.full((rows, 2), 64.0)
    sizes = {"original_size": size, "target_size": size, "crop_coords": torch.zeros(rows, 2)}
    return {**image(rows), **text(rows, tokens), **time(rows, value=500), **sizes}


def _cosmos(**more: Any) -> dict[str, Any]:
    common = {"text_embed_dim": TEXT, "adaln_lora_dim": 8, "max_size": (4, SIDE, SIDE), "concat_padding_mask": False}
    return plain_config(out_channels=4, mlp_ratio=1.0) | common | more


NEWER: dict[str, Entry] = {
    "Flux3Transformer2DModel": Entry(
        {"in_channels": 4, "cond_in_channels": 4, "num_layers": 2, "num_single_layers": 6, "attention_head_dim": 16,
         "num_attention_heads": 2, "joint_attention_dim": TEXT, "timestep_channels": 16, "mlp_ratio": 1.0,
         "axes_dims_rope": (4, 4, 4, 4)},
        _flux3,
        (6,),
        note="early blocks of each stream alone always run",
    ),
    "QwenImage21Transformer2DModel": Entry(
        plain_config(out_channels=4, context_in_dim=TEXT, axes_dims_rope=(4, 4, 8)), _qwen21, (6,),
        ragged=True,
        note="a call of another batch runs in full",
    ),
    "LongCatImageTransformer2DModel": Entry(
        flux_config(pooled_projection_dim=6), lambda n, k: packed(n) | text(n, k) | time(n) | grid(k), (3, 4)
    ),
    "GlmImageTransformer2DModel": Entry(
        plain_config(out_channels=4, text_embed_dim=TEXT, time_embed_dim=8, condition_dim=4,
                     prior_vq_quantizer_codebook_size=8),
        _glm,
        (6,),
    ),
    "HunyuanImageTransformer2DModel": Entry(
        hunyuan_config(num_single_layers=4, rope_axes_dim=(8, 8)),
        lambda n, k: image(n) | time(n, value=500.0) | text(n, k) | mask(n, k),
        (3, 4),
    ),
    "BriaTransformer2DModel": Entry(
        flux_config(), lambda n, k: packed(n) | text(n, k) | time(n) | grid(k), (3, 4)
    ),
    "BriaFiboTransformer2DModel": Entry(
        flux_config(text_encoder_dim=TEXT),
        lambda n, k: packed(n) | text(n, k) | time(n) | grid(k)
        | {"text_encoder_layers": [drawn(n, k, TEXT) for _ in range(7)]},
        (3, 4),
        note="each block gets text of its own",
    ),
    "OvisImageTransformer2DModel": Entry(
        flux_config(out_channels=4), lambda n, k: packed(n) | text(n, k) | time(n) | grid(k), (3, 4)
    ),
    "CosmosTransformer3DModel": Entry(
        _cosmos(), lambda n, k: video(n) | time(n) | text(n, k) | {"fps": 16}, (6,)
    ),
    "SkyReelsV2Transformer3DModel": Entry(
        wan_config(), lambda n, k: video(n) | time(n, value=500) | text(n, k), (6,)
    ),
    "ChronoEditTransformer3DModel": Entry(
        wan_config(rope_temporal_skip_len=3), lambda n, k: video(n) | time(n, value=500) | text(n, k), (6,)
    ),
    "HeliosTransformer3DModel": Entry(
        wan_config(rope_dim=(4, 4, 8)), lambda n, k: video(n) | time(n, value=500) | text(n, k), (6,)
    ),
    "MiniMaxH3Transformer3DModel": Entry(
        {"num_attention_heads": 2, "attention_head_dim": 16, "hidden_size": 32, "num_layers": 6,
         "num_refiner_layers": 1, "ffn_dim": 24, "in_channels": 4, "audio_in_channels": 4, "text_dim": TEXT,
         "freq_dim": 16, "time_embed_hidden_dim": 32, "time_embed_dim": 16, "rope_freq_dim": 2},
        _minimax,
        (6,),
        note="video and sound in one stream",
    ),
    "PRXTransformer2DModel": Entry(
        {"in_channels": 4, "context_in_dim": TEXT, "hidden_size": 32, "mlp_ratio": 1.0, "num_heads": 2, "depth": 6,
         "axes_dim": [8, 8]},
        lambda n, k: image(n) | time(n) | text(n, k),
        (6,),
    ),
    "CogView3PlusTransformer2DModel": Entry(
        plain_config(out_channels=4, text_embed_dim=TEXT, time_embed_dim=8, condition_dim=4, pos_embed_max_size=8,
                     sample_size=SIDE),
        _cogview3,
        (6,),
    ),
    "LatteTransformer3DModel": Entry(
        plain_config(out_channels=4, cross_attention_dim=32, sample_size=SIDE, patch_size=2, caption_channels=TEXT,
                     norm_type="ada_norm_single", video_length=3, activation_fn="gelu-approximate"),
        lambda n, k: video(n) | time(n, value=500) | text(n, k),
        (6,),
        note="temporal blocks always run",
    ),
    "LuminaNextDiT2DModel": Entry(
        {"sample_size": SIDE, "in_channels": 4, "hidden_size": 32, "num_layers": 6, "num_attention_heads": 2,
         "num_kv_heads": 1, "multiple_of": 16, "cross_attention_dim": TEXT},
        lambda n, k: image(n) | time(n) | text(n, k) | mask(n, k, "encoder_mask")
        | {"image_rotary_emb": torch.polar(torch.ones(384, 384, 8), drawn(384, 384, 8)), "cross_attention_kwargs": {}},
        (6,),
    ),
    "SanaVideoTransformer3DModel": Entry(
        plain_config(out_channels=4, num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32,
                     caption_channels=TEXT, sample_size=SIDE),
        lambda n, k: video(n) | text(n, k) | time(n, value=500) | mask(n, k),
        (6,),
    ),
    "Ideogram4Transformer2DModel": Entry(
        plain_config(intermediate_size=24, adaln_dim=16, llm_features_dim=TEXT, mrope_section=(4, 2, 2)),
        _ideogram,
        (6,),
    ),
    "JoyImageEditTransformer3DModel": Entry(
        {"in_channels": 4, "hidden_size": 32, "num_attention_heads": 2, "text_dim": TEXT, "mlp_width_ratio": 1.0,
         "num_layers": 6, "rope_dim_list": [4, 4, 8]},
        lambda n, k: video(n) | time(n, value=500.0) | text(n, k),
        (6,),
        timeless_head=True,
        note="the head does not see the time",
    ),
    "EasyAnimateTransformer3DModel": Entry(
        plain_config(out_channels=4, patch_size=2, mmdit_layers=6, time_embed_dim=8, text_embed_dim=TEXT),
        lambda n, k: video(n) | time(n, value=500) | text(n, k),
        (6,),
    ),
    "AnyFlowTransformer3DModel": Entry(
        wan_config(),
        lambda n, k: {"hidden_states": drawn(n, 3, 4, SIDE, SIDE)} | text(n, k)
        | {"timestep": torch.full((n, 3), 500.0), "r_timestep": torch.zeros(n, 3)},
        (6,),
    ),
    "MotifVideoTransformer3DModel": Entry(
        plain_config(num_layers=3, num_single_layers=4, num_decoder_layers=2, text_embed_dim=TEXT, mlp_ratio=1.0,
                     out_channels=4, rope_axes_dim=(4, 4, 8)),
        lambda n, k: video(n) | time(n, value=500) | text(n, k) | mask(n, k),
        (3, 4),
        unlike=(0, 1, 2, 3, 4),  # the last blocks are a decoder, which takes the embedded latent anew
        note="with decoder blocks: branches of the others in full",
    ),
}  # fmt: skip
