"""Tiny transformers of every family, built through ComfyUI's own model classes, and the host's own sampling of them.

Nothing here imitates the host: a configuration goes through `comfy.supported_models`, so the network, its sigmas, its
latent format and its conditioning are what the host gives a checkpoint of that family. Weights are random.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_WAN = dict(
    dim=48, ffn_dim=64, freq_dim=32, text_dim=40, in_dim=16, out_dim=16, num_heads=2, num_layers=5, text_len=8
)  # fmt: skip
_FLUX = dict(
    in_channels=16, out_channels=16, vec_in_dim=24, context_in_dim=40, hidden_size=64, mlp_ratio=2.0, num_heads=2,
    depth=3, depth_single_blocks=4, axes_dim=[8, 12, 12], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True,
    txt_ids_dims=[],
)  # fmt: skip
_FLUX2 = _FLUX | dict(
    image_model="flux2", in_channels=128, out_channels=128, vec_in_dim=None, depth=2, depth_single_blocks=5,
    axes_dim=[8, 8, 8, 8], theta=2000, patch_size=1, qkv_bias=False, txt_ids_dims=[3], global_modulation=True,
    mlp_silu_act=True, ops_bias=False, default_ref_method="index", ref_index_scale=10.0, mlp_ratio=3.0,
)  # fmt: skip
_CHROMA = _FLUX | dict(
    image_model="chroma", in_channels=64, out_channels=64, in_dim=64, out_dim=64, hidden_dim=48, n_layers=2
)
del _CHROMA["guidance_embed"]
_LUMINA = dict(
    image_model="lumina2", patch_size=2, in_channels=16, dim=48, cap_feat_dim=40, n_layers=5, qk_norm=True, n_heads=2,
    n_kv_heads=1, axes_dims=[8, 8, 8], axes_lens=[300, 512, 512], rope_theta=10000.0, ffn_dim_multiplier=2.0,
    multiple_of=32,
)  # fmt: skip
_HUNYUAN = dict(
    image_model="hunyuan_video", in_channels=16, out_channels=16, patch_size=[1, 2, 2], vec_in_dim=24,
    axes_dim=[8, 12, 12], meanflow=False, context_in_dim=40, hidden_size=64, mlp_ratio=2.0, num_heads=2, depth=3,
    depth_single_blocks=4, theta=256, qkv_bias=True, byt5=False, guidance_embed=True, use_cond_type_embedding=False,
    vision_in_dim=None, meanflow_sum=False,
)  # fmt: skip
_PREDICT2 = dict(
    max_img_h=32, max_img_w=32, max_frames=8, in_channels=16, out_channels=16, patch_spatial=2, patch_temporal=1,
    concat_padding_mask=True, crossattn_emb_channels=40, pos_emb_cls="rope3d", pos_emb_learnable=True,
    pos_emb_interpolation="crop", use_adaln_lora=True, adaln_lora_dim=16, model_channels=64, num_blocks=5, num_heads=2,
    extra_per_block_abs_pos_emb=False, rope_enable_fps_modulation=False,
)  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """One family with a tiny network.

    model:  class in comfy.supported_models
    config: of the network, as comfy.model_detection writes it
    latent: size of one latent without its batch
    blocks: of its trunk
    text:   width of the text embedding
    extra:  what else a conditioning of this family has
    flow:   its noise levels are those of flow matching
    tokens: length of a prompt's text
    """

    model: str
    config: Mapping[str, Any]
    latent: tuple[int, ...]
    blocks: int
    text: int = 40
    extra: Mapping[str, Any] = field(default_factory=dict)
    flow: bool = True
    tokens: int = 6


_IMAGE, _VIDEO = (16, 8, 12), (16, 3, 8, 12)
FAMILIES: dict[str, Tiny] = {
    "flux": Tiny("Flux", _FLUX | dict(image_model="flux"), _IMAGE, 7, extra={"pooled_output": (24,)}),
    "flux2": Tiny("Flux2", _FLUX2, (128, 4, 6), 7),
    "chroma": Tiny("Chroma", _CHROMA, _IMAGE, 7),
    "longcat": Tiny(
        "LongCatImage",
        _FLUX | dict(image_model="flux", vec_in_dim=None, guidance_embed=False, txt_ids_dims=[1, 2], context_in_dim=40),
        _IMAGE,
        7,
    ),
    "sd3": Tiny(
        "SD3",
        dict(
            in_channels=16, out_channels=16, patch_size=2, depth=5, input_size=None, adm_in_channels=24,
            context_embedder_config={
                "target": "torch.nn.Linear", "params": {"in_features": 40, "out_features": 320},
            },
            num_patches=64, pos_embed_max_size=8, pos_embed_scaling_factor=None, qk_norm="rms",
            x_block_self_attn_layers=[0, 1],
        ),
        _IMAGE,
        5,
        extra={"pooled_output": (24,)},
    ),
    "qwen": Tiny(
        "QwenImage",
        dict(
            image_model="qwen_image", in_channels=64, out_channels=16, num_layers=5, attention_head_dim=32,
            num_attention_heads=2, joint_attention_dim=40, axes_dims_rope=(8, 12, 12),
        ),
        (16, 1, 8, 12),
        5,
    ),
    "mageflow": Tiny(
        "MageFlow",
        dict(
            image_model="mage_flow", in_channels=128, out_channels=128, num_layers=5, attention_head_dim=32,
            num_attention_heads=2, joint_attention_dim=40, axes_dims_rope=(8, 12, 12),
        ),
        (128, 4, 6),
        5,
    ),
    "lens": Tiny(
        "Lens",
        dict(
            image_model="lens", patch_size=2, in_channels=128, out_channels=32, num_layers=5, attention_head_dim=32,
            num_attention_heads=2, enc_hidden_dim=10, axes_dims_rope=(8, 12, 12),
        ),
        (128, 4, 6),
        5,
    ),
    "lumina2": Tiny("Lumina2", _LUMINA, _IMAGE, 5),
    "zimage": Tiny(
        "ZImage",
        _LUMINA
        | dict(
            dim=256, n_heads=8, n_kv_heads=8, axes_dims=[8, 12, 12], rope_theta=256.0,
            z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=8,
        ),
        _IMAGE,
        5,
    ),
    "omnigen2": Tiny(
        "Omnigen2",
        dict(
            image_model="omnigen2", hidden_size=48, num_layers=5, num_refiner_layers=1, num_attention_heads=2,
            num_kv_heads=1, multiple_of=32, axes_dim_rope=(8, 8, 8), axes_lens=(300, 64, 64), text_feat_dim=40,
        ),
        _IMAGE,
        5,
        extra={"attention_mask": "ones"},
    ),
    "boogu": Tiny(
        "Boogu",
        dict(
            image_model="boogu", hidden_size=48, num_layers=3, num_double_stream_layers=2, num_refiner_layers=1,
            num_attention_heads=2, num_kv_heads=1, multiple_of=32, axes_dim_rope=(8, 8, 8), axes_lens=(300, 64, 64),
            instruction_feat_dim=40,
        ),
        _IMAGE,
        5,
        extra={"attention_mask": "ones"},
    ),
    "wan": Tiny("WAN21_T2V", _WAN | dict(image_model="wan2.1", model_type="t2v"), _VIDEO, 5),
    "wan-5b": Tiny(
        "WAN22_T2V", _WAN | dict(image_model="wan2.1", model_type="t2v", in_dim=48, out_dim=48), (48, 3, 8, 12), 5
    ),
    "wan-vace": Tiny(
        "WAN21_Vace",
        _WAN | dict(image_model="wan2.1", model_type="vace", num_layers=6, vace_layers=3, vace_in_dim=96),
        _VIDEO,
        6,
    ),
    "hunyuanvideo": Tiny("HunyuanVideo", _HUNYUAN, _VIDEO, 7, extra={"pooled_output": (24,), "guidance": 6.0}),
    "hunyuanimage": Tiny(
        "HunyuanImage21",
        _HUNYUAN | dict(in_channels=64, out_channels=64, patch_size=[1, 1], axes_dim=[16, 16], vec_in_dim=None),
        (64, 4, 6),
        7,
    ),
    "ltxv": Tiny(
        "LTXV",
        dict(
            image_model="ltxv", in_channels=128, cross_attention_dim=64, attention_head_dim=32, num_attention_heads=2,
            caption_channels=40, num_layers=5,
        ),
        (128, 3, 4, 4),
        5,
        extra={"attention_mask": "ones"},
    ),
    "aura": Tiny(
        "AuraFlow",
        dict(
            cond_seq_dim=40, dim=64, n_layers=5, n_double_layers=2, n_heads=2, global_conddim=64, max_seq=64,
        ),
        (4, 8, 12),
        5,
    ),
    "hidream": Tiny(
        "HiDream",
        dict(
            image_model="hidream", patch_size=2, in_channels=16, out_channels=16, num_layers=2, num_single_layers=3,
            attention_head_dim=32, num_attention_heads=2, caption_channels=[40, 40], text_emb_dim=24,
            num_routed_experts=2, num_activated_experts=1, axes_dims_rope=(16, 8, 8), max_resolution=(64, 64),
            llama_layers=[0, 1, 2, 3, 4],
        ),
        _IMAGE,
        5,
        extra={"pooled_output": (24,), "conditioning_llama3": (5, 6, 40)},
    ),
    "predict2": Tiny(
        "CosmosT2IPredict2", _PREDICT2 | dict(image_model="cosmos_predict2"), (16, 1, 8, 12), 5, flow=False
    ),
    "anima": Tiny(
        "Anima", _PREDICT2 | dict(image_model="anima", crossattn_emb_channels=1024), (16, 1, 8, 12), 5, text=1024
    ),
    "pixart": Tiny(
        "PixArtSigma",
        dict(
            image_model="pixart_sigma", input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=5, num_heads=2,
            mlp_ratio=2.0, caption_channels=40, model_max_length=16, micro_condition=False, pe_interpolation=1.0,
        ),
        (4, 32, 40),
        5,
        flow=False,
    ),
    "hydit": Tiny(
        "HunyuanDiT",
        dict(
            image_model="hydit", depth=6, hidden_size=64, num_heads=2, text_states_dim=40, text_states_dim_t5=32,
            text_len=6, text_len_t5=8,
        ),
        (4, 8, 12),
        6,
        extra={"conditioning_mt5xl": (8, 32), "attention_mask": (6,), "attention_mask_mt5xl": (8,)},
        flow=False,
    ),
    "kandinsky5": Tiny(
        "Kandinsky5",
        dict(
            image_model="kandinsky5", in_visual_dim=16, out_visual_dim=16, in_text_dim=40, in_text_dim2=24, time_dim=32,
            model_dim=64, ff_dim=96, visual_embed_dim=132, num_text_blocks=1, num_visual_blocks=5,
            axes_dims=(8, 12, 12),
        ),
        _VIDEO,
        5,
        extra={"pooled_output": (24,), "attention_mask": "ones"},
    ),
    "krea2": Tiny(
        "Krea2",
        dict(
            image_model="krea2", features=64, tdim=32, txtdim=40, heads=2, kvheads=1, multiplier=2, layers=5, patch=2,
            channels=16, txtlayers=2, txtheads=2, txtkvheads=2,
        ),
        (16, 1, 8, 12),
        5,
        text=80,
    ),
    "ernie": Tiny(
        "ErnieImage",
        dict(
            image_model="ernie", hidden_size=64, num_attention_heads=2, num_layers=5, ffn_hidden_size=96,
            in_channels=128, out_channels=128, patch_size=1, text_in_dim=40, rope_axes_dim=(8, 12, 12),
        ),
        (128, 4, 6),
        5,
    ),
    "cogvideox": Tiny(
        "CogVideoX_T2V",
        dict(
            image_model="cogvideox", num_attention_heads=2, attention_head_dim=64, time_embed_dim=32, num_layers=5,
            in_channels=16, patch_size=2, text_embed_dim=40, use_rotary_positional_embeddings=True,
            max_text_seq_length=6,
        ),
        _VIDEO,
        5,
        flow=False,
    ),
    "joyimage": Tiny(
        "JoyImage",
        dict(
            image_model="joyimage", hidden_size=256, num_attention_heads=2, text_dim=40, num_layers=5,
            rope_dim_list=[16, 56, 56],
        ),
        (16, 1, 8, 12),
        5,
    ),
}  # fmt: skip


def import_host() -> None:
    """Puts the checkout that COMFYUI_PATH names on the path, on the CPU, before its first import."""
    checkout = str(Path(os.environ["COMFYUI_PATH"]).resolve())
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    from comfy.cli_args import args

    args.cpu, args.use_pytorch_cross_attention = True, True


CPU = torch.device("cpu")


def build(
    name: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    changed: Mapping[str, Any] | None = None,
    device: torch.device = CPU,
) -> Any:
    """A MODEL (ModelPatcher) of this family with random weights, computed in float32.

    changed: what differs from the tiny configuration
    device:  on "meta" there are shapes only
    """
    import comfy.model_patcher
    import comfy.supported_models

    tiny = FAMILIES[name]
    config = getattr(comfy.supported_models, tiny.model)({**tiny.config, **(changed or {})})
    config.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = config.get_model({}, device=device)
        positions = ((key, buffer) for key, buffer in model.named_buffers() if key.endswith("pos_embed"))
        if device.type != "meta":
            for key, parameter in (*model.named_parameters(), *positions):
                _draw(key, parameter)
    model.eval().requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def _draw(name: str, parameter: Tensor) -> None:
    """As a trained network has them: no weight is zero, norms are near one; the host leaves them unset."""
    drawn = torch.empty(parameter.shape)
    if parameter.ndim < 2:
        nn.init.normal_(drawn, 1.0 if "norm" in name and name.endswith(("weight", "scale")) else 0.0, 0.1)
    else:
        nn.init.normal_(drawn, std=0.6 * parameter[0].numel() ** -0.5)
    parameter.data.copy_(drawn)


def conditioning(name: str, seed: int, tokens: int | None = None) -> list[list[Any]]:
    """What a text encoder node of this family hands out, random."""
    tiny = FAMILIES[name]
    tokens = tokens or tiny.tokens
    generator = torch.Generator().manual_seed(seed)
    extra = {}
    for key, value in tiny.extra.items():
        if value == "ones":
            extra[key] = torch.ones(1, tokens, dtype=torch.long)
        elif isinstance(value, tuple):
            extra[key] = torch.randn(1, *value, generator=generator)
        else:
            extra[key] = value
    return [[torch.randn(1, tokens, tiny.text, generator=generator), extra]]


def noise(name: str, rows: int = 1, seed: int = 0) -> Tensor:
    """Every row from a seed of its own. # (rows, *latent)"""
    latent = FAMILIES[name].latent
    return torch.cat([torch.randn(1, *latent, generator=torch.Generator().manual_seed(seed + i)) for i in range(rows)])
