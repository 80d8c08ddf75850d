"""Workers on Ray: one actor a device. https://docs.ray.io/en/latest/ray-core/actors.html

An actor is never restarted by Ray: its candidate may be what killed it, so the pool decides what comes next.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from flexiffusion.search.devices import out_of_memory
from flexiffusion.search.evaluator import Job
from flexsearch.errors import ClusterError, ConfigError, ModelError
from flexsearch.evaluators.pool import WorkerLost
from flexsearch.evaluators.worker import Order, Worker

OBJECT_STORE = 256 << 20  # bytes, on a machine where Ray runs for this search only; references may need more
REACH_SECONDS = 10.0
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def connect(address: str | None, workers: int | None, payload: int) -> bool:
    """Join the cluster at `address` (host:port, ray://host:port, auto), or start one on this machine for `workers`
    workers and `payload` bytes of references. Whether it was joined or started here, and not before.

    Raises ClusterError where there is none.
    """
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports home
    try:
        if address is None:
            _start(workers or 1, payload)
        else:
            _reach(address)
            ray.init(address=address, **QUIET)
    except Exception as error:  # Ray has no type of its own for most of these
        ray.shutdown()
        said = str(error).strip().splitlines()
        reason = said[0].rstrip(".") if said else type(error).__name__
        if address is None:
            raise ClusterError(
                "--engine ray", f"Ray cannot be started ({reason})", "Try again, or --engine local"
            ) from error
        raise ClusterError(
            f"--ray-address {address}",
            f"Ray cannot be reached ({reason})",
            "Check the address, and that the versions of Ray and Python are the same there",
        ) from error
    return True


def _start(workers: int, payload: int) -> None:
    """Start Ray on this machine. It gives its own processes half a minute, too little on a busy one: tried twice."""
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for again in (True, False):
        try:
            ray.init(
                address="local",
                num_cpus=max(workers, cores),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE + 2 * payload,
                **QUIET,
            )
            return
        except Exception:
            if not again:
                raise
            ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError at once for a host:port where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()


class RayCluster:
    """See `pool.Cluster`. Close it with `close`, whatever happens."""

    def __init__(self, order: Order, address: str | None, workers: int | None, cuda: bool) -> None:
        payload = sum(t.nbytes for reference in order.references.values() for t in reference.tensors().values())
        self._connected = connect(address, workers, payload)
        self._actors: dict[int, Any] = {}
        try:
            self.workers, options = resources(workers, cuda, order.threads)
            self._kind = ray.remote(Worker).options(max_restarts=0, scheduling_strategy="SPREAD", **options)
            memory = order.memory // self.workers  # --memory is for all of them
            threads = order.threads if cuda else options["num_cpus"]
            self._order = ray.put(replace(order, memory=memory, threads=threads))
        except BaseException:
            self.close()
            raise

    def start(self, worker: int) -> Any:
        self._actors[worker] = self._kind.remote()
        return self._actors[worker].load.remote(self._order)

    def judge(self, worker: int, job: Job) -> Any:
        return self._actors[worker].judge.remote(job.candidate, job.objective, job.rival)

    def wait(self, futures: Sequence[Any], timeout: float | None) -> Any:
        done, _ = ray.wait(list(futures), num_returns=1, timeout=timeout)
        return done[0] if done else None

    def result(self, future: Any) -> Any:
        try:
            return ray.get(future)
        except OutOfMemoryError as error:
            raise WorkerLost("its machine ran out of memory, and Ray ended it", cause=error) from error
        except RayTaskError as error:
            cause = error.cause
            if out_of_memory(cause) or (isinstance(cause, ModelError) and "memory" in cause.problem):
                raise WorkerLost(f"it ran out of memory ({cause})", gone=False, cause=cause) from error
            raise cause from error
        except RayError as error:
            raise WorkerLost("its process died", cause=error) from error

    def close(self) -> None:
        """End the workers; leave the cluster, or end it if it was started here."""
        if not ray.is_initialized():
            return
        with contextlib.suppress(RayError, RuntimeError):  # a cluster that is gone needs no goodbye
            for actor in self._actors.values():
                ray.kill(actor)
        self._actors.clear()
        if self._connected:
            ray.shutdown()


def resources(workers: int | None, cuda: bool, threads: int) -> tuple[int, dict[str, Any]]:
    """How many workers there are (by default one a GPU, or one a machine), and what Ray sets aside for each.

    On CPUs the workers of a machine share its cores, with at most `threads` for each. Raises ConfigError when the
    cluster is too small.
    """
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cpus = [count for count in cpus if count]
    if cuda:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        workers = workers or gpus
        if not 0 < workers <= gpus:
            raise ConfigError("--workers", f"{workers} workers need as many GPUs; the cluster has {gpus}", "Give fewer")
        return workers, {"num_gpus": 1, "num_cpus": 1}
    workers = workers or len(cpus)
    if workers > sum(cpus):
        raise ConfigError(
            "--workers", f"{workers} workers need as many cores; the cluster has {sum(cpus)}", "Give fewer"
        )
    each = min(cpus) // math.ceil(workers / len(cpus))
    return workers, {"num_cpus": max(1, min(threads, each))}
