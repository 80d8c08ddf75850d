"""What a schedule says about itself: its model, how it was sampled, what was measured, its cost, its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from .checks import (
    FINGERPRINT,
    MAX_BLOCKS,
    MAX_BRANCHES,
    MAX_COUNT,
    MAX_SEED,
    MAX_STEPS,
    FrozenMapping,
    identifier,
    listing,
    one_of,
    real,
    shown,
    store,
    text,
    whole,
)
from .errors import ScheduleError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
Origin = Literal["searched", "heuristic"]

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
ORIGINS: tuple[Origin, ...] = get_args(Origin)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The network that a schedule is for: its family (`sd15`), its number of branches, a checkpoint's hash or None.

    blocks:      of a transformer, how many blocks it runs one after the other; None: it is a U-Net, or not known
    fingerprint: recognises the checkpoint by its loaded weights (see `fingerprint`), 16 numbers from -1 to 1; or None
    """

    family: str
    branches: int
    sha256: str | None = None
    blocks: int | None = None
    fingerprint: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        identifier("ModelInfo.family", self.family, 64)
        store(self, "branches", whole("ModelInfo.branches", self.branches, 1, MAX_BRANCHES))
        if self.sha256 is not None and (
            not isinstance(self.sha256, str) or len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef")
        ):
            raise ScheduleError(
                "ModelInfo.sha256",
                f"{shown(self.sha256)} is no SHA-256",
                "Write 64 digits 0-9 a-f in lower case, or null",
            )
        if self.blocks is not None:
            store(self, "blocks", whole("ModelInfo.blocks", self.blocks, 1, MAX_BLOCKS))
        if self.fingerprint is not None:
            numbers = listing("ModelInfo.fingerprint", self.fingerprint, FINGERPRINT, FINGERPRINT)
            numbers = tuple(real(f"ModelInfo.fingerprint[{i}]", numbers[i], low=-1.0) for i in range(FINGERPRINT))
            for i, number in enumerate(numbers):
                if number > 1:
                    raise ScheduleError(
                        f"ModelInfo.fingerprint[{i}]", f"{shown(number)} is more than 1", "Export the schedule again"
                    )
            store(self, "fingerprint", numbers)


@dataclass(frozen=True, slots=True)
class Sampling:
    """What the schedule was made with. None: not tied to one (hand-made rules).

    steps: T of a segments plan; of a steps plan, the teacher's number of steps
    size:  picture width and height in pixels
    """

    sampler: str | None
    scheduler: str | None
    steps: int
    cfg: float | None
    size: tuple[int, int] | None
    prediction: Prediction | None

    def __post_init__(self) -> None:
        for name in ("sampler", "scheduler"):
            if getattr(self, name) is not None:
                text(f"Sampling.{name}", getattr(self, name), 64)
        store(self, "steps", whole("Sampling.steps", self.steps, 1, MAX_STEPS))
        if self.cfg is not None:
            store(self, "cfg", real("Sampling.cfg", self.cfg, low=0.0))
        if self.size is not None:
            sides = listing("Sampling.size", self.size, 2, 2)
            store(self, "size", tuple(whole(f"Sampling.size[{i}]", sides[i], 1, 65536) for i in range(2)))
        if self.prediction is not None:
            one_of("Sampling.prediction", self.prediction, PREDICTIONS)


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured quality: over `n` images, with the feature module and reference it was taken with."""

    name: str
    value: float
    n: int
    features: str | None = None
    reference: str | None = None
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        identifier("Metric.name", self.name, 64)
        store(self, "value", real("Metric.value", self.value))
        store(self, "n", whole("Metric.n", self.n, 1, MAX_COUNT))
        for name in ("features", "reference"):
            if getattr(self, name) is not None:
                text(f"Metric.{name}", getattr(self, name), 200)
        if self.interval is not None:
            ends = listing("Metric.interval", self.interval, 2, 2)
            low, high = (real(f"Metric.interval[{i}]", ends[i]) for i in range(2))
            if low > high:
                raise ScheduleError("Metric.interval", f"{low!r} is above {high!r}", "Give the lower end first")
            store(self, "interval", (low, high))


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of the whole schedule for one image: multiply-adds, speed-up in them, milliseconds by device text."""

    macs: float | None = None
    speedup_macs: float | None = None
    ms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("macs", "speedup_macs"):
            if getattr(self, name) is not None:
                store(self, name, real(f"Cost.{name}", getattr(self, name), above=0.0))
        if not isinstance(self.ms, Mapping):
            raise ScheduleError("Cost.ms", f"{shown(self.ms)} is not an object", "Write milliseconds by device, or {}")
        for device in self.ms:
            text("Cost.ms key", device, 200)
        store(self, "ms", FrozenMapping({d: real(f"Cost.ms[{shown(d)}]", self.ms[d], above=0.0) for d in self.ms}))


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a schedule comes from: a search, or a hand-made rule. Never pass one off as the other."""

    kind: Origin
    tool: str | None = None
    seed: int | None = None
    evaluations: int | None = None

    def __post_init__(self) -> None:
        one_of("Provenance.kind", self.kind, ORIGINS)
        if self.tool is not None:
            text("Provenance.tool", self.tool, 200)
        if self.seed is not None:
            store(self, "seed", whole("Provenance.seed", self.seed, 0, MAX_SEED))
        if self.evaluations is not None:
            store(self, "evaluations", whole("Provenance.evaluations", self.evaluations, 0, MAX_COUNT))
            if self.kind == "heuristic":
                raise ScheduleError(
                    "Provenance.evaluations",
                    "a heuristic was not found by evaluations",
                    'Leave it out, or kind is "searched"',
                )


HAND_MADE = Provenance("heuristic")
