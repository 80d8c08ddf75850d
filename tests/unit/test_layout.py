"""Networks that cannot be cut are refused with their class and what was looked for."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import nn

from flexiffusion.cut import capturing, skipping
from flexiffusion.errors import ModelMismatch
from flexiffusion.layouts import find_layout


def unconditional(**config):
    common = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 4}
    common |= {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return diffusers.UNet2DModel(**(common | config))


def conditional(**config):
    common = {"block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2}
    common |= {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return diffusers.UNet2DConditionModel(**(common | config))


class Ldm(nn.Module):
    def __init__(self, inputs=2, outputs=2, children=1):
        super().__init__()
        self.input_blocks = nn.ModuleList(nn.Sequential(nn.Identity()) for _ in range(inputs))
        self.middle_block = nn.Sequential(nn.Identity())
        self.output_blocks = nn.ModuleList(
            nn.Sequential(*(nn.Identity() for _ in range(children))) for _ in range(outputs)
        )


def with_shared_module():
    network = Ldm()
    network.output_blocks[1] = network.output_blocks[0]
    return network


def with_two_downsamplers():
    network = unconditional()
    network.down_blocks[0].downsamplers.append(nn.Identity())
    return network


def with_missing_attention():
    network = conditional(down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2)
    del network.up_blocks[1].attentions[2]
    return network


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: nn.Linear(1, 1), "Linear: .*neither the blocks of a U-Net nor those of a transformer"),
        (
            lambda: diffusers.DiTTransformer2DModel(
                num_attention_heads=1, attention_head_dim=8, num_layers=1, sample_size=4, norm_num_groups=4
            ),
            "DiTTransformer2DModel: .*1 blocks in transformer_blocks, of which it takes 4",
        ),
        (
            lambda: diffusers.ControlNetModel(
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D",) * 2,
                norm_num_groups=4,
                cross_attention_dim=8,
                conditioning_embedding_out_channels=(8, 8),
            ),
            "ControlNetModel: .*neither",
        ),
        (
            lambda: unconditional(
                down_block_types=("SkipDownBlock2D",) * 2,
                up_block_types=("SkipUpBlock2D",) * 2,
                block_out_channels=(16, 32),
            ),
            r"`down_blocks\[0\]` is a SkipDownBlock2D, known are AttnDownBlock2D, ",
        ),
        (
            lambda: unconditional(
                down_block_types=("KDownBlock2D",) * 2,
                up_block_types=("KUpBlock2D",) * 2,
                block_out_channels=(32, 64),
            ),
            r"`down_blocks\[0\]` is a KDownBlock2D",
        ),
        (
            lambda: diffusers.UNet3DConditionModel(
                block_out_channels=(8, 16),
                down_block_types=("DownBlock3D",) * 2,
                up_block_types=("UpBlock3D",) * 2,
                norm_num_groups=4,
                cross_attention_dim=8,
                attention_head_dim=4,
                layers_per_block=1,
            ),
            r"UNet3DConditionModel: .*`down_blocks\[0\]` is a DownBlock3D",
        ),
        (lambda: Ldm(inputs=3), "3 input blocks but 2 output blocks"),
        (lambda: Ldm(inputs=0, outputs=0), "0 input blocks"),
        (lambda: Ldm(children=0), r"no children in `output_blocks\[0\]`, a Sequential"),
        (with_shared_module, "one module in two places"),
        (with_two_downsamplers, r"2 modules in `down_blocks\[0\].downsamplers`"),
        (with_missing_attention, r"`up_blocks\[1\]` with 3 resnets and 2 attentions"),
    ],
)
def test_unknown_network(make, found):
    with pytest.raises(ModelMismatch, match=found) as refused:
        find_layout(make())
    assert "Known are U-Nets in the LDM layout" in str(refused.value)


def test_subclasses_are_welcome():
    network = unconditional()
    for block in network.down_blocks:
        block.__class__ = type("Mine", (type(block),), {})
    assert find_layout(network).branches == 6


def test_layout_is_read_anew():
    """A LoRA that replaces a unit is seen by the next run."""
    network = unconditional()
    network.conv_in = nn.Sequential(network.conv_in)
    assert find_layout(network).inputs[0] == (network.conv_in,)


@pytest.mark.parametrize("branch", [-2, 6, 99])
def test_unknown_branch(branch):
    layout = find_layout(unconditional())
    with pytest.raises(ModelMismatch, match="branches -1 to 5"):
        layout.deep(branch)


def test_shapes_that_do_not_fit():
    network = unconditional()
    layout = find_layout(network)
    with torch.no_grad(), capturing(layout, {2}) as capture:
        network(torch.zeros(1, 3, 8, 8), 1)
    feature = capture.slices[2][0]
    with pytest.raises(ModelMismatch, match="no remembered shape"), skipping(layout, 1, feature, capture.shapes):
        pass
    with pytest.raises(ModelMismatch, match="where the full call had"), skipping(
        layout, 2, feature.map(lambda t: t[..., :1]), capture.shapes
    ):  # fmt: skip
        pass
    assert not any("forward" in vars(module) for module in network.modules())


def test_a_context_serves_one_call():
    network = unconditional()
    layout = find_layout(network)
    sample = torch.zeros(1, 3, 8, 8)
    with torch.no_grad(), capturing(layout, {2}) as capture:
        network(sample, 1)
    context = skipping(layout, 2, capture.slices[2][0], capture.shapes, fresh=True)
    with torch.no_grad(), pytest.raises(ModelMismatch, match="ran twice"), context:
        network(sample, 1)
        network(sample, 1)
    with pytest.raises(ModelMismatch, match="used before"), context:
        pass
    assert not any("forward" in vars(module) for module in network.modules())
