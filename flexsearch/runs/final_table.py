"""What a search is worth: its best schedules and their rivals at the same cost, on held-out noise and prompts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from flexiffusion.schedule import Action, NoiseKind, SegmentsPlan, StepsPlan
from flexiffusion.search import refining
from flexiffusion.search.candidate import Candidate, plain
from flexiffusion.search.method import Evaluated
from flexiffusion.search.paired import Errors, estimate
from flexiffusion.search.racing import Judgement, least
from flexiffusion.search.seeds import Seed, SeedKind, near
from flexiffusion.solver import Weights
from flexsearch.choices import FITTED
from flexsearch.evaluators.local import SHOWN, LocalEvaluator, Outcome
from flexsearch.models.diffusers_caches import DiffusersCache, Meter
from flexsearch.report.rows import Row, RowKind
from flexsearch.runs.cache_rivals import cache_rivals, caching
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.progress import Progress

UNSTEADY = 1.25  # median turn / fastest: a machine with nothing else to do stays below, whatever one slow turn does

OnStep = Callable[[str], None]

Steps = tuple[tuple[Action, ...], DiffusersCache | None]  # what a schedule's steps do, and what leaves out more of them
Seconds = Mapping[Steps, Sequence[float]]  # per image, of each turn

TIMING = "timing"  # the stage's label
TIMED_IMAGES = 2  # the same in every command, so that their speed-ups can be compared
SLOW_SECONDS = 2.0  # teachers that take longer for an image are timed on one: as slow devices are used
FEWEST_TURNS, MOST_TURNS, TIMING_SECONDS = 3, 9, 5.0


REFINED: tuple[RowKind, ...] = ("found", "placed_fitted")  # rows whose fitted solvers are refined

EVALUATIONS_EACH = 80  # of a search for one more schedule that is refined: so it takes a fixed part of the time

Key = tuple[str, str | Weights, DiffusersCache | None]  # of a candidate, and what it is sampled with


@dataclass(frozen=True)
class Entry:
    """A schedule that has its row in the final table."""

    kind: RowKind
    speedup: float | None
    label: str
    candidate: Candidate
    solver: str | Weights
    file_plan: SegmentsPlan | StepsPlan | None = None  # of found schedules, for their files
    cache: DiffusersCache | None = None  # of diffusers, on the network for the time of it

    @property
    def key(self) -> Key:
        """Two entries with the same key run the same."""
        return self.candidate.key, self.solver, self.cache

    @property
    def steps(self) -> Steps:
        """Two entries with the same steps take the same time."""
        return self.candidate.actions, self.cache


def teacher(experiment: Experiment) -> Entry:
    label, candidate = f"teacher, {len(experiment.teacher)} steps", plain(experiment.teacher)
    return Entry("teacher", None, label, candidate, experiment.settings.usual_solver)


def choose(experiment: Experiment, evaluated: Sequence[Evaluated], on_step: OnStep = lambda label: None) -> list[Entry]:
    """The teacher, and for each asked speed-up the best found schedule and the best of each kind of rival.

    The best is the one with the least error on the *search* images among those that cost at most teacher / speed-up.
    `on_step` is told of each speed-up.
    """
    settings = experiment.settings
    chosen, known = [teacher(experiment)], Known(experiment, evaluated)
    for speedup, target in zip(settings.speedups, settings.targets, strict=True):
        affordable = _usable(experiment, evaluated, target)
        if affordable:
            best = min(affordable, key=lambda item: item.error)
            solver, plan = solver_of(experiment, best.candidate), experiment.method.file_plan(best.genes)
            chosen.append(Entry("found", speedup, described(best.candidate), best.candidate, solver, plan))
        chosen += rivals(experiment, speedup, target, known)
        placed = [item for item in affordable if item.candidate.plain]
        if placed and settings.method != "flexiffusion":
            best = min(placed, key=lambda item: item.error)
            kind: RowKind = "placed_fitted" if settings.fits else "plain_searched"
            entry = Entry(
                kind, speedup, described(best.candidate), best.candidate, solver_of(experiment, best.candidate)
            )
            # a hand-made schedule keeps its fit where this one's is refined
            alike = [other for other in chosen if not settings.fits]
            same = next((other for other in alike if other.speedup == speedup and other.key == entry.key), None)
            chosen.append(entry if same is None else replace(entry, label=f"the same as {same.label}"))
        on_step(f"{speedup:g}x")
    return chosen


def with_refined(
    experiment: Experiment, entries: Sequence[Entry], evaluated: Sequence[Evaluated], on_step: OnStep
) -> list[Entry]:
    """The same entries, the solvers of what the search found and placed at their best: see `LocalEvaluator.refine`.

    Refining changes who is best. So of an asked speed-up at which it is few full steps that are found, the best few
    schedules of the search are refined, the best placed steps among them, and the one that is then nearest on the
    search images is found. Hand-made schedules keep the fit that the search judged them by. `on_step` is told of each
    schedule that is refined.
    """
    known: dict[str, Weights] = {}

    def refined(candidate: Candidate) -> Weights:
        if candidate.key not in known:
            known[candidate.key] = experiment.search_evaluator.refine(candidate)
            on_step(described(candidate))
        return known[candidate.key]

    made: list[Entry] = []
    for entry in entries:
        if entry.kind in REFINED and not isinstance(entry.solver, str):
            if entry.kind == "found":
                able = contenders(experiment, entry, evaluated)
                best = min(able, key=lambda item: _error(experiment, item.candidate, refined(item.candidate)))
                plan = experiment.method.file_plan(best.genes)
                entry = replace(entry, label=described(best.candidate), candidate=best.candidate, file_plan=plan)
            entry = replace(entry, solver=refined(entry.candidate))
            same = [
                one for one in made if one.kind == "found" and one.speedup == entry.speedup and one.key == entry.key
            ]
            if same:
                entry = replace(entry, label=f"the same as {same[0].label}")
        made.append(entry)
    return made


def refinements(experiment: Experiment, entries: Sequence[Entry], evaluated: Sequence[Evaluated]) -> int:
    """How many schedules `with_refined` refines."""
    keys = {entry.candidate.key for entry in entries if entry.kind in REFINED}
    for entry in entries:
        if entry.kind == "found":
            keys |= {item.candidate.key for item in contenders(experiment, entry, evaluated)}
    return len(keys)


def contenders(experiment: Experiment, found: Entry, evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """The evaluated schedules that may be the best of their speed-up once refined, the best before that first: one, and
    where few full steps are refined one more for each `EVALUATIONS_EACH`, of other steps each, and the best placed."""
    settings = experiment.settings
    target = next(t for s, t in zip(settings.speedups, settings.targets, strict=True) if s == found.speedup)
    able = sorted(_usable(experiment, evaluated, target), key=lambda item: item.error)
    first = next(item for item in able if item.candidate.key == found.candidate.key)
    if not settings.objective.paired or not refining.few(found.candidate.actions):
        return [first]
    kinds = {item.candidate.actions: item for item in reversed(able) if refining.few(item.candidate.actions)}
    others = sorted(kinds.values(), key=lambda item: item.error)
    most = max(1, settings.evaluations // EVALUATIONS_EACH)
    placed = [item for item in others if item.candidate.plain]
    return list({item.candidate.key: item for item in [first, *others[:most], *placed[:1]]}.values())


def _usable(experiment: Experiment, evaluated: Sequence[Evaluated], target: float) -> list[Evaluated]:
    """Within the cost, and of no more steps than the teacher: hosts run no more than their user asked for."""
    most = len(experiment.teacher)
    return [item for item in evaluated if item.cost <= target + 1e-9 and len(item.candidate.places) <= most]


def _error(experiment: Experiment, candidate: Candidate, weights: Weights) -> float:
    """What the search minimises, on all of its images."""
    objective, evaluator = experiment.settings.objective, experiment.search_evaluator
    if not objective.paired:
        return 0.0  # one contender
    errors = evaluator.evaluate(candidate, solver=weights).paired_errors(objective.error, evaluator.judged_by)
    return objective.of(errors)


def solver_of(experiment: Experiment, candidate: Candidate) -> str | Weights:
    """What the search samples a candidate with: the solver's name, or the weights that are fitted to it."""
    fits = experiment.settings.fits
    return experiment.search_evaluator.fit(candidate) if fits else experiment.settings.chosen_solver


class Known:
    """Errors of candidates on the search images, under the search's own solver and under others."""

    def __init__(self, experiment: Experiment, evaluated: Sequence[Evaluated] = ()) -> None:
        self._experiment = experiment
        own = experiment.settings.chosen_solver
        self._found = {(item.candidate.key, own): Judgement(item.error, item.errors) for item in evaluated}

    def best(self, seeds: Sequence[Seed], solver: str) -> Seed:
        """The one of the least error under a solver. What is not known is evaluated now, racing against the best."""
        evaluator, settings = self._experiment.search_evaluator, self._experiment.settings
        other = None if solver == settings.chosen_solver else solver

        def judged(seed: Seed, rival: Errors | None) -> Judgement:
            key = (seed.candidate.key, solver)
            if key not in self._found:
                self._found[key] = evaluator.judge(seed.candidate, settings.objective, rival, other)
            return self._found[key]

        best = least(seeds, judged, evaluator.count, settings.objective)
        assert best is not None
        return best


def rivals(experiment: Experiment, speedup: float, target: float, known: Known) -> list[Entry]:
    """The best hand-made schedule of each kind that costs about `target` full steps, by its error on the search images:
    with the user's own solver, and fewer plain steps with others too; and diffusers' own caches."""
    settings = experiment.settings
    chosen: list[Entry] = []
    seeds = experiment.seeds_at([target])
    for kind, of, solver in _rival_kinds(settings.usual_solver, experiment.model.levels.kind, settings.fits):
        able = [seed for seed in seeds if seed.kind == of and near(seed.candidate.cost(experiment.costs), [target])]
        # the costliest is mostly the best: with it as their rival the others leave early
        able.sort(key=lambda seed: -seed.candidate.cost(experiment.costs))
        if able:
            rival = known.best(able, solver)
            run = solver_of(experiment, rival.candidate) if solver == FITTED else solver
            chosen.append(Entry(kind, speedup, rival.name, rival.candidate, run))
    steps, usual = plain(experiment.teacher), settings.usual_solver
    chosen += [
        Entry(cache.kind, speedup, cache.label, steps, usual, cache=cache) for cache in cache_rivals(experiment, target)
    ]
    return chosen


def _rival_kinds(usual: str, noise: NoiseKind, fits: bool) -> Iterator[tuple[RowKind, SeedKind, str]]:
    """Of each row its kind, the kind of its schedules and their solver."""
    yield "plain", "plain", usual
    if usual != "uni_pc" and noise == "vp":  # diffusers' scheduler is set up for those
        yield "uni_pc", "plain", "uni_pc"
    yield "dpmpp_3m", "plain", "dpmpp_3m"
    if fits:
        yield "plain_fitted", "plain", FITTED
    yield "deepcache", "deepcache", usual
    yield "spectrum", "spectrum", usual
    yield "easycache", "easycache", usual


def described(candidate: Candidate) -> str:
    """A few words, such as `5 full + 7 partial` or `8 full, searched levels, 31 units dropped`."""
    full = sum(action.kind == "full" for action in candidate.actions)
    partial = len(candidate.actions) - full
    words = f"{full} full + {partial} partial" if partial else f"{full} full, searched levels"
    return f"{words}, {candidate.dropped} units dropped" if candidate.dropped else words


@dataclass(frozen=True)
class Work:
    """What was run of a entry, for an image: steps in full, others, multiply-adds, and these in full steps."""

    full: int
    partial: int
    macs: float
    cost: float


def evaluate(evaluator: LocalEvaluator, entry: Entry) -> Outcome:
    """A entry sampled on the evaluator's images."""
    if entry.cache is None:
        return evaluator.evaluate(entry.candidate, solver=entry.solver)
    meter = Meter()
    with caching(evaluator, entry.cache, meter) as other:
        return replace(other.evaluate(entry.candidate, solver=entry.solver), meter=meter)


def work_of(evaluator: LocalEvaluator, entry: Entry, outcome: Outcome) -> Work:
    """What was run: planned work is known, that of diffusers' caches was counted."""
    actions, table, meter = entry.candidate.actions, evaluator.macs, outcome.meter
    full = sum(action.kind == "full" for action in actions) if meter is None else round(meter.full * len(actions))
    macs = table.total(actions) if meter is None else meter.macs(len(outcome.trajectory.latents))
    return Work(full, len(actions) - full, macs, macs / table.full)


def measure(evaluator: LocalEvaluator, entries: Sequence[Entry], on_step: OnStep) -> list[tuple[Entry, Outcome]]:
    """Every entry sampled on the evaluator's images; schedules that run the same are sampled once."""
    outcomes: dict[Key, Outcome] = {}
    for entry in entries:
        if entry.key not in outcomes:
            outcomes[entry.key] = evaluate(evaluator, entry)
        on_step(entry.label)
    return [(entry, outcomes[entry.key]) for entry in entries]


def timed(evaluator: LocalEvaluator, measured: Sequence[tuple[Entry, Outcome]], on_step: OnStep) -> Seconds:
    """Seconds per image of each schedule in each turn, by what its steps do: where their noise levels lie, and a few
    sums of a solver, are no time.

    Every turn times every candidate once, so that a machine that slows down slows all of them. Everything has run
    before, on the images that quality was measured on: nothing is warmed up or compiled here.
    """
    entries = {entry.steps: entry for entry, _ in measured}
    slowest = max(outcome.trajectory.seconds / len(outcome.trajectory.latents) for _, outcome in measured)
    images = TIMED_IMAGES if slowest < SLOW_SECONDS else 1
    taken: dict[Steps, list[float]] = {steps: [] for steps in entries}
    began = time.perf_counter()
    for turn in range(MOST_TURNS):
        if turn >= FEWEST_TURNS and time.perf_counter() - began > TIMING_SECONDS:
            break
        on_step(f"turn {turn + 1}")
        for steps, entry in entries.items():
            with nullcontext(evaluator) if entry.cache is None else caching(evaluator, entry.cache) as timed_evaluator:
                taken[steps].append(timed_evaluator.seconds(entry.candidate, images, entry.solver))
    return taken


def time_all(evaluator: LocalEvaluator, measured: Sequence[tuple[Entry, Outcome]], progress: Progress) -> Seconds:
    """`timed` with its progress; says so where the times cannot be relied on."""
    with progress.stage(TIMING, MOST_TURNS, "turns at most") as at:
        seconds = timed(evaluator, measured, lambda note: at.advance(note=note))
    spread = max(statistics.median(turns) / min(turns) for turns in seconds.values())
    if spread > UNSTEADY:
        progress.say(
            f"This machine was busy while it timed: one schedule usually took {spread:.1f} times its shortest time. "
            "Do not rely on the measured speed-ups; `flexsearch compare` measures them again."
        )
    return seconds


def rows(
    evaluator: LocalEvaluator,
    measured: Sequence[tuple[Entry, Outcome]],
    seconds: Seconds,
    files: Mapping[Key, str],
) -> tuple[Row, ...]:
    """The final table's rows. `seconds` are those of `timed`; `files` names a found schedule's file by its key.

    The speed-ups are against the teacher, which must be among `measured`: the median of those of the single turns.
    """
    full_length = next(entry for entry, _ in measured if entry.kind == "teacher")
    made = []
    for entry, outcome in measured:
        work = work_of(evaluator, entry, outcome)
        errors = {f"{error}/{against}": outcome.paired_errors(error, against) for error, against in SHOWN}
        made.append(
            Row(
                label=entry.label,
                kind=entry.kind,
                speedup_asked=entry.speedup,
                full=work.full,
                partial=work.partial,
                cost_full_steps=work.cost,
                macs=work.macs,
                speedup_macs=full_length.candidate.cost(evaluator.macs) / work.cost,
                seconds_per_image=statistics.median(seconds[entry.steps]),
                speedup_measured=statistics.median(
                    teacher / own for teacher, own in zip(seconds[full_length.steps], seconds[entry.steps], strict=True)
                ),
                errors={key: estimate(values) for key, values in errors.items()},
                image_errors={key: tuple(values.tolist()) for key, values in errors.items()},
                relative_fid=outcome.relative_fid(),
                relative_fid_n=len(outcome.all_features),
                real_fid=outcome.real_fid(),
                schedule_file=files.get(entry.key) if entry.kind == "found" else None,
            )
        )
    return tuple(made)
