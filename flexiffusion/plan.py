"""Schedule x noise levels -> one action per evaluated level. Pure: the same arguments always give the same plan.

Actions belong to noise levels, never to call counts (docs/design.md, rule 1), so split, tiled and repeated calls agree.
Noise levels are sigmas as in k-diffusion, sqrt((1 - abar) / abar).
"""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .checks import MAX_STEPS, one_of, shown, whole
from .errors import ScheduleError
from .schedule import FULL, Action, Schedule, Segment, SegmentsPlan, StepsPlan, span
from .thinning import thinned

LevelMapping = Literal["position", "level"]

TOLERANCE = 1e-3  # hosts and solvers reach "the same" level with rounding errors of up to 1e-6 (half precision: 5e-4)
# Part of the gap to the level above (in log sigma) by which a level may be exceeded and still be meant. Less than half:
# second-order solvers evaluate half-way between two levels, and that belongs to the step in progress, which is above.
REACH = 0.45
SLACK = 0.5  # levels by which a partial step may be farther from its full step than in the schedule, see `_near_enough`
FITTED_TOLERANCE = 0.01  # part by which a first level may differ from the one that a solver was fitted to
FEWEST_STEPS = 5  # below this there is nothing worth saving and a lot to lose


@dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate in one sampling run.

    levels:  the evaluated noise levels, without nulls and without the final 0; falling, unless everything is full
    actions: full or partial, one per level; the first is full
    nulls:   how many of the host's levels are taken out
    warning: what the user should be told once, or None
    weights: of a schedule that brings its own solver, for each level what the new prediction and those before it count
             for, newest first; an entry of None: DPM-Solver++ 2M's. None altogether: the host's solver runs
    """

    levels: tuple[float, ...]
    actions: tuple[Action, ...]
    nulls: int
    warning: str | None = None
    weights: tuple[tuple[float, ...] | None, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.actions):
            raise ScheduleError(
                "Plan.actions", f"{len(self.actions)} actions for {len(self.levels)} levels", "Give one per level"
            )
        if any(action.kind == "null" for action in self.actions):
            raise ScheduleError("Plan.actions", "a null action is listed", "Leave its level out and count it in nulls")
        if self.weights is not None and len(self.weights) != len(self.levels):
            raise ScheduleError(
                "Plan.weights", f"{len(self.weights)} rows for {len(self.levels)} levels", "Give one per level"
            )
        if self.actions and self.actions[0].kind != "full":
            raise ScheduleError("Plan.actions[0]", f"the first action is {self.actions[0].kind}", "Make it full")

    def index_at(self, sigma: float) -> int:
        """Index of the listed level that an evaluation at sigma belongs to, see `index_at` (rule 1)."""
        return index_at(self.levels, sigma)


def index_at(levels: Sequence[float], sigma: float) -> int:
    """Index of the one of the falling `levels` that an evaluation at `sigma` belongs to; 0 above all of them.

    It is the last level at or above `sigma`, whose step is in progress, or the one below where `sigma` exceeds it by
    less than 0.45 of the gap between the two, in log sigma. Samplers that add noise first (s_churn), or tell the
    network another level than the listed one, go above it by a little; rounding errors do no harm either.
    """
    return _last(_reaches(levels), sigma)


def _reaches(levels: Sequence[float]) -> list[float]:
    """For each level the highest noise level that still counts as it."""
    return [_towards(level, levels[i - 1] if i else None, levels[i + 1 : i + 2]) for i, level in enumerate(levels)]


def _lowest(levels: Sequence[float]) -> list[float]:
    """For each level the lowest noise level at which a run that begins there takes its place."""
    below = [*levels[1:], None]
    return [_towards(level, below[i], levels[i - 1 : i] if i else ()) for i, level in enumerate(levels)]


def _towards(level: float, other: float | None, opposite: Sequence[float]) -> float:
    """`REACH` of the way from a level to the other, in log sigma; where there is none, of the gap on the opposite side,
    mirrored. A level that has no such neighbour, or that a sampler cannot use, counts alone."""
    if other is None and opposite:
        other = level**2 / opposite[0] if opposite[0] > 0 else None
    if other is None or not (0 < level < math.inf and 0 < other < math.inf):
        return level
    return level * math.pow(other / level, REACH)


def _last(reaches: Sequence[float], sigma: float) -> int:
    return max((i for i, reach in enumerate(reaches) if reach >= sigma), default=0)


def _place(levels: Sequence[float], sigma: float) -> float:
    """Where `sigma` lies among the falling `levels`, in levels: 2.5 is half-way (in log sigma) from the third to the
    fourth. Above the first and below the last the gap next to it goes on."""
    if len(levels) < 2:
        return 0.0
    i = min(max(bisect.bisect_left(levels, -sigma, key=operator.neg) - 1, 0), len(levels) - 2)
    return i + math.log(levels[i] / sigma) / math.log(levels[i] / levels[i + 1])


def needed(actions: Sequence[Action]) -> list[frozenset[tuple[int, int]]]:
    """For every step the (full step, branch) of earlier features that it, or a later step, reads."""
    uses, _ = uses_of(actions)
    return [
        frozenset(
            (full, branch)
            for full in range(step)
            if actions[full].kind == "full"
            for branch, until in uses[full].items()
            if until >= step
        )
        for step in range(len(actions))
    ]


def uses_of(actions: Sequence[Action]) -> tuple[list[dict[int, int]], list[int]]:
    """For every step the branches that a full call there must capture, each with the last step that needs it; and the
    last full step at or before every step.

    A partial step needs as many of the last full steps before it as its predictor reads. A partial step has an entry
    too: a miss there stands in for the last full step.
    """
    uses: list[dict[int, int]] = [{} for _ in actions]
    last_full: list[int] = []
    fulls: list[int] = []
    for step, action in enumerate(actions):
        if action.kind == "full":
            fulls.append(step)
        elif action.branch is not None:
            for full in fulls[-span(action.predictor) :]:
                uses[full][action.branch] = step
        last_full.append(fulls[-1] if fulls else step)
    for step, full in enumerate(last_full):
        if step != full:
            uses[step] = {branch: until for branch, until in uses[full].items() if until >= step}
    return uses, last_full


def require_host_solver(schedule: Schedule) -> None:
    """Refuses a schedule that brings its own solver, where the host's would run: its levels suit no other.

    Raises ScheduleError.
    """
    if isinstance(schedule.plan, StepsPlan) and schedule.plan.weights is not None:
        raise ScheduleError(
            schedule.name,
            "it brings its own solver (weights fitted to its steps), which cannot be run here",
            "Choose a sampler that works in sigmas, such as Euler, or a schedule without weights",
        )


def plan_for(
    schedule: Schedule,
    sigmas: Sequence[float],
    mapping: LevelMapping = "position",
    end: float = 0.0,
    start: int = 0,
    own_solver: bool = False,
    within: tuple[float, float] = (math.inf, 0.0),
) -> Plan:
    """The plan of one sampling run over the host's own list of noise levels.

    sigmas: the levels that are evaluated, falling; the picture itself, a trailing 0, is allowed and always stays.
    mapping, for segments plans: "position": the i-th level has the i-th action, and a list of another length has the
    segments stretched over it; "level": the schedule's recorded `levels` decide, which is right for slices of a list. A
    partial step that would be much farther from its full step than in the schedule then runs in full, with a warning.
    The first level always stays and is full.
    start: index of the level that the run begins at (img2img). The whole list is what segments are laid over; what is
    before `start` is not run and not counted.

    A steps plan replaces the host's levels by its own below the host's first level, which stays and is full, and above
    `end`, where the run stops (0: the picture itself; else it leaves noise for another run to take out). The plan never
    evaluates more levels than the run has without it: a steps plan of more is thinned to as many (`thinning`), or steps
    aside where nothing would be saved or its solver would not fit, with a warning: the host's own levels, all in full.
    Levels that rise, repeat or are not finite and positive, and lists of < 5 or > 1000, run in full with a warning.
    own_solver: the caller runs the solver that a schedule may bring (`StepsPlan.weights`).
    within: the highest and the lowest noise level at which the schedule may save; every step above or below is full.
    Raises ScheduleError when "level" is asked of a schedule that records no levels, and without `own_solver` for one
    that brings its own.
    """
    if not own_solver:
        require_host_solver(schedule)
    one_of("mapping", mapping, ("position", "level"))
    levels = tuple(float(sigma) for sigma in sigmas)
    if levels and levels[-1] == 0:
        levels = levels[:-1]
    whole("start", start, 0, max(len(levels) - 1, 0))
    run = levels[start:]
    refused = _unfit(levels, len(run))
    if refused:
        return Plan(run, (FULL,) * len(run), 0, f"{schedule.name}: {refused}; every step runs in full")
    if isinstance(schedule.plan, StepsPlan):
        plan = _steps(schedule.name, schedule.plan, run, end)
        return replace(plan, actions=tuple(_full_outside(plan.actions, plan.levels, within)))
    warning = None
    if mapping == "level":
        if schedule.levels is None:
            raise ScheduleError(
                f"{schedule.name}: $.levels", "the schedule records no noise levels", 'Use the mapping "position"'
            )
        actions, warning = _by_level(schedule.name, schedule.plan.actions(), schedule.levels, levels, start)
    else:
        segments = schedule.plan
        if segments.total_steps != len(levels):
            laid = "repeated" if _uniform(segments) else "stretched"
            measured = schedule.provenance.kind == "searched" or schedule.metrics
            if measured or not _uniform(segments):  # an interval that nobody measured is meant for any number of steps
                warning = f"{schedule.name} was made for {segments.total_steps} steps and is {laid} over {len(levels)}"
                warning += "; its quality was not measured there" if measured else ""
            segments = stretched(segments, len(levels))
        actions = list(segments.actions())
    return _with_nulls_out(run, _full_outside(actions[start:], run, within), warning)


def _full_outside(actions: Sequence[Action], levels: Sequence[float], within: tuple[float, float]) -> list[Action]:
    high, low = within
    return [
        action if action.kind == "full" or low <= level <= high else FULL
        for level, action in zip(levels, actions, strict=True)
    ]


def _by_level(
    name: str, recorded: Sequence[Action], recorded_levels: Sequence[float], levels: Sequence[float], start: int
) -> tuple[list[Action], str | None]:
    """For each of the host's levels the action of the recorded one that it belongs to, and what to tell the user.

    How far a partial step is from the last full one is counted in recorded levels. Where the host's levels lie closer,
    or the run begins in mid-segment, many would follow one full step; one that is farther from it than the schedule has
    it, by more than `SLACK`, runs in full.
    """
    reaches = _reaches(recorded_levels)
    fulls = [max(j for j in range(i + 1) if recorded[j].kind == "full") for i in range(len(recorded))]
    actions, inserted = [], 0
    last = math.inf  # place of the last full step
    for i, level in enumerate(levels):
        found, place = _last(reaches, level), _place(recorded_levels, level)
        action = recorded[found]
        if i == start:
            action = action if action.kind == "full" else FULL
        elif action.kind == "partial" and place - last > found - fulls[found] + SLACK:
            action, inserted = FULL, inserted + (i > start)
        if action.kind == "full":
            last = place
        actions.append(action)
    warning = (
        f"{name}: {inserted} partial steps run in full, as this run's noise levels put them too far from the full step "
        "before them"
    )
    return actions, warning if inserted else None


def stretched(plan: SegmentsPlan, total: int) -> SegmentsPlan:
    """The segments over `total` steps: every boundary and every number of active steps scaled by the same factor.

    Each segment keeps its one full step (scaling the actions one by one would double or lose it); one that shrinks to
    no step at all is left out. Where all segments are alike the rule is their length (DeepCache's interval), which
    stays: as many as there is room for, the last one cut. Shrunk, they would have no partial steps left.
    """
    if _uniform(plan):
        each = plan.segments[0]
        count, rest = divmod(total, each.steps)
        last = [Segment(rest, min(each.active, rest), each.branch, each.predictor)] if rest else []
        return SegmentsPlan((*[each] * count, *last), plan.layout, plan.noise)
    segments = []
    begin = before = 0
    for segment in plan.segments:
        begin += segment.steps
        end = round(begin * total / plan.total_steps)
        if end > before:
            active = round(segment.active * (end - before) / segment.steps)
            segments.append(Segment(end - before, min(max(active, 1), end - before), segment.branch, segment.predictor))
            before = end
    return SegmentsPlan(tuple(segments), plan.layout, plan.noise)


def _uniform(plan: SegmentsPlan) -> bool:
    return len(plan.segments) > 1 and len(set(plan.segments)) == 1


def _with_nulls_out(levels: tuple[float, ...], actions: Sequence[Action], warning: str | None) -> Plan:
    row = [(level, action) for level, action in zip(levels, (FULL, *actions[1:]), strict=True) if action.kind != "null"]
    return Plan(tuple(level for level, _ in row), tuple(action for _, action in row), len(levels) - len(row), warning)


def _steps(name: str, plan: StepsPlan, levels: tuple[float, ...], end: float) -> Plan:
    # the steps that the host's first level comes after, and the one that it is nearest to: it takes their place
    passed = sum(reach >= levels[0] for reach in _reaches(plan.levels))
    first = plan.steps[passed - 1].action if passed else FULL
    start = first if first.kind == "full" else FULL
    # a step at `end`, or near it, belongs to the run that begins there
    rest = zip(plan.steps[passed:], _lowest(plan.levels)[passed:], strict=True)
    below = [step for step, lowest in rest if lowest > end]
    own = (levels[0], *(step.sigma for step in below))
    actions, nulls = (start, *(step.action for step in below)), max(0, len(levels) - len(own))
    if len(own) > len(levels):
        return _thinned(name, plan, own, actions, levels)
    if plan.weights is None:
        return Plan(own, actions, nulls)
    weights, warning = _own_weights(name, plan, passed, own, end)
    return Plan(own, actions, nulls, warning, weights)


def _thinned(
    name: str, plan: StepsPlan, own: tuple[float, ...], actions: tuple[Action, ...], levels: tuple[float, ...]
) -> Plan:
    """The plan where a schedule has more steps, `own`, than the host would run without it, `levels`."""
    asked = len(levels)
    more = f"{name} has {len(own)} steps here and {asked} were asked for"
    kept, kept_actions = thinned(own, actions, asked)
    if plan.weights is not None:
        why = f"its own solver is fitted to all of them (ask for {len(own)} steps or more)"
    elif all(action == FULL for action in kept_actions):
        why = f"with {asked} it would save nothing"
    else:
        return Plan(kept, kept_actions, 0, f"{more}: it is thinned to {asked}")
    everything = "every step runs in full, on the sampler's own noise levels"
    return Plan(levels, (FULL,) * asked, 0, f"{more}: {why}, so it is not used; {everything}")


def _own_weights(
    name: str, plan: StepsPlan, passed: int, levels: tuple[float, ...], end: float
) -> tuple[tuple[tuple[float, ...] | None, ...], str | None]:
    """The weights of a run over these levels, which are the plan's but for the first, and what to tell where some of
    them cannot be used; passed: how many of the plan's steps lie at the first level or above it.

    Weights were fitted to a run from the plan's first level on. A run that begins lower lacks earlier predictions, and
    its first level is none of the plan's: until no step reads either of them, DPM-Solver++ 2M's are used. The same goes
    for a last step that does not arrive where it was fitted to, because the run ends at another level.
    """
    assert plan.weights is not None
    rows = [*plan.weights[passed - 1 :]] if passed else [(), *plan.weights]
    whole_run = passed == 1 and is_fitted_level(levels[0], plan.levels[0])
    fitted: list[tuple[float, ...] | None] = [
        row if whole_run or (row and i >= len(row)) else None for i, row in enumerate(rows[: len(levels)])
    ]
    if end > 0:
        fitted[-1] = None
    count = sum(row is None for row in fitted)
    warning = (
        f"{name}: {count} of {len(fitted)} steps are taken by DPM-Solver++ 2M, because the run does not begin or end "
        "where the schedule's own solver was fitted to"
    )
    return tuple(fitted), warning if count else None


def is_fitted_level(level: float, other: float) -> bool:
    """Whether a noise level is near enough to the one that a solver was fitted to."""
    return abs(level - other) <= FITTED_TOLERANCE * other


def _unfit(levels: tuple[float, ...], steps: int) -> str | None:
    for i, level in enumerate(levels):
        if not (math.isfinite(level) and level > 0):
            return f"noise level {i} is {shown(level)}"
        if i and level >= levels[i - 1]:
            return f"noise level {i}, {level:.6g}, is not below the one before it"
    if steps < FEWEST_STEPS:
        return f"{steps} steps are too few"
    if len(levels) > MAX_STEPS:
        return f"{len(levels)} steps are more than {MAX_STEPS}"
    return None
