"""Every exit code of `flexsearch`, and which error ends in which."""

from __future__ import annotations

import errno
import sys

import click

from flexiffusion.errors import ModelMismatch, ScheduleError
from flexsearch.errors import ClusterError, ConfigError, ModelError, RunFolderError, SourceError

OK = 0
INTERNAL = 1
USAGE = 2
SCHEDULE = 3
MODEL = 4
RUN_FOLDER = 5
SOURCE = 6
REFUTED = 7
CLUSTER = 8
INTERRUPTED = 130  # 128 + SIGINT, as shells count
CLOSED_PIPE = 141  # 128 + SIGPIPE

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

MEANING = {
    OK: "done",
    INTERNAL: "internal error, a fault of flexsearch",
    USAGE: "wrong usage or configuration",
    SCHEDULE: "a schedule file was refused",
    MODEL: "the model could not be loaded, or does not fit the device",
    RUN_FOLDER: "the run folder or the trial store cannot be used, or the disk is full",
    SOURCE: "a source of presets was refused, or could not be reached",
    REFUTED: "verify: a claim of the schedule was refuted",
    CLUSTER: "the cluster cannot be reached, or its workers were lost",
    INTERRUPTED: "interrupted",
    CLOSED_PIPE: "what read the output has closed it, as `head` does",
}

_BY_TYPE: tuple[tuple[type[BaseException], int], ...] = (
    (ScheduleError, SCHEDULE),
    (ModelMismatch, MODEL),
    (ModelError, MODEL),
    (RunFolderError, RUN_FOLDER),
    (SourceError, SOURCE),
    (ClusterError, CLUSTER),
    (ConfigError, USAGE),
    (click.UsageError, USAGE),
    (click.FileError, USAGE),
    (KeyboardInterrupt, INTERRUPTED),
    (click.Abort, INTERRUPTED),
    (BrokenPipeError, CLOSED_PIPE),
)


def exit_code_of(error: BaseException) -> int:
    """The exit code that `error` ends in; `INTERNAL` for everything that is not a refusal of ours."""
    for kind, code in _BY_TYPE:
        if isinstance(error, kind):
            return code
    if disk_is_full(error):
        return RUN_FOLDER
    return MODEL if _is_out_of_memory(error) else INTERNAL


def disk_is_full(error: BaseException) -> bool:
    """Whether a file, or the output itself, could not be written for lack of room."""
    return isinstance(error, OSError) and error.errno in FULL


def _is_out_of_memory(error: BaseException) -> bool:
    # Asked of sys.modules, so that `flexsearch --help` never imports torch; no torch error exists before that import.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
