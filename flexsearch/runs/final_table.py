"""What a search is worth: its best schedules and their rivals at the same cost, on held-out noise and prompts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flexiffusion.schedule import SegmentsPlan, StepsPlan
from flexiffusion.search.candidate import Candidate, plain
from flexiffusion.search.method import Evaluated
from flexiffusion.search.paired import estimate
from flexiffusion.search.seeds import Seed, near
from flexsearch.engines.local import SHOWN, LocalEngine, Outcome
from flexsearch.report.rows import Row, RowKind
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.progress import Progress

UNSTEADY = 1.25  # median turn / fastest: a machine with nothing else to do stays below, whatever one slow turn does

OnStep = Callable[[str], None]

TIMING = "timing"  # the stage's label
TIMED_IMAGES = 8  # the same in every command, so that their speed-ups can be compared
SLOW_SECONDS = 2.0  # teachers that take longer for an image are timed on one: as slow devices are used
FEWEST_TURNS, MOST_TURNS, TIMING_SECONDS = 3, 9, 5.0


@dataclass(frozen=True)
class Choice:
    """A schedule that has its row in the final table."""

    kind: RowKind
    speedup: float | None
    label: str
    candidate: Candidate
    plan: SegmentsPlan | StepsPlan | None = None  # of found schedules, for their files


def teacher(experiment: Experiment) -> Choice:
    return Choice("teacher", None, f"teacher, {len(experiment.teacher)} steps", plain(experiment.teacher))


def choose(experiment: Experiment, evaluated: Sequence[Evaluated]) -> list[Choice]:
    """The teacher, and for each asked speed-up the best found schedule and the best of each kind of rival.

    The best is the one with the least error on the *search* images among those that cost at most teacher / speed-up.
    """
    chosen = [teacher(experiment)]
    known = {item.candidate.key: item.error for item in evaluated}
    for speedup, target in zip(experiment.settings.speedups, experiment.settings.targets, strict=True):
        affordable = [item for item in evaluated if item.cost <= target + 1e-9]
        if affordable:
            best = min(affordable, key=lambda item: item.error)
            plan = experiment.method.plan(best.genes)
            chosen.append(Choice("found", speedup, described(best.candidate), best.candidate, plan))
        chosen += rivals(experiment, speedup, target, known)
        placed = [item for item in affordable if item.candidate.plain]
        if placed and experiment.settings.method != "flexiffusion":
            best = min(placed, key=lambda item: item.error)
            beside = {choice.candidate.key: choice.label for choice in chosen if choice.speedup == speedup}
            same = beside.get(best.candidate.key)
            label = described(best.candidate) if same is None else f"the same as {same}"
            chosen.append(Choice("plain_searched", speedup, label, best.candidate))
    return chosen


def rivals(experiment: Experiment, speedup: float, target: float, known: dict[str, float]) -> list[Choice]:
    """The best hand-made schedule of each kind that costs about `target` full steps, by its error on the search images.

    `known` are errors by a candidate's key; what is not among them is evaluated now, and put there.
    """

    def error_of(seed: Seed) -> float:
        key = seed.candidate.key
        if key not in known:
            known[key] = experiment.search_engine.judge(seed.candidate, experiment.settings.objective).error
        return known[key]

    chosen: list[Choice] = []
    seeds = experiment.seeds_at([target])
    for kind in ("plain", "deepcache", "spectrum", "easycache"):
        able = [seed for seed in seeds if seed.kind == kind and near(seed.candidate.cost(experiment.costs), [target])]
        if able:
            rival = min(able, key=error_of)
            chosen.append(Choice(kind, speedup, rival.name, rival.candidate))
    return chosen


def described(candidate: Candidate) -> str:
    """A few words, such as `5 full + 7 partial` or `8 full, searched levels, 31 units dropped`."""
    full = sum(action.kind == "full" for action in candidate.actions)
    partial = len(candidate.actions) - full
    words = f"{full} full + {partial} partial" if partial else f"{full} full, searched levels"
    return f"{words}, {candidate.dropped} units dropped" if candidate.dropped else words


def measure(engine: LocalEngine, choices: Sequence[Choice], on_step: OnStep) -> list[tuple[Choice, Outcome]]:
    """Every choice sampled on the engine's images; schedules that run the same are sampled once."""
    outcomes: dict[str, Outcome] = {}
    for choice in choices:
        if choice.candidate.key not in outcomes:
            outcomes[choice.candidate.key] = engine.evaluate(choice.candidate)
        on_step(choice.label)
    return [(choice, outcomes[choice.candidate.key]) for choice in choices]


def timed(engine: LocalEngine, measured: Sequence[tuple[Choice, Outcome]], on_step: OnStep) -> dict[str, list[float]]:
    """Seconds per image of each schedule in each turn, by its candidate's key.

    Every turn times every candidate once, so that a machine that slows down slows all of them. Everything has run
    before, on the images that quality was measured on: nothing is warmed up or compiled here.
    """
    candidates = {choice.candidate.key: choice.candidate for choice, _ in measured}
    slowest = max(outcome.trajectory.seconds / len(outcome.trajectory.latents) for _, outcome in measured)
    images = TIMED_IMAGES if slowest < SLOW_SECONDS else 1
    taken: dict[str, list[float]] = {key: [] for key in candidates}
    began = time.perf_counter()
    for turn in range(MOST_TURNS):
        if turn >= FEWEST_TURNS and time.perf_counter() - began > TIMING_SECONDS:
            break
        on_step(f"turn {turn + 1}")
        for key, candidate in candidates.items():
            taken[key].append(engine.seconds(candidate, images))
    return taken


def time_all(
    engine: LocalEngine, measured: Sequence[tuple[Choice, Outcome]], progress: Progress
) -> dict[str, list[float]]:
    """`timed` with its progress; says so where the times cannot be relied on."""
    with progress.stage(TIMING, MOST_TURNS, "turns at most") as at:
        seconds = timed(engine, measured, lambda note: at.advance(note=note))
    spread = max(statistics.median(turns) / min(turns) for turns in seconds.values())
    if spread > UNSTEADY:
        progress.say(
            f"This machine was busy while it timed: one schedule usually took {spread:.1f} times its shortest time. "
            "Do not rely on the measured speed-ups; `flexsearch compare` measures them again."
        )
    return seconds


def rows(
    engine: LocalEngine,
    measured: Sequence[tuple[Choice, Outcome]],
    seconds: Mapping[str, Sequence[float]],
    files: dict[str, str],
) -> tuple[Row, ...]:
    """The final table's rows. `seconds` are those of `timed`; `files` names a found candidate's file by its key.

    The speed-ups are against the teacher, which must be among `measured`: the median of those of the single turns.
    """
    full_length = next(choice.candidate for choice, _ in measured if choice.kind == "teacher")
    made = []
    for choice, outcome in measured:
        full = sum(action.kind == "full" for action in choice.candidate.actions)
        cost = choice.candidate.cost(engine.table)
        errors = {f"{error}/{against}": outcome.paired_errors(error, against) for error, against in SHOWN}
        made.append(
            Row(
                label=choice.label,
                kind=choice.kind,
                speedup_asked=choice.speedup,
                full=full,
                partial=len(choice.candidate.actions) - full,
                cost_full_steps=cost,
                macs=engine.table.total(choice.candidate.actions),
                speedup_macs=full_length.cost(engine.table) / cost,
                seconds_per_image=statistics.median(seconds[choice.candidate.key]),
                speedup_measured=statistics.median(
                    teacher / own
                    for teacher, own in zip(seconds[full_length.key], seconds[choice.candidate.key], strict=True)
                ),
                errors={key: estimate(values) for key, values in errors.items()},
                image_errors={key: tuple(values.tolist()) for key, values in errors.items()},
                relative_fid=outcome.relative_fid(),
                relative_fid_n=len(outcome.features),
                real_fid=outcome.real_fid(),
                schedule_file=files.get(choice.candidate.key) if choice.kind == "found" else None,
            )
        )
    return tuple(made)
