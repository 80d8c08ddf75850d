"""What a worker of a cluster does: load the model, take the driver's references, judge candidates."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import torch

from flexiffusion import __version__
from flexsearch.errors import ClusterError
from flexsearch.metrics.objective import Objective
from flexsearch.metrics.paired import Errors
from flexsearch.sampling.references import Reference
from flexsearch.search.candidate import Candidate
from flexsearch.search.racing import Judgement
from flexsearch.search.session import Session
from flexsearch.search.settings import ReferenceName, Settings


@dataclass(frozen=True, eq=False)
class Order:
    """All that a worker needs of its driver. The model is read where the worker is; the references are the driver's,
    so every worker judges by the same."""

    settings: Settings
    references: dict[ReferenceName, Reference]
    batch: int
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
        session = Session(order.settings, Path())
        session.batch = order.batch
        if session.model.sha256 != order.sha256:
            raise ClusterError(
                here,
                f"{order.settings.model} has SHA-256 {session.model.sha256[:10]} there, {order.sha256[:10]} here",
                "Put the same checkpoint under the same path on every machine",
            )
        self.engine = session.engine_for_search(order.references)
        return here

    def judge(self, candidate: Candidate, objective: Objective, rival: Errors | None) -> Judgement:
        """See `LocalEngine.judge`."""
        return self.engine.judge(candidate, objective, rival)
