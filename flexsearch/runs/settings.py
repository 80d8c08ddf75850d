"""The settings of one run: everything that its result depends on, and where it is kept."""

from __future__ import annotations

import importlib.util
import types
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from flexiffusion.cost import CostTable
from flexiffusion.noise import SPACINGS, Spacing
from flexiffusion.search.objective import (
    ERRORS,
    REFERENCES,
    STATISTICS,
    ErrorName,
    Objective,
    ReferenceName,
    StatisticName,
    paired_reference,
)
from flexiffusion.search.racing import SLACK
from flexsearch.choices import COSTS, ENGINES, FITTED, METHODS, SOLVERS, CostName, EngineName
from flexsearch.errors import ConfigError
from flexsearch.named import is_named

NAMED = ("--method", "--solver", "--teacher-solver", "--error")  # which take a `package.module:name` beside their words

USUAL_SOLVER = "dpmpp_2m"


@dataclass(frozen=True)
class Settings:
    """See `flexsearch run --help` for each. `guidance`, `size`, `frames`, `batch` None: as model or device have it;
    `error` and `solver` None: as the method has it; `teacher_solver` None: as `solver`, where that is not fitted;
    `profile`: another device's cost table in milliseconds, as JSON has it;
    `timesteps` None: as many as the asked cost pays for; `reference`: or a path to real pictures; `workers` None: one
    for each device."""

    model: str = "tiny"
    method: str = "placement"
    solver: str | None = None
    teacher_solver: str | None = None
    steps: int = 30
    spacing: Spacing = "uniform"
    guidance: float | None = None
    speedups: tuple[float, ...] = (2.0, 3.0, 5.0)
    timesteps: int | None = None
    reference: str = "teacher"
    error: str | None = None
    statistic: StatisticName = "mean"
    cost: CostName = "macs"
    profile: dict[str, Any] | None = None
    evaluations: int = 100
    images: int = 16
    held_out: int = 32
    batch: int | None = None
    seed: int = 0
    planner: bool = True
    racing: bool = True
    memory: int = 1024
    plain_only: bool = False
    features: str = "auto"
    prompts: tuple[str, ...] = ()
    held_out_prompts: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    frames: int | None = None
    prediction: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    compiled: bool = False
    storage: str | None = None
    engine: EngineName = "local"
    ray_address: str | None = None
    workers: int | None = None
    synchronous: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError, naming the flag, its value and the remedy."""
        for flag, value, choices in (
            ("--method", self.method, METHODS),
            ("--solver", self.solver, (None, FITTED, *SOLVERS)),
            ("--teacher-solver", self.teacher_solver, (None, *SOLVERS)),
            ("--spacing", self.spacing, SPACINGS),
            ("--engine", self.engine, ENGINES),
            ("--error", self.error, (None, *ERRORS)),
            ("--statistic", self.statistic, STATISTICS),
            ("--cost", self.cost, COSTS),
        ):
            own = flag in NAMED and value is not None and is_named(value)
            if value not in choices and not own:
                words = [*filter(None, choices), *["package.module:name"] * (flag in NAMED)]
                raise ConfigError(flag, f"{value!r} is not known", f"Choose one of {', '.join(words)}")
        if self.solver == FITTED and not self.own_method:
            raise ConfigError("--solver", f"--method {self.method} has none that is fitted", "Choose another solver")
        if self.statistic != "mean" and not self.objective.paired:
            name = "FID" if self.real else "relative FID"
            raise ConfigError("--statistic", f"{name} is one number for all images", "Leave it out")
        if self.error is not None and (self.error == "fid") != (self.real is not None):
            raise ConfigError(
                "--error",
                f"{self.error!r} with --reference {self.reference!r}",
                "FID, and nothing else, is measured to real pictures: give --error fid with --reference FOLDER",
            )
        if self.timesteps is not None and self.method != "autodiffusion":
            raise ConfigError("--timesteps", f"--method {self.method} finds their number", "Use --method autodiffusion")
        if self.profile is not None and self.cost != "latency":
            raise ConfigError("--profile", "milliseconds are not what is counted", "Give --cost latency with it")
        bounds = (("--steps", self.steps, 5, 1000), ("--images", self.images, 2, 100_000),
                  ("--held-out", self.held_out, 2, 100_000), ("--batch", self.batch, 1, 100_000),
                  ("--frames", self.frames, 1, 10_000),
                  ("--evaluations", self.evaluations, 1, 1_000_000), ("--seed", self.seed, 0, 2**31 - 1),
                  ("--memory", self.memory, 0, 2**31 - 1), ("--timesteps", self.timesteps, 2, 1000),
                  ("--workers", self.workers, 1, 10_000))  # fmt: skip
        for flag, number, low, high in bounds:
            if number is not None and not low <= number <= high:
                raise ConfigError(flag, f"{number} is out of range", f"Give {low} to {high}")
        for flag, asked in (("--ray-address", self.ray_address), ("--workers", self.workers),
                            ("--synchronous", self.synchronous)):  # fmt: skip
            if asked and self.engine == "local":
                raise ConfigError(flag, "the local engine has no workers", "Give --engine ray with it")
        if not self.speedups:
            raise ConfigError("--speedup", "there is none", "Give one or more, such as 2 or 3.5")
        for speedup in self.speedups:
            if not 1 < speedup <= self.steps:
                raise ConfigError(
                    "--speedup", f"{speedup:g} is out of range", f"Give more than 1, at most {self.steps}"
                )
        if self.guidance is not None and not 1 <= self.guidance <= 100:
            raise ConfigError("--guidance", f"{self.guidance:g} is out of range", "Give 1 to 100")

    @property
    def own_method(self) -> bool:
        """Whether it is a search of ours, not one of the papers'."""
        return self.method in ("placement", "joint")

    @property
    def fits(self) -> bool:
        """Whether every schedule has a solver of its own."""
        return self.chosen_solver == FITTED

    @property
    def chosen_solver(self) -> str:
        """What schedules are sampled with."""
        return self.solver or (FITTED if self.own_method else USUAL_SOLVER)

    @property
    def usual_solver(self) -> str:
        """What the teacher is sampled with, and what a user would have typed."""
        return self.teacher_solver or (USUAL_SOLVER if self.fits else self.chosen_solver)

    @property
    def uses_planner(self) -> bool:
        """Whether the search begins with the planner's schedules."""
        return self.planner and self.own_method

    @property
    def targets(self) -> tuple[float, ...]:
        """What a schedule may cost at most for each asked speed-up, in full steps.

        The papers' searches keep to the asked cost; ours may exceed it by `SLACK`.
        """
        slack = SLACK if self.own_method else 0.0
        return tuple(self.steps / speedup * (1 + slack) for speedup in self.speedups)

    @property
    def real(self) -> str | None:
        """The folder or statistics of real pictures that FID is measured to."""
        return None if self.reference in REFERENCES else self.reference

    @property
    def judged_by(self) -> ReferenceName:
        """What paired errors are measured to."""
        return paired_reference(self.reference)

    @property
    def objective(self) -> Objective:
        """What the search minimises."""
        own: ErrorName = "fid" if self.real else "rfid" if self.method == "flexiffusion" else "latent"
        return Objective(cast(ErrorName, self.error or own), self.statistic)

    @property
    def solver_name(self) -> str:
        """The solver of schedules as files and tables call it: of a `package.module:name` the name."""
        return short(self.chosen_solver)

    @property
    def other_device(self) -> CostTable | None:
        """The given cost table of another device."""
        return None if self.profile is None else CostTable.from_dict(self.profile)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Settings:
        """The inverse of `to_dict`, from JSON. Raises ConfigError for keys that this version does not know, and for
        values of another type."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(document) - known):
            raise ConfigError(
                "settings.json", f"unknown settings {', '.join(unknown)}", "Use the version that made the run"
            )
        values: dict[str, Any] = dict(document)
        for name in ("speedups", "prompts", "held_out_prompts", "size"):  # JSON has lists where settings have tuples
            if values.get(name) is not None:
                values[name] = tuple(_list(name, values[name]))
        hints = get_type_hints(cls)
        for name, value in values.items():
            if not _fits(value, hints[name]):
                raise ConfigError(f"settings.json: {name}", f"{value!r} is of a wrong type", "Put back what was there")
        return cls(**values)


def require_engine(settings: Settings) -> None:
    """Raises ConfigError where the asked engine is not installed; to be called before any work."""
    if settings.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError("--engine ray", "Ray is not installed", "Run: pip install 'flexiffusion[cluster]'")


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ConfigError(f"settings.json: {name}", f"{value!r} is not a list", "Put back what was there")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of an annotated type; a whole number is also a float."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str)  # which word it may be, `Settings` says better
    if origin is tuple:
        kinds = parts[:1] * len(value) if isinstance(value, tuple) and parts[-1] is Ellipsis else parts
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def short(solver: str) -> str:
    """A solver's name without the module that it comes from."""
    return solver.rpartition(":")[2]
