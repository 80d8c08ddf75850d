"""A cost table and a noise schedule like those of Stable Diffusion, and an evaluator that samples nothing."""

from __future__ import annotations

import numpy as np
import torch

from flexiffusion.cost import CostTable, Saving
from flexiffusion.noise import NoiseLevels, spaced_places
from flexiffusion.search.candidate import Candidate
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
