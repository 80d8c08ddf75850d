"""A U-Net in the LDM layout for the tests, so that they need no checkout of ldm.

Written from Rombach et al. (arXiv 2112.10752) and the tensor names of Stable Diffusion checkpoints: modules, names and
arithmetic are those of ldm's `openaimodel.UNetModel`, whose checkpoints load here and give the same output
(test_ldm_unet.py compares them where ldm is installed). Only what the tests need: two dimensions, no dropout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10000) -> Tensor:
    """Cosines, then sines, of falling frequencies. # (B,) -> (B, width)"""
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def zeroed(module: nn.Module) -> nn.Module:
    """Every residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps)


class Upsample(nn.Module):
    """Twice the size, then a convolution if it has channels; without them it has no weights."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=2, mode="nearest"))


class Downsample(nn.Module):
    """Half the size: by a convolution if it has channels, else by averages."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if channels else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut, with the timestep in between; `up` and `down` resample on both ways."""

    def __init__(
        self, channels: int, embedding: int, out_channels: int, scale_shift: bool, checkpointed: bool,
        up: bool = False, down: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale_shift, self.checkpointed = scale_shift, checkpointed
        self.updown = up or down
        self.in_layers = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.h_upd, self.x_upd = (Upsample() if up else Downsample() if down else nn.Identity() for _ in range(2))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, (1 + scale_shift) * out_channels))
        last = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.out_layers = nn.Sequential(norm(out_channels), nn.SiLU(), nn.Identity(), last)
        same = out_channels == channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.checkpointed:
            return checkpoint(self._forward, x, emb, use_reentrant=False)
        return self._forward(x, emb)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.h_upd(self.in_layers[:2](x)))
        shift = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + shift)
        return self.skip_connection(self.x_upd(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over places, as networks without text have it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        # the rows of `qkv` are q, k, v of the first head, then of the next
        q, k, v = self.qkv(self.norm(x.flatten(2))).unflatten(1, (self.heads, 3, -1)).transpose(-1, -2).unbind(2)
        h = scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2)
        return x + self.proj_out(h).view_as(x)


class CrossAttention(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(size, width, bias=False) for size in (width, context, context))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        read = x if context is None else context
        q, k, v = (
            layer.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.to_q(x), self.to_k(read), self.to_v(read))
        )
        return self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """The gated linear unit of arXiv 2002.05202."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Attention among places, attention to the text, a feed-forward network."""

    def __init__(self, width: int, context: int, heads: int, checkpointed: bool) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.attn1, self.attn2 = CrossAttention(width, width, heads), CrossAttention(width, context, heads)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.checkpointed:
            return checkpoint(self._forward, x, context, use_reentrant=False)
        return self._forward(x, context)

    def _forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """Transformer blocks over the places of a picture, added to what enters."""

    def __init__(
        self, channels: int, context: int, heads: int, depth: int, use_linear: bool, checkpointed: bool
    ) -> None:
        super().__init__()
        self.use_linear = use_linear
        self.norm = norm(channels, eps=1e-6)
        self.proj_in, self.proj_out = (
            nn.Linear(channels, channels) if use_linear else nn.Conv2d(channels, channels, 1) for _ in range(2)
        )
        zeroed(self.proj_out)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(channels, context, heads, checkpointed) for _ in range(depth)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        height_width = x.shape[2:]
        h = self.norm(x)
        if not self.use_linear:
            h = self.proj_in(h)
        h = h.flatten(2).transpose(1, 2).contiguous()
        if self.use_linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, context)
        if self.use_linear:
            h = self.proj_out(h)
        h = h.transpose(1, 2).unflatten(2, height_width).contiguous()
        if not self.use_linear:
            h = self.proj_out(h)
        return x + h


class TimestepEmbedSequential(nn.Sequential):
    """A block: hands the timestep to residual blocks and the text to transformers, by their classes."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None = None) -> Tensor:
        for unit in self:
            if isinstance(unit, ResBlock):
                x = unit(x, emb)
            elif isinstance(unit, SpatialTransformer):
                x = unit(x, context)
            else:
                x = unit(x)
        return x


class UNetModel(nn.Module):
    """The network, with the arguments of ldm's configuration files.

    Args:
        attention_resolutions: factors of downsampling at which every layer has an attention.
        num_heads, num_head_channels: one of them is given; the other follows from the level's channels.
        context_dim: width of the text where `use_spatial_transformer`; otherwise the network has no text.
        num_classes: number of labels; with them `y` must be given.
        resblock_updown: residual blocks resample, in the place of single convolutions.
        image_size, legacy: taken and not used, as the original has them in every configuration.
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, model_channels: int, num_res_blocks: int,
        attention_resolutions: Sequence[int], channel_mult: Sequence[int], num_heads: int = -1,
        num_head_channels: int = -1, use_spatial_transformer: bool = False, transformer_depth: int = 1,
        context_dim: int | None = None, use_linear_in_transformer: bool = False, num_classes: int | None = None,
        use_scale_shift_norm: bool = False, resblock_updown: bool = False, use_checkpoint: bool = False,
        image_size: int | None = None, legacy: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        assert (num_heads == -1) != (num_head_channels == -1)
        assert use_spatial_transformer == (context_dim is not None)
        self.in_channels, self.out_channels, self.model_channels = in_channels, out_channels, model_channels
        self.num_classes = num_classes
        embedding = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, embedding)

        def residual(before: int, after: int, **resampling: bool) -> nn.Module:
            return ResBlock(before, embedding, after, use_scale_shift_norm, use_checkpoint, **resampling)

        def attention(width: int) -> nn.Module:
            heads = num_heads if num_heads != -1 else width // num_head_channels
            if context_dim is None:
                return AttentionBlock(width, heads)
            return SpatialTransformer(
                width, context_dim, heads, transformer_depth, use_linear_in_transformer, use_checkpoint
            )

        def layer(before: int, after: int, level: int) -> list[nn.Module]:
            return [residual(before, after), *([attention(after)] if 2**level in attention_resolutions else [])]

        width = model_channels
        blocks = [TimestepEmbedSequential(nn.Conv2d(in_channels, width, 3, padding=1))]
        skips = [width]
        for level, factor in enumerate(channel_mult):
            if level:
                down = residual(width, width, down=True) if resblock_updown else Downsample(width)
                blocks.append(TimestepEmbedSequential(down))
                skips.append(width)
            for _ in range(num_res_blocks):
                blocks.append(TimestepEmbedSequential(*layer(width, factor * model_channels, level)))
                width = factor * model_channels
                skips.append(width)
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = TimestepEmbedSequential(residual(width, width), attention(width), residual(width, width))
        blocks = []
        for level, factor in reversed([*enumerate(channel_mult)]):
            for i in range(num_res_blocks + 1):
                units = layer(width + skips.pop(), factor * model_channels, level)
                width = factor * model_channels
                if level and i == num_res_blocks:
                    units.append(residual(width, width, up=True) if resblock_updown else Upsample(width))
                blocks.append(TimestepEmbedSequential(*units))
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(norm(width), nn.SiLU(), zeroed(nn.Conv2d(width, out_channels, 3, padding=1)))

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, y: Tensor | None = None, **_: object
    ) -> Tensor:
        """One prediction; hosts add options of their own, which no block here reads. # (B, in_channels, H, W)"""
        assert (y is None) == (self.num_classes is None)
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb, context)
            skips.append(h)
        h = self.middle_block(h, emb, context)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context)
        return self.out(h)
