"""What the trainings of the bundled models share: a resumable loop with warm-up, cosine decay and averaged weights."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Stage:
    """One training: `steps` batches of `batch` pictures, the highest learning rate, and the seed of all its draws.

    `hold` is the part of the steps before the learning rate falls: until then a training may be given other `steps`.
    """

    name: str
    steps: int
    batch: int
    peak_lr: float
    seed: int = 0
    hold: float = 0.0


class Ema:
    """Exponential moving average of a module's weights; the decay warms up with the step count."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value.detach(), 1 - decay)
            else:
                self.weights[name].copy_(value)


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up over 3 % of the steps, the peak until `hold` of them, then a half cosine down to zero."""
    warmup = max(1, stage.steps * 3 // 100)
    if step < warmup:
        return stage.peak_lr * (step + 1) / warmup
    falls = max(warmup, int(stage.steps * stage.hold))
    progress = max(0, step - falls) / max(1, stage.steps - falls)
    return stage.peak_lr * 0.5 * (1 + math.cos(math.pi * progress))


def batch_indices(stage: Stage, step: int, count: int) -> tuple[Tensor, torch.Generator]:
    """Indices of batch `step`, from one permutation an epoch, and the generator of everything else that is random."""
    per_epoch = count // stage.batch
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(stage.seed * 7919 + epoch))
    generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + step)
    return order[position * stage.batch : (position + 1) * stage.batch], generator


def stratified_timesteps(count: int, total: int, generator: torch.Generator) -> Tensor:
    """One timestep from each of `count` equal strata: the same expectation as uniform draws, less variance."""
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (strata * total).long()


def min_snr_loss(error: Tensor, abar: Tensor) -> Tensor:
    """Noise-prediction error of each picture (n,) at its `abar` (n,), weighted (arXiv 2303.09556, eq. 6), averaged."""
    snr = abar / (1 - abar)
    return (error * (snr.clamp(max=5) / snr).to(error.device)).mean()


def checkpoint(stage: Stage, work: Path) -> Path:
    return work / f"{stage.name}.pt"


def train(
    stage: Stage,
    module: nn.Module,
    loss_of: Callable[[int], Tensor],
    work: Path,
    watch: Callable[[int, Ema], None] | None = None,
) -> None:
    """Run one stage to its end, from its checkpoint if there is one, and leave the averaged weights in `module`.

    `watch` is called after each checkpoint with the number of steps done and the averaged weights.
    """
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW(module.parameters(), lr=stage.peak_lr, weight_decay=0.01, fused=True)
    ema, first, spent = Ema(module), 0, 0.0
    path = checkpoint(stage, work)
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location=device)
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        ema.weights, first, spent = saved["ema"], saved["step"], saved["seconds"]
    started = time.monotonic()
    running = 0.0
    for step in range(first, stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage, step)
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        ema.update(module, step)
        running += loss.item()
        done = step + 1
        if done % 100 == 0 or done == stage.steps:
            seconds = spent + time.monotonic() - started
            print(f"{stage.name} {done}/{stage.steps} loss {running / 100:.4f} {seconds:.0f} s", flush=True)
            running = 0.0
        if done % 100 == 0 or done == stage.steps:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.weights}
            torch.save({**state, "step": done, "seconds": spent + time.monotonic() - started}, path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)
            if watch is not None:
                watch(done, ema)
    module.load_state_dict(ema.weights)
    module.eval().requires_grad_(False)
