"""What a full step, a partial one of every branch and a dropped unit cost: multiply-adds (meta device), milliseconds
(this one), executed units."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from flexiffusion.cost import CostTable, Saving
from flexiffusion.errors import ScheduleError
from flexiffusion.layouts import Layout, find_layout, shortcut
from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action
from flexiffusion.search.denoiser import Calls
from flexiffusion.search.devices import clock, out_of_memory, release
from flexiffusion.search.trajectory import halved
from flexiffusion.whole_file import whole_file
from flexsearch.models.checkpoint import Checkpoint
from flexsearch.models.model import NetworkInputs, no_room, unet_skeleton
from flexsearch.models.noise import initial_noise


def count_macs(model: Checkpoint, guidance: float) -> CostTable:
    """Multiply-adds of one step for one image, all conditionings of classifier-free guidance included.

    Counted on a weightless copy on the meta device, where attention products are counted too (fused attention on the
    CPU would count as nothing). FLOPs = 2 x multiply-adds.
    """
    skeleton, calls = model.skeleton(guidance)
    return counted(skeleton, calls)


def unet_macs(unet: Any, shape: tuple[int, ...], inputs: NetworkInputs | None) -> CostTable:
    """As `count_macs`, of one call of a diffusers U-Net on a sample of `shape`."""
    return counted(*unet_skeleton(unet, shape, inputs))


def counted(network: nn.Module, calls: Callable[[], object]) -> CostTable:
    """Multiply-adds of `calls`, full and for every branch, and what each unit that can be dropped saves of them."""
    layout = find_layout(network)
    spent: dict[nn.Module | None, float] = defaultdict(float)  # by unit: what a step that passes it by saves
    with FlopCounterMode(display=False) as counter, torch.inference_mode():

        def begins(unit: nn.Module, _: Any) -> None:
            spent[unit] -= counter.get_total_flops()

        def ends(unit: nn.Module, *_: Any) -> None:
            spent[unit] += counter.get_total_flops()

        units = {*layout.units, *layout.deep(-1), *filter(None, map(projection, layout.droppable.values()))}
        hooks = [unit.register_forward_pre_hook(begins) for unit in units]
        hooks += [unit.register_forward_hook(ends) for unit in units]
        try:
            calls()
        finally:
            for hook in hooks:
                hook.remove()
        full = counter.get_total_flops()
    partial = {
        branch: (full - sum(spent[unit] for unit in layout.deep(branch))) / 2 for branch in range(-1, layout.branches)
    }
    savings = {unit: (spent[unit] - spent[projection(unit)]) / 2 for unit in layout.droppable.values()}
    return CostTable("macs", full / 2, partial, by_name(layout, savings))


def projection(unit: nn.Module) -> nn.Module | None:
    """What of a unit still runs when it is dropped."""
    left = shortcut(unit)
    return None if left is None else left.projection


def by_name(layout: Layout, savings: Mapping[nn.Module, float]) -> dict[str, Saving]:
    """What it saves to drop a unit, by its name, with the lowest branch at which a partial step would run it."""
    reached = layout.reached
    return {name: Saving(savings[unit], reached[name]) for name, unit in layout.droppable.items()}


def count_units(model: Checkpoint) -> CostTable:
    """Executed units, as AutoDiffusion counts a budget (arXiv 2309.10438): every unit that can be dropped
    counts one. What always runs does not count, but a step that runs nothing else must not be free: it counts one."""
    layout = find_layout(model.network)
    units = layout.droppable.values()
    partial = {
        branch: 1.0 + sum(unit not in layout.deep(branch) for unit in units) for branch in range(-1, layout.branches)
    }
    return CostTable("units", 1.0 + len(units), partial, by_name(layout, dict.fromkeys(units, 1.0)))


@torch.inference_mode()
def measure_ms(model: Checkpoint, guidance: float, batch: int, repeats: int = 5) -> tuple[CostTable, int]:
    """Median milliseconds of one network call for `batch` images, full and for every branch; and the batch.

    The kinds are measured in turns, so that a machine that slows down slows all of them; the first turn is not counted.
    A batch that does not fit into memory is halved. Raises ModelError when not even one image fits.
    """
    while True:
        try:
            return _measure_ms(model, guidance, batch, repeats), batch
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        release(model.device)
        try:
            batch = halved(batch)
        except MemoryError as error:
            raise no_room(model) from error


def known_or_measured_ms(model: Checkpoint, guidance: float, batch: int, path: Path) -> CostTable:
    """The milliseconds of this model, guidance, batch, size and device that were kept at `path`, else measured and
    kept: a search that goes on must count as it began."""
    determines = {"model": model.sha256, "guidance": guidance, "batch": batch, "size": list(model.image_size),
                  "frames": model.frames, "dtype": str(model.dtype), "device": device_name(model)}  # fmt: skip
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["determines"] == determines:
            return CostTable.from_dict(known["ms"])
    except (OSError, ValueError, KeyError, TypeError, ScheduleError):
        pass  # not there, or half written
    table, _ = measure_ms(model, guidance, batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        draft.write_text(json.dumps({"determines": determines, "ms": table.to_dict()}, indent=1), encoding="utf-8")
    return table


def _measure_ms(model: Checkpoint, guidance: float, batch: int, repeats: int) -> CostTable:
    noise = initial_noise(0, range(batch), model.latent_shape).to(model.device)
    denoiser, images = model.denoiser([""] * batch, guidance), slice(0, batch)
    place = len(model.levels) // 2
    kinds = [FULL, *(Action("partial", branch) for branch in range(-1, model.branches))]
    taken: dict[Action, list[float]] = {kind: [] for kind in kinds}

    def evaluate(run: Calls | None = None) -> Tensor:
        return denoiser(noise, place, images, run)

    for turn in range(repeats + 1):
        for kind in kinds:
            with Run(model.network, Plan((0.9, 0.5), (FULL, kind), 0), model.levels.kind) as run:
                run.evaluate(0.9)
                evaluate(run)
                run.evaluate(0.5)
                began = clock(model.device)
                evaluate(run)
                if turn:
                    taken[kind].append((clock(model.device) - began) * 1000)
    medians = {kind: statistics.median(times) for kind, times in taken.items()}
    partial = {kind.branch: ms for kind, ms in medians.items() if kind.branch is not None}
    layout = find_layout(model.network)
    savings = unit_ms(layout, model.device, evaluate, repeats)
    # Timed one by one, with a wait for the device at each, units take longer than together: only their shares count.
    scale = 1.0
    for kind, ms in medians.items():
        skipped = () if kind.branch is None else layout.deep(kind.branch)
        units = sum(saved for unit, saved in savings.items() if unit not in skipped)
        scale = min(scale, ms / (units * 1.02)) if units else scale
    return CostTable("ms", medians[FULL], partial, by_name(layout, {unit: ms * scale for unit, ms in savings.items()}))


def unit_ms(
    layout: Layout, device: torch.device, forward: Callable[[], Tensor], repeats: int
) -> dict[nn.Module, float]:
    """Median milliseconds that each droppable unit takes in one call, less those of its projection."""
    began: dict[nn.Module, float] = {}
    units = list(layout.droppable.values())
    watched = [*units, *filter(None, map(projection, units))]
    taken: dict[nn.Module, list[float]] = {unit: [] for unit in watched}

    def starts(unit: nn.Module, _: Any) -> None:
        began[unit] = clock(device)

    def ends(unit: nn.Module, *_: Any) -> None:
        taken[unit].append((clock(device) - began[unit]) * 1000)

    hooks = [unit.register_forward_pre_hook(starts) for unit in watched]
    hooks += [unit.register_forward_hook(ends) for unit in watched]
    try:
        for _ in range(repeats + 1):
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    medians: dict[nn.Module | None, float] = {unit: statistics.median(times[1:]) for unit, times in taken.items()}
    return {unit: max(0.0, medians[unit] - medians.get(projection(unit), 0.0)) for unit in units}


def device_name(model: Checkpoint) -> str:
    """The device as cost tables name it."""
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{model.device.type}, {torch.get_num_threads()} threads"
