"""A cost table and a noise schedule like those of Stable Diffusion, and an evaluator that samples nothing."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from flexiffusion.cost import CostTable, Saving
from flexiffusion.noise import NoiseLevels, spaced_places
from flexiffusion.search.candidate import Candidate
from flexiffusion.search.denoiser import Calls
from flexiffusion.search.evaluator import OneByOne
from flexiffusion.search.objective import Objective
from flexiffusion.search.paired import Errors
from flexiffusion.search.racing import Judgement

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
SCHEDULE = NoiseLevels.variance_preserving(torch.cumprod(1 - BETAS, 0).tolist())
BRANCHES = 6
TABLE = CostTable("macs", 100.0, {-1: 1.0, 0: 5.0, 1: 13.0, 2: 30.0, 3: 55.0, 4: 75.0, 5: 95.0})
UNITS = {f"input_blocks.{i}.0": Saving(8.0 + i / 10, i) for i in range(1, 6)} | {
    f"middle_block.{i}": Saving(12.0) for i in range(3)
}
PRICED = CostTable("macs", TABLE.full, TABLE.partial, UNITS)  # the same, with what each dropped unit saves
TEACHER = spaced_places(SCHEDULE, 20, "uniform")


class FormulaEvaluator(OneByOne):
    """Errors from a formula: full steps and an even spread in log sigma help, dropped units harm a little."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.evaluated: list[str] = []
        self.stop_at = stop_at

    count = 1

    def judge(self, candidate: Candidate, objective: Objective, rival: Errors | None = None) -> Judgement:
        if len(self.evaluated) == self.stop_at:
            raise KeyboardInterrupt
        self.evaluated.append(candidate.key)
        ideal = spaced_places(SCHEDULE, len(candidate.places), "logsnr")
        off = sum(abs(a - b) for a, b in zip(ideal, candidate.places, strict=True)) / 1000 / len(ideal)
        steps = sum(1 if a.kind == "full" else 0.7 for a in candidate.actions)
        error = (1 + off + 0.002 * candidate.dropped) / (0.1 + steps)
        return Judgement(error, np.array([error]))


class Trunk(nn.Module):
    """A transformer's outline: an embedding, a list of blocks, an output head. # (n, tokens, 4) -> the same"""

    def __init__(self, width: int = 16, blocks: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.embed = nn.Linear(5, width)
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.SiLU()) for _ in range(blocks))
            self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        level = torch.full_like(x[..., :1], math.log(sigma) / 3)
        x = self.embed(torch.cat([x, level], -1))
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


class FormulaDenoiser:
    """The best denoiser of white pictures, disturbed by a network. `room`: images that fit into memory at once, or
    None; `raises`: thrown at the next call; `broken_from`: the number of the first call whose output is not finite."""

    levels, device, branches = SCHEDULE, torch.device("cpu"), 5

    def __init__(self) -> None:
        self.network = Trunk()
        self.room: int | None = None
        self.largest = self.calls = 0
        self.raises: BaseException | None = None
        self.broken_from: float = math.inf

    def __call__(self, sample: Tensor, place: int, images: slice, run: Calls | None) -> Tensor:
        if self.raises is not None:
            raise self.raises
        if self.room is not None and len(sample) > self.room:
            raise MemoryError
        self.largest = max(self.largest, len(sample))
        sigma = self.levels.sigma(place)
        tokens = (sample / math.sqrt(1 + sigma**2)).flatten(2).transpose(1, 2)

        def forward() -> Tensor:
            return self.network(tokens, sigma)

        output = forward() if run is None else run(forward, tokens)
        self.calls += 1
        strength = 0.3 if self.calls <= self.broken_from else math.nan
        disturbed = output.transpose(1, 2).reshape(sample.shape).tanh() * strength
        return sample / (1 + sigma**2) + sigma / (1 + sigma) * disturbed
