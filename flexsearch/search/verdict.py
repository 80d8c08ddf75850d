"""What a search is worth: its best schedules and their rivals at the same cost, on held-out noise and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexiffusion.schedule import SegmentsPlan, StepsPlan
from flexsearch.engines.local import LocalEngine, Outcome
from flexsearch.metrics.paired import estimate
from flexsearch.report.rows import Row, RowKind
from flexsearch.search.candidate import Candidate, plain
from flexsearch.search.method import Evaluated
from flexsearch.search.seeds import Seed, near
from flexsearch.search.session import Session

OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """A schedule that has its row in the final table."""

    kind: RowKind
    speedup: float | None
    label: str
    candidate: Candidate
    plan: SegmentsPlan | StepsPlan | None = None  # of found schedules, for their files


def teacher(session: Session) -> Choice:
    return Choice("teacher", None, f"teacher, {len(session.teacher)} steps", plain(session.teacher))


def choose(session: Session, evaluated: Sequence[Evaluated]) -> list[Choice]:
    """The teacher, and for each asked speed-up the best found schedule and the best of each kind of rival.

    The best is the one with the least error on the *search* images among those that cost at most teacher / speed-up.
    Hand-made rivals that the search did not evaluate are evaluated now.
    """
    chosen = [teacher(session)]
    latent = session.method.fitness == "latent"
    known = {item.candidate.key: item.error for item in evaluated} if latent else {}

    def error_of(seed: Seed) -> float:
        key = seed.candidate.key
        if key not in known:
            known[key] = session.search_engine.error(seed.candidate, "latent")
        return known[key]

    for speedup, target in zip(session.settings.speedups, session.settings.targets, strict=True):
        affordable = [item for item in evaluated if item.cost <= target + 1e-9]
        if affordable:
            best = min(affordable, key=lambda item: item.error)
            plan = session.method.plan(best.genes)
            chosen.append(Choice("found", speedup, described(best.candidate), best.candidate, plan))
        for kind in ("plain", "deepcache"):
            rivals = [s for s in session.seeds if s.kind == kind and near(s.candidate.cost(session.table), [target])]
            if rivals:
                rival = min(rivals, key=error_of)
                chosen.append(Choice(kind, speedup, rival.name, rival.candidate))
        placed = [item for item in affordable if item.candidate.plain]
        if latent and placed:
            best = min(placed, key=lambda item: item.error)
            chosen.append(Choice("plain_searched", speedup, described(best.candidate), best.candidate))
    return chosen


def described(candidate: Candidate) -> str:
    """A few words, such as `5 full + 7 partial`."""
    full = sum(action.kind == "full" for action in candidate.actions)
    partial = len(candidate.actions) - full
    return f"{full} full + {partial} partial" if partial else f"{full} full, placed"


def measure(engine: LocalEngine, choices: Sequence[Choice], on_step: OnStep) -> list[tuple[Choice, Outcome]]:
    """Every choice sampled on the engine's images; schedules that run the same are sampled once."""
    outcomes: dict[str, Outcome] = {}
    for choice in choices:
        if choice.candidate.key not in outcomes:
            outcomes[choice.candidate.key] = engine.evaluate(choice.candidate)
        on_step(choice.label)
    return [(choice, outcomes[choice.candidate.key]) for choice in choices]


def rows(engine: LocalEngine, measured: Sequence[tuple[Choice, Outcome]], files: dict[str, str]) -> tuple[Row, ...]:
    """The final table's rows. `files` names the schedule file of a found candidate by its key.

    The speed-ups are against the teacher, which must be among `measured`, in the same measurement.
    """
    full_length, reference = next((c.candidate, outcome) for c, outcome in measured if c.kind == "teacher")
    made = []
    for choice, outcome in measured:
        full = sum(action.kind == "full" for action in choice.candidate.actions)
        cost = choice.candidate.cost(engine.table)
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
                seconds_per_image=outcome.seconds_per_image,
                speedup_measured=reference.seconds_per_image / outcome.seconds_per_image,
                errors={
                    "latent/teacher": estimate(outcome.latent_errors("teacher")),
                    "latent/converged": estimate(outcome.latent_errors("converged")),
                    "features/teacher": estimate(outcome.feature_errors("teacher")),
                },
                relative_fid=outcome.relative_fid(),
                relative_fid_n=len(outcome.features),
                schedule_file=files.get(choice.candidate.key) if choice.kind == "found" else None,
            )
        )
    return tuple(made)
