"""The contract of `layout`, for every network: units in the order in which they run, and the features."""

from __future__ import annotations

from itertools import pairwise

import torch
from calls import branches, first_tensor, full, reader
from networks import Network
from torch import Tensor, nn

from flexiffusion.layouts import find_layout


class TestLayout:
    def test_branches(self, every_network: Network) -> None:
        layout = find_layout(every_network.unet)
        assert (layout.kind, layout.branches) == (every_network.kind, every_network.branches)

    def test_units_are_listed_in_the_order_in_which_they_run(self, every_network: Network) -> None:
        layout = find_layout(every_network.unet)
        called: list[nn.Module] = []
        hooks = [unit.register_forward_hook(lambda module, *_: called.append(module)) for unit in layout.units]
        every_network(every_network.sample(), every_network.conditioning(2))
        for hook in hooks:
            hook.remove()
        assert called == list(layout.units)

    def test_units_hold_every_weight_but_embeddings_and_head(self, network: Network) -> None:
        inside = {id(p) for unit in find_layout(network.unet).units for p in unit.parameters()}
        outside = {name.split(".")[0] for name, p in network.unet.named_parameters() if id(p) not in inside}
        assert outside <= {
            *("time_embedding", "class_embedding", "add_embedding", "conv_norm_out", "conv_out"),
            *("time_embed", "label_emb", "out"),
        }

    def test_deeper_branches_skip_less(self, network: Network) -> None:
        layout = find_layout(network.unet)
        sets = [set(layout.deep(branch)) for branch in branches(layout)]
        assert all(deeper < shallower for shallower, deeper in pairwise(sets))
        assert sets[0] == set(layout.units)
        assert sets[-1]

    def test_feature_enters_the_output_block_before_the_skip(self, network: Network) -> None:
        layout = find_layout(network.unet)
        read: dict[int, Tensor] = {}
        made: dict[int, Tensor] = {}
        hooks = []
        for branch in branches(layout):
            hooks.append(reader(network, layout, branch).register_forward_pre_hook(
                lambda module, args, branch=branch: read.__setitem__(branch, args[0].clone())
            ))  # fmt: skip
            if branch >= 0:
                hooks.append(layout.inputs[branch][-1].register_forward_hook(
                    lambda module, args, output, branch=branch: made.__setitem__(branch, first_tensor(output).clone())
                ))  # fmt: skip
        _, _, capture = full(network, network.sample(), network.conditioning(2))
        for hook in hooks:
            hook.remove()
        for branch in branches(layout):
            (feature,) = capture.features[branch].streams
            channels = feature.shape[1]
            assert torch.equal(read[branch][:, :channels], feature)
            if branch >= 0:
                assert torch.equal(read[branch][:, channels:], made[branch])
            else:
                assert read[branch].shape[1] == channels
