"""A partial step of every branch against the very same units inside a full step, and against its multiply-adds.

    python -m benchmarks.partial_step sd15|sd21|sdxl [--size 512] [--rows 1] [--repeats 5] [--device cuda]

Random weights of the real widths; `--rows` is the network's batch (2 a picture with classifier-free guidance). Each
turn times one full step unit by unit, then one partial step of each branch; medians over the turns, ratios turn by
turn, so that a machine that slows down slows both sides. "Same units" are the residual blocks, attentions, samplers and
first convolution that the partial step runs, the time embedding and the output head: what a cut without cost takes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.layouts import FAMILY_NAMES, add_device_options, described, device_of, random_unet, stopwatch
from flexiffusion.layouts import find_layout
from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action
from flexsearch.models.costs import unet_macs
from flexsearch.models.model import NetworkInputs, call_unet
from tools.make_random_checkpoint import checkpoint_shape

HEAD = ("time_proj", "time_embedding", "add_time_proj", "add_embedding", "conv_norm_out", "conv_act", "conv_out")


class UnitClock:
    """Seconds of every watched module in one call."""

    def __init__(self, modules: list[nn.Module], device: torch.device, now: Callable[[], float]) -> None:
        self.device, self.now = device, now
        self.marks: dict[nn.Module, list[Any]] = {}
        self.hooks = [module.register_forward_pre_hook(lambda m, _: self._mark(m)) for module in modules]
        self.hooks += [module.register_forward_hook(lambda m, *_: self._mark(m)) for module in modules]

    def _mark(self, module: nn.Module) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.setdefault(module, []).append(event)
        else:
            self.marks.setdefault(module, []).append(self.now())

    def seconds(self) -> dict[nn.Module, float]:
        for hook in self.hooks:
            hook.remove()
        self.now()
        if self.device.type == "cuda":
            return {module: marks[0].elapsed_time(marks[1]) / 1000 for module, marks in self.marks.items()}
        return {module: marks[1] - marks[0] for module, marks in self.marks.items()}


def told(family: Any, rows: int, device: torch.device, dtype: torch.dtype) -> NetworkInputs:
    shape = checkpoint_shape(family, tiny=False)
    states = torch.randn(rows, 77, shape.context, device=device, dtype=dtype)
    if shape.pooled is None:
        return NetworkInputs(states)
    sizes = torch.full((rows, 6), 512.0, device=device, dtype=dtype)
    return NetworkInputs(states, torch.randn(rows, shape.pooled, device=device, dtype=dtype), sizes)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILY_NAMES)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    add_device_options(parser)
    options = parser.parse_args()
    device, dtype = device_of(options)
    now = stopwatch(options)
    unet = random_unet(options.family, device, dtype)
    layout = find_layout(unet)
    side = options.size // 8
    sample = torch.randn(options.rows, 4, side, side, device=device, dtype=dtype)
    beside = told(options.family, options.rows, device, dtype)
    head = [module for name in HEAD if (module := getattr(unet, name, None)) is not None]
    branches = range(-1, layout.branches)
    actions = (FULL, *(Action("partial", branch) for branch in branches))
    levels = tuple(float(len(actions) - i) for i in range(len(actions)))

    def timed(call: Callable[[], Any]) -> float:
        began = now()
        call()
        return now() - began

    def forward() -> torch.Tensor:
        return call_unet(unet, sample, 500, beside)

    fulls: list[float] = []
    partials: dict[int, list[float]] = {branch: [] for branch in branches}
    same: dict[int, list[float]] = {branch: [] for branch in branches}
    forward()  # warms up
    for turn in range(options.repeats):
        watched = UnitClock([*layout.units, *head], device, now)
        fulls.append(timed(forward))
        seconds = watched.seconds()
        with Run(unet, Plan(levels, actions, 0)) as run:
            run.evaluate(levels[0])
            run(forward, sample)
            for branch, level in zip(branches, levels[1:], strict=True):
                run.evaluate(level)
                deep = set(layout.deep(branch))
                partials[branch].append(timed(lambda: run(forward, sample)))
                same[branch].append(sum(s for module, s in seconds.items() if module not in deep))
            assert run.report.misses == 0
        print(f"turn {turn + 1}/{options.repeats}: full step {fulls[-1] * 1000:.0f} ms", file=sys.stderr, flush=True)
    macs = unet_macs(unet, tuple(sample.shape), beside)
    print(f"{options.family}, {options.size} px, {options.rows} row(s); {described(options)};")
    print(f"full step {statistics.median(fulls) * 1000:.0f} ms; medians of {options.repeats} turns.\n")
    print("| branch | multiply-adds | time | partial, ms | same units, ms | partial / same units |")
    print("|---|---|---|---|---|---|")
    for branch in branches:
        took, units = statistics.median(partials[branch]), statistics.median(same[branch])
        ratio = statistics.median(a / b for a, b in zip(partials[branch], same[branch], strict=True))
        share = statistics.median(a / b for a, b in zip(partials[branch], fulls, strict=True))
        macs_share = macs.partial[branch] / macs.full
        print(f"| {branch} | {macs_share:.1%} | {share:.1%} | {took * 1000:.0f} | {units * 1000:.0f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
