"""Dropped units, for every network of networks.py: what is left is what the paper says, and nothing stays behind."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from calls import reader
from networks import Network, dictionaries
from plans import F, P, plan
from torch import Tensor, nn

from flexiffusion.dropping import dropping
from flexiffusion.errors import ModelMismatch
from flexiffusion.layouts import find_layout
from flexiffusion.run import Run
from flexiffusion.schedule import Action


class SkipConnection(nn.Module):
    """A residual block without its residual, written down by hand."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        convolution = getattr(block, "conv_shortcut", None)
        self.left = convolution if convolution is not None else getattr(block, "skip_connection", nn.Identity())
        self.time_emb_proj = getattr(block, "time_emb_proj", None)

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return self.left(x)


class Unchanged(nn.Module):
    """An attention without what it adds."""

    def __init__(self, returns_a_tuple: bool) -> None:
        super().__init__()
        self.returns_a_tuple = returns_a_tuple

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        return (x,) if self.returns_a_tuple else x


def by_hand(network: Network, names: list[str]) -> Network:
    """The network with these units replaced for good."""
    unet = copy.deepcopy(network.unet)
    units = find_layout(unet).droppable
    for name in names:
        unit = units[name]
        attention = any(word in type(unit).__name__ for word in ("Attention", "Transformer"))
        substitute = Unchanged(type(unit).__name__ == "Transformer2DModel") if attention else SkipConnection(unit)
        if network.kind == "ldm":  # its blocks choose the arguments by the class of the unit
            unit.forward = substitute.forward
            continue
        for parent in unet.modules():
            for key, child in parent.named_children():
                if child is unit:
                    setattr(parent, key, substitute)
    return replace(network, unet=unet)


class TestDropping:
    def test_every_unit_alone_is_what_it_is_by_hand(self, some_network: Network, untouched: Any) -> None:
        untouched(some_network)
        sample, conditioning = some_network.sample(), some_network.conditioning(2)
        whole = some_network(sample, conditioning)
        units = find_layout(some_network.unet).droppable
        for name in [*units][:: len(units) // 3]:
            with dropping([units[name]]):
                found = some_network(sample, conditioning)
            assert torch.equal(found, by_hand(some_network, [name])(sample, conditioning)), name
            assert not torch.equal(found, whole), name

    def test_all_units_together_are_what_they_are_by_hand(self, every_network: Network, untouched: Any) -> None:
        untouched(every_network)
        sample, conditioning = every_network.sample(), every_network.conditioning(2)
        units = find_layout(every_network.unet).droppable
        with dropping(units.values()):
            found = every_network(sample, conditioning)
        assert torch.equal(found, by_hand(every_network, list(units))(sample, conditioning))
        assert found.isfinite().all()

    def test_what_can_be_dropped(self, every_network: Network) -> None:
        """Residual blocks and attentions: no first convolution, no down- or upsampler; and no attention that does not
        add to what enters it (DeepFloyd IF's)."""
        layout = find_layout(every_network.unet)
        droppable = layout.droppable
        assert layout.inputs[0][0] not in droppable.values()
        samplers = ("Downsample", "Upsample", "Downsample2D", "Upsample2D")
        for unit in layout.units[1:]:
            stays = type(unit).__name__ in samplers or any(
                getattr(unit, name, None) for name in ("up", "down", "updown")
            )
            stays = stays or not getattr(unit, "residual_connection", True)
            assert (unit in droppable.values()) != stays, type(unit)
        assert all(layout.named([name]) == (unit,) for name, unit in droppable.items())

    def test_names_are_those_of_ldm(self, some_network: Network) -> None:
        layout = find_layout(some_network.unet)
        if layout.kind == "ldm":
            modules = dict(some_network.unet.named_modules())
            assert all(modules[name] is unit for name, unit in layout.droppable.items())
        for name in ("input_blocks.1.0", "middle_block.0", "output_blocks.0.0"):
            assert name in layout.droppable

    def test_no_other_unit_is_dropped(self, sd1: Network) -> None:
        layout = find_layout(sd1.unet)
        before = dictionaries(sd1.unet)
        with pytest.raises(ModelMismatch, match="Conv2d cannot be dropped"):
            dropping([layout.units[1], layout.units[0]]).__enter__()
        assert dictionaries(sd1.unet) == before

    def test_modules_are_restored_after_an_error(self, network: Network) -> None:
        layout = find_layout(network.unet)
        sample, conditioning, before = network.sample(), network.conditioning(2), dictionaries(network.unet)

        def fail(*_: Any) -> None:
            raise KeyboardInterrupt

        hook = reader(network, layout, -1).register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt), dropping(layout.droppable.values()):
            network(sample, conditioning)
        hook.remove()
        assert dictionaries(network.unet) == before

    def test_hosts_may_write_into_what_is_left(self, sd1: Network) -> None:
        """An identity is a tensor of its own: ComfyUI adds ControlNet's residuals to a block's output in place."""
        unit = find_layout(sd1.unet).droppable["input_blocks.1.1"]
        x = torch.randn(1, 8, 4, 4)
        kept = x.clone()
        with dropping([unit]):
            unit(x, encoder_hidden_states=None, return_dict=False)[0].add_(1)
        assert torch.equal(x, kept)


class TestRun:
    @pytest.mark.parametrize("predictor", ["reuse", "linear"])
    def test_full_and_partial_steps_drop(self, some_network: Network, untouched: Any, predictor: Any) -> None:
        """Each step equals that of the network with the units replaced by hand, partial ones on the same feature."""
        untouched(some_network)
        sample, conditioning = some_network.sample(), some_network.conditioning(2)
        shallow, deep = "output_blocks.8.0", "middle_block.1"
        if shallow not in find_layout(some_network.unet).droppable:
            shallow = "output_blocks.7.0"
        branch = some_network.branches - 1
        actions = (F, Action("full", drop=(deep,)), Action("partial", branch, predictor, (shallow,)), P(0))
        made = plan(*actions)
        results = []
        with Run(some_network.unet, made) as run:
            for sigma in made.levels:
                run.evaluate(sigma)
                results.append(run(lambda: some_network(sample, conditioning), sample))
        report = run.report
        assert (report.full, report.partial, report.misses, report.dropped) == (2, 2, 0, 2)
        assert "dropped units 2" in str(report)
        assert torch.equal(results[0], some_network(sample, conditioning))
        assert torch.equal(results[1], by_hand(some_network, [deep])(sample, conditioning))
        if predictor == "reuse":
            hand = by_hand(some_network, [deep, shallow])  # the feature is that of the step before
            assert torch.equal(results[2], hand(sample, conditioning))

    def test_an_interrupted_step_leaves_nothing(self, some_network: Network, untouched: Any) -> None:
        untouched(some_network)
        sample = some_network.sample()
        made = plan(F, Action("full", drop=tuple(find_layout(some_network.unet).droppable)), P(0))
        before = dictionaries(some_network.unet)

        def fail() -> Tensor:
            assert dictionaries(some_network.unet) != before
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), Run(some_network.unet, made) as run:
            run.evaluate(made.levels[1])
            run(fail, sample)
        assert dictionaries(some_network.unet) == before

    def test_a_miss_drops_as_well(self, sd1: Network) -> None:
        made = plan(F, Action("partial", 0, drop=("output_blocks.11.0",)))
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        with Run(sd1.unet, made) as run:
            run.evaluate(made.levels[1])  # nothing was captured
            found = run(lambda: sd1(sample, conditioning), sample)
        assert run.report.misses == 1
        assert torch.equal(found, by_hand(sd1, ["output_blocks.11.0"])(sample, conditioning))

    def test_times_of_thinned_steps_are_no_full_steps(self, sd1: Network) -> None:
        made = plan(*(Action("full", drop=("middle_block.1",)),) * 2)
        sample, conditioning = sd1.sample(), sd1.conditioning(2)
        with Run(sd1.unet, made) as run:
            for sigma in made.levels:
                run.evaluate(sigma)
                run(lambda: sd1(sample, conditioning), sample)
        assert run.report.full_seconds is None
