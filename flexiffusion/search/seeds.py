"""Hand-made schedules: what a user could have typed. They seed the search and are the rows that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..checks import MAX_BRANCHES
from ..cost import CostTable
from ..metadata import ModelInfo
from ..noise import NoiseKind, NoiseLevels, Spacing, spaced_places
from ..rule import FASTEST, rule
from ..schedule import FULL, Action, Predictor
from .candidate import DRAWN, Candidate, make_candidate, plain

SPACINGS: tuple[Spacing, ...] = ("uniform", "karras", "logsnr")  # what hosts offer
TURNS: tuple[Spacing, ...] = ("uniform", "logsnr")  # of full and partial steps by turns: the plainest, the usual best

SeedKind = Literal["plain", "deepcache", "spectrum", "easycache", "alternating", "planned"]

IN_TURN = (1, 2, 3)  # partial steps after each full one
WARM_UPS = (3, 5)  # Spectrum's full steps at the beginning; 5 in its code
WINDOW = 2  # its first one
GROWTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 16.0)  # of the window; 0.75 in its code
PROTECTED = (0.15, 0.95)  # EasyCache skips nothing before and after these parts of the run


@dataclass(frozen=True)
class Seed:
    """A baseline: its kind, a name that says how to type it, and the schedule."""

    kind: SeedKind
    name: str
    candidate: Candidate


def plain_seeds(levels: NoiseLevels, counts: Sequence[int]) -> Iterator[Seed]:
    """Fewer steps of the same solver, in every hand-made spacing."""
    for count in counts:
        for spacing in SPACINGS:
            yield Seed("plain", f"{count} steps, {spacing}", plain(spaced_places(levels, count, spacing)))


def deepcache(teacher: Sequence[int], interval: int, branch: int) -> Candidate:
    """DeepCache (arXiv 2312.00858, section 3.3): every `interval`-th step of the teacher full, the others reuse."""
    partial = Action("partial", branch, "reuse")
    return make_candidate(teacher, [partial if i % interval else FULL for i in range(len(teacher))])


def deepcache_seeds(teacher: Sequence[int], branches: int) -> Iterator[Seed]:
    """DeepCache uniform at every branch and interval; of intervals with equally many full steps, so of one cost, the
    first, whose full steps lie most evenly."""
    counts = set()
    for interval in range(2, len(teacher) + 1):
        count = len(range(0, len(teacher), interval))
        if count not in counts:
            counts.add(count)
            for branch in range(branches):
                yield Seed("deepcache", f"DeepCache {interval}, branch {branch}", deepcache(teacher, interval, branch))


def spectrum(teacher: Sequence[int], warm_up: int, growth: float) -> Candidate:
    """Spectrum (arXiv 2603.01623): full steps at first, then one full step in a window that grows after each; the
    others forecast the feature before the output head."""
    forecast = Action("partial", -1, "spectrum")
    actions, window = [FULL] * warm_up, float(WINDOW)
    while len(actions) < len(teacher):
        actions += [forecast] * (int(window) - 1) + [FULL]
        window += growth
    return make_candidate(teacher, actions[: len(teacher)])


def easycache(teacher: Sequence[int], interval: int) -> Candidate:
    """As EasyCache and LazyCache in ComfyUI, at fixed places: between every `interval`-th step only the output head
    runs, on the last feature; not in the first and last part of the run."""
    count, head = len(teacher), Action("partial", -1, "reuse")
    first, last = (round(part * count) for part in PROTECTED)
    return make_candidate(
        teacher, [head if first <= i < last and (i - first) % interval else FULL for i in range(count)]
    )


def forecast_seeds(teacher: Sequence[int], costs: CostTable, target: float) -> Iterator[Seed]:
    """Spectrum and EasyCache as costly as the target (in full steps) allows."""
    for warm_up in WARM_UPS:
        for growth in GROWTHS:
            candidate = spectrum(teacher, warm_up, growth)
            if near(candidate.cost(costs), [target]):
                yield Seed("spectrum", f"Spectrum, warm-up {warm_up}, window {WINDOW} + {growth:g}", candidate)
                break
    for interval in range(2, len(teacher) + 1):
        candidate = easycache(teacher, interval)
        if near(candidate.cost(costs), [target]):
            yield Seed("easycache", f"EasyCache, one full step in {interval}", candidate)
            break


def alternating(places: Sequence[int], branch: int, predictor: Predictor, partials: int = 1) -> Candidate:
    """A full step and so many partial ones by turns."""
    partial = Action("partial", branch, predictor)
    return make_candidate(places, [partial if i % (partials + 1) else FULL for i in range(len(places))])


def alternating_seeds(levels: NoiseLevels, costs: CostTable, target: float, branches: Sequence[int]) -> Iterator[Seed]:
    """Uniform full/partial alternation with each predictor, as many steps as the target cost (in full steps) allows."""
    for branch in branches:
        share = costs.partial[branch] / costs.full
        pairs, rest = divmod(target + 1e-9, 1 + share)
        count = 2 * int(pairs) + (1 if rest >= 1 else 0)
        if not 3 <= count <= len(levels):
            continue
        for spacing in TURNS:
            for predictor in DRAWN:
                name = f"full/partial by turns, branch {branch}, {predictor}, {spacing}, {count} steps"
                yield Seed("alternating", name, alternating(spaced_places(levels, count, spacing), branch, predictor))


def fitted_seeds(
    levels: NoiseLevels, costs: CostTable, targets: Sequence[float], branches: int, spacing: Spacing
) -> list[Seed]:
    """Where a search begins that fits a solver to every schedule, at the asked costs (in full steps): plain steps, and
    a full step and one to three partial ones by turns, spaced as the teacher.

    A fitted solver follows the teacher's own way, so the teacher's spacing is the natural one; and of the baselines the
    others are no place to begin: with weights fitted, the best of them had twice the error of these, for several times
    the network calls (benchmarks/README.md).
    """
    counts = sorted({int(target + 1e-9) for target in targets if target >= 1})
    found = list(plain_seeds(levels, counts))
    for target in sorted(targets):
        for branch in (branch for branch in (-1, 0) if branch < branches):
            for partials in IN_TURN:
                share = costs.partial[branch] / costs.full
                count = (1 + partials) * int((target + 1e-9) / (1 + partials * share))
                if 3 <= count <= len(levels):
                    name = f"a full step and {partials} of branch {branch} by turns, linear, {spacing}, {count} steps"
                    places = spaced_places(levels, count, spacing)
                    found.append(Seed("alternating", name, alternating(places, branch, "linear", partials)))
    return _distinct(found)


def evenly(places: Sequence[int], count: int) -> tuple[int, ...]:
    """As many of these places, evenly in position, from the first to the last; all of them where there are fewer."""
    last = len(places) - 1
    return tuple(places[round(i * last / max(1, count - 1))] for i in range(max(1, min(count, last + 1))))


def ruled(places: Sequence[int], speedup: float, target: float, costs: CostTable, kind: NoiseKind) -> Candidate:
    """The schedule of the rule (`flexiffusion.rule`) on a list of places, within a cost of `target` full steps: where
    it costs more, its last partial steps are left out, or, without any, middle ones."""
    made = rule(places, min(max(speedup, 1.0), FASTEST), ModelInfo("any", MAX_BRANCHES), kind, guided=False).plan
    steps = list(zip(places, made.actions(), strict=True))
    while sum(costs.of(action) for _, action in steps) > target * costs.full and len(steps) > 3:
        partials = [i for i, (_, action) in enumerate(steps) if action.kind == "partial"]
        del steps[partials[-1] if partials else len(steps) // 2]
    return make_candidate([place for place, _ in steps], [action for _, action in steps])


def listed_seeds(
    places: Sequence[int], costs: CostTable, targets: Sequence[float], rules: Sequence[Candidate]
) -> list[Seed]:
    """Where a search on one list of places begins, at the asked costs (in full steps): each one's schedule of the rule
    (`rules`, in the targets' order), fewer of the places, and a full step and one or two partial ones by turns."""
    found = []
    for target, own in zip(targets, rules, strict=True):
        found.append(Seed("alternating", f"the rule, {target:.3g} steps", own))
        found.append(Seed("plain", f"{int(target)} steps", plain(evenly(places, int(target)))))
        for branch in costs.partial:
            share = costs.partial[branch] / costs.full
            for partials in IN_TURN[:2]:
                count = (1 + partials) * int(target / (1 + partials * share))
                if 3 <= count <= len(places):
                    turns = alternating(evenly(places, count), branch, "linear", partials)
                    found.append(Seed("alternating", f"turns, branch {branch}, {count} steps", turns))
    return _distinct(found)


def all_seeds(
    levels: NoiseLevels, teacher: Sequence[int], costs: CostTable, targets: Sequence[float], branches: int
) -> list[Seed]:
    """Every baseline at the asked costs (in full steps), without repetitions; the strongest rivals first.

    DeepCache at every interval and branch whose cost is within 20 % below an asked one: at most as costly, and worth
    comparing.
    """
    counts = sorted({int(target + 1e-9) for target in targets if target >= 1})
    found: list[Seed] = list(plain_seeds(levels, counts))
    for target in sorted(targets):
        found += alternating_seeds(levels, costs, target, (-1, 0))
        found += forecast_seeds(teacher, costs, target)
    found += [seed for seed in deepcache_seeds(teacher, branches) if near(seed.candidate.cost(costs), targets)]
    unique: dict[str, Seed] = {}
    for seed in found:
        unique.setdefault(seed.candidate.key, seed)
    return list(unique.values())


def near(cost: float, targets: Sequence[float]) -> bool:
    """Whether a cost is at most one of the targets, and at least 80 % of it."""
    return any(0.8 * target <= cost <= target + 1e-9 for target in targets)


def _distinct(seeds: Sequence[Seed]) -> list[Seed]:
    """Without repetitions: of equal schedules the first one's name, at the last one's place."""
    return list({seed.candidate.key: seed for seed in reversed(seeds)}.values())[::-1]
