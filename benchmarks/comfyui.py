"""Seconds per image in ComfyUI with and without presets, on a full-size SD 1.5 U-Net of random weights.

    COMFYUI_PATH=DIR PYTHONPATH=.:tests:tests/hosts python -m benchmarks.comfyui [--size 128] [--runs 3]

in the host's Python. Every row is a prompt through the HTTP API of a server of its own: 30 steps of KSampler without
the pack, then the pack's sampler with each preset. Wall time is the host's own, of sampling and saving the latent
(model and prompt are loaded before); CPU time is the server process's, one thread, which other load on the machine
disturbs less. Multiply-adds are counted on the meta device, of the U-Net alone, at --size and at 512 pixels.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from comfyui import Server
from random_weights import write_checkpoint
from torch.utils.flop_counter import FlopCounterMode
from workflows import TextToImage

from flexiffusion import codec
from flexiffusion.cost import CostTable
from flexiffusion.plan import Plan
from flexiffusion.run import Run
from flexiffusion.schedule import FULL, Action

ROOT = Path(__file__).resolve().parent.parent
STEPS = 30
PRESETS = {"2x": "sd15-turns-15", "3x": "sd15-turns-10", "5x": "sd15-turns-6"}
CHECKPOINT = "random-sd15.safetensors"


def macs(size: int) -> CostTable:
    """Multiply-adds of one call for one image and one conditioning, in full and at every branch."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        unet = UNetModel(
            image_size=32, in_channels=4, out_channels=4, model_channels=320, attention_resolutions=[4, 2, 1],
            num_res_blocks=2, channel_mult=[1, 2, 4, 4], num_heads=8, use_spatial_transformer=True,
            transformer_depth=1, context_dim=768, use_checkpoint=False, legacy=False,
        )  # fmt: skip
        x, t, context = torch.empty(1, 4, size // 8, size // 8), torch.empty(1), torch.empty(1, 77, 768)
    actions = (FULL, *(Action("partial", branch) for branch in range(12)))
    levels = tuple(float(len(actions) - i) for i in range(len(actions)))
    counts = []
    with Run(unet, Plan(levels, actions, 0)) as run, torch.no_grad():
        for level in levels:
            run.evaluate(level)
            with FlopCounterMode(display=False) as counter:
                run(lambda: unet(x, timesteps=t, context=context), x)
            counts.append(counter.get_total_flops() / 2)
    return CostTable("macs", counts[0], dict(enumerate(counts[1:])))


def cpu_seconds(server: Server) -> float:
    fields = Path(f"/proc/{server.process}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(server: Server, preset: str | None, size: int, seed: int, steps: int = STEPS) -> tuple[float, float]:
    """Wall and CPU seconds of one image."""
    workflow = TextToImage(size=size, checkpoint=CHECKPOINT)
    settings = {"steps": steps, "seed": seed, "sampler_name": "dpmpp_2m"}
    if preset is None:
        latent: Any = workflow.ksampler(**settings)
    else:
        latent = workflow.sampler((ROOT / "schedules" / f"{preset}.json").read_text(), **settings)
    workflow.save(latent, "timed")
    before = cpu_seconds(server)
    server.wait(server.start(workflow.graph.prompt), 24 * 3600)
    spent = cpu_seconds(server) - before
    return elapsed(server.log()), spent


def elapsed(log: str) -> float:
    """Seconds of the last prompt; from ten minutes upward the host writes h:mm:ss."""
    *hours, seconds = re.findall(r"Prompt executed in ([\d:.]+)", log)[-1].rstrip(".").split(":")
    return float(seconds) + sum(int(part) * 60**i for i, part in enumerate(reversed(hours), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="side of the picture in pixels")
    parser.add_argument("--runs", type=int, default=3, help="images of each row; medians are shown")
    options = parser.parse_args()
    tables = {size: macs(size) for size in (options.size, 512)}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(os.environ.get("FLEXIFFUSION_TEST_MODELS", folder)) / "."
        if not (models / "checkpoints" / CHECKPOINT).exists():
            write_checkpoint(models / "checkpoints" / CHECKPOINT, (1, 2, 4, 4))
        with Server(Path(os.environ["COMFYUI_PATH"]), Path(folder) / "base", models) as server:
            measured(server, None, options.size, 0, steps=1)  # loads the model
            rows: dict[str, list[tuple[float, float]]] = {name: [] for name in (*reversed(PRESETS), "without")}
            for seed in range(1, options.runs + 1):  # in turns: a machine that slows down slows all rows
                for name in rows:
                    rows[name].append(measured(server, PRESETS.get(name), options.size, seed))
                    print(f"seed {seed}, {name}: wall and CPU seconds {rows[name][-1]}", file=sys.stderr, flush=True)
    print(f"{options.size} px, {options.runs} images a row, dpmpp_2m, cfg 5, torch {torch.__version__}, one thread")
    print("| | full + partial | wall s | CPU s | CPU | MACs | MACs at 512 px |\n|---|---|---|---|---|---|---|")
    base = statistics.median(cpu for _, cpu in rows["without"])
    for name, times in reversed(rows.items()):
        actions: tuple[Action, ...] = (FULL,) * STEPS
        label = name
        if name in PRESETS:
            actions = codec.read(ROOT / "schedules" / f"{PRESETS[name]}.json").plan.actions()
            label = f"{name}: `{PRESETS[name]}`"
        fulls = sum(action == FULL for action in actions)
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        here, large = (f"{table.speedup(actions, STEPS):.2f}x" for table in tables.values())
        counts = f"{fulls} + {len(actions) - fulls}"
        print(f"| {label} | {counts} | {wall:.1f} | {cpu:.1f} | {base / cpu:.2f}x | {here} | {large} |")


if __name__ == "__main__":
    main()
