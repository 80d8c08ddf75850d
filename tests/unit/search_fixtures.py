"""A cost table and a noise schedule like those of Stable Diffusion, and an engine that samples nothing."""

from __future__ import annotations

import numpy as np
import torch

from flexiffusion.cost import CostTable
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
TEACHER = spaced_places(SCHEDULE, 20, "uniform")


class Engine(OneByOne):
    """Errors from a formula: more full steps are better, and so are levels near an even spread in log sigma."""

    table = TABLE

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
        error = (1 + off) / (0.1 + sum(1 if a.kind == "full" else 0.7 for a in candidate.actions))
        return Judgement(error, np.array([error]))
