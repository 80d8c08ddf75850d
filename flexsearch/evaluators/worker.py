"""What a worker of a cluster does: load the model, take the driver's references, judge candidates."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import torch

from flexiffusion import __version__
from flexiffusion.search.candidate import Candidate
from flexiffusion.search.objective import Objective, ReferenceName
from flexiffusion.search.paired import Errors
from flexiffusion.search.racing import Judgement
from flexsearch.errors import ClusterError
from flexsearch.evaluators.local import LocalEvaluator
from flexsearch.models.quiet import quiet_models
from flexsearch.sampling.references import Reference


@dataclass(frozen=True, eq=False)
class Order:
    """All that a worker needs of its driver. The model is read where the worker is; the references are the driver's,
    so every worker judges by the same."""

    build: Callable[
        [dict[ReferenceName, Reference], int], LocalEvaluator
    ]  # from references and MiB for shared prefixes
    model: str  # as it was asked for
    references: dict[ReferenceName, Reference]
    memory: int  # MiB
    threads: int
    sha256: str
    folder: str  # the driver's working directory, where relative paths begin
    version: str = __version__


class Worker:
    """One model on one device."""

    def load(self, order: Order) -> str:
        """Get ready; say where. Raises what loading a model raises, and ClusterError for another model or version."""
        here = socket.gethostname()
        if order.version != __version__:
            raise ClusterError(
                here,
                f"flexiffusion {__version__} is installed there, {order.version} here",
                "Install the same version everywhere",
            )
        if os.path.isdir(order.folder):
            os.chdir(order.folder)
        torch.set_num_threads(order.threads)
        quiet_models()  # a process of its own
        self.evaluator = order.build(order.references, order.memory)
        loaded = self.evaluator.model.sha256
        if loaded != order.sha256:
            raise ClusterError(
                here,
                f"{order.model} has SHA-256 {loaded[:10]} there, {order.sha256[:10]} here",
                "Put the same checkpoint under the same path on every machine",
            )
        return here

    def judge(self, candidate: Candidate, objective: Objective, rival: Errors | None) -> Judgement:
        """See `LocalEvaluator.judge`."""
        return self.evaluator.judge(candidate, objective, rival)
