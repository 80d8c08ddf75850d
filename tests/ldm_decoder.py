"""The autoencoder's decoder in the LDM layout for the tests, beside ldm_unet.py and written like it.

Tensor names and arithmetic of `first_stage_model.decoder` in Stable Diffusion checkpoints (arXiv 2112.10752).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(channels), nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2, self.conv2 = norm(out_channels), nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = channels == out_channels
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(silu(self.norm2(h)))


class AttnBlock(nn.Module):
    """Attention of one head among places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        h = scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.proj_out(h.contiguous())


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=2, mode="nearest"))


class Decoder(nn.Module):
    """Latents to pictures, with the arguments of ldm's configuration files. # (B, z, H, W) -> (B, out_ch, 8 H, 8 W)

    `resolution` and `in_channels` are taken and not used, as the original has them in every configuration.
    """

    def __init__(
        self, *, ch: int, out_ch: int, ch_mult: Sequence[int], num_res_blocks: int, z_channels: int,
        attn_resolutions: Sequence[int] = (), in_channels: int | None = None, resolution: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        assert not attn_resolutions
        width = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z_channels, width, 3, padding=1)
        self.mid = nn.ModuleDict(
            {"block_1": ResnetBlock(width, width), "attn_1": AttnBlock(width), "block_2": ResnetBlock(width, width)}
        )
        levels = []
        for level, factor in reversed([*enumerate(ch_mult)]):
            widths = [width, *[ch * factor] * (num_res_blocks + 1)]
            blocks = [ResnetBlock(*pair) for pair in pairwise(widths)]
            width = ch * factor
            parts = {"block": nn.ModuleList(blocks)} | ({"upsample": Upsample(width)} if level else {})
            levels.append(nn.ModuleDict(parts))
        self.up = nn.ModuleList(reversed(levels))  # counted from the picture's size, run from the latents'
        self.norm_out, self.conv_out = norm(width), nn.Conv2d(width, out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        for block in self.mid.values():
            h = block(h)
        for level in reversed(self.up):
            for block in level["block"]:
                h = block(h)
            if "upsample" in level:
                h = level["upsample"](h)
        return self.conv_out(silu(self.norm_out(h)))
