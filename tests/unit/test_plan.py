"""Schedule x noise levels -> actions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from drawn_schedules import own_solver, schedule, segments, steps
from hypothesis import example, given
from hypothesis import strategies as st

from flexiffusion.errors import ScheduleError
from flexiffusion.metadata import Metric
from flexiffusion.plan import Plan, index_at, plan_for, stretched
from flexiffusion.schedule import FULL, NULL, Action, Schedule, Segment, SegmentsPlan, Step, StepsPlan
from flexiffusion.thinning import thinned

P0, P1 = Action("partial", 0), Action("partial", 1)


def drawn(text: str) -> Schedule:
    return schedule(segments(text), "test")


def pattern(plan: Plan) -> str:
    return "".join(action.kind[0].upper() for action in plan.actions)


def flow_levels(shift: float, steps: int) -> list[float]:
    """What ComfyUI's ModelSamplingDiscreteFlow gives: s = shift t / (1 + (shift - 1) t) at t = 1, ..., 1 / steps."""
    times = [1 - i / steps for i in range(steps)]
    return [shift * t / (1 + (shift - 1) * t) for t in times]


def falling_levels() -> st.SearchStrategy[list[float]]:
    """Lists in which each level is a ratio below the one before it, from a rounding error to a factor."""
    ratios = st.lists(st.floats(1e-12, 0.9), min_size=1, max_size=30)
    return ratios.map(lambda steps: list(itertools.accumulate([1 - r for r in steps], float.__mul__, initial=10.0)))


TEN = tuple(float(sigma) for sigma in range(10, 0, -1))


class TestByPosition:
    def test_the_host_list_of_the_same_length(self) -> None:
        plan = plan_for(drawn("FPPNN FPPPP"), TEN)
        assert plan == Plan((10.0, 9.0, 8.0, 5.0, 4.0, 3.0, 2.0, 1.0), (FULL, P1, P1, FULL, P1, P1, P1, P1), 2)

    def test_a_trailing_zero_changes_nothing(self) -> None:
        for made in (drawn("FPPNN FPPPP"), drawn("FPNNN FNNNN")):
            assert plan_for(made, (*TEN, 0.0)) == plan_for(made, TEN)

    def test_a_null_at_the_end_jumps_to_the_picture(self) -> None:
        plan = plan_for(drawn("FNNNN FPNNN"), (*TEN, 0.0))
        assert plan.levels == (10.0, 5.0, 4.0)
        assert plan.actions == (FULL, FULL, P1)
        assert plan.nulls == 7

    @pytest.mark.parametrize("total", [5, 7, 13, 20, 30, 37])
    def test_another_length_keeps_one_full_step_per_segment(self, total: int) -> None:
        given = drawn("FPNN FPN FNN")
        levels = tuple(float(total - i) for i in range(total))
        plan = plan_for(given, levels)
        assert plan.warning is not None and "10 steps" in plan.warning and f"over {total}" in plan.warning
        assert pattern(plan).count("F") == 3
        assert plan.levels[0] == levels[0]
        assert plan.nulls + len(plan.levels) == total

    @pytest.mark.parametrize(("total", "expected"), [(8, "FPPFPPFP"), (6, "FPPFPP"), (13, "FPPFPPFPPFPPF")])
    def test_deepcache_keeps_its_interval(self, total: int, expected: str) -> None:
        """Stretched over eight steps, ten segments of three would be eight full steps."""
        plan = plan_for(drawn("FPP " * 10), tuple(float(total - i) for i in range(total)))
        assert pattern(plan) == expected
        assert plan.warning is None, "the interval is the rule, and nobody measured it anywhere"
        measured = replace(drawn("FPP " * 10), metrics=(Metric("relative_fid", 3.0, 256),))
        said = plan_for(measured, plan.levels).warning
        assert said is not None and f"repeated over {total}; its quality was not measured there" in said

    def test_one_segment_is_stretched(self) -> None:
        assert stretched(SegmentsPlan((Segment(5, 2),)), 10) == SegmentsPlan((Segment(10, 4),))

    def test_twice_the_length_is_the_same_shape(self) -> None:
        plan = SegmentsPlan((Segment(4, 2, 1), Segment(1, 1, 2), Segment(5, 3, 3, "linear")), "even")
        double = SegmentsPlan((Segment(8, 4, 1), Segment(2, 2, 2), Segment(10, 6, 3, "linear")), "even")
        assert stretched(plan, 20) == double
        assert stretched(plan, 10) == plan

    @given(
        st.lists(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), min_size=1, max_size=12)
    )
    def test_stretching_always_fills_the_list(self, parts: list[tuple[int, int]]) -> None:
        plan = SegmentsPlan(tuple(Segment(steps, active) for steps, active in parts))
        for total in (1, 4, 5, 17, 100):
            assert stretched(plan, total).total_steps == total


class TestByLevel:
    SCHEDULE = schedule(SegmentsPlan((Segment(5, 3, 1), Segment(5, 2, 0))), levels=TEN)

    def test_the_recorded_list_itself(self) -> None:
        assert plan_for(self.SCHEDULE, TEN, "level") == plan_for(self.SCHEDULE, TEN)

    def test_a_slice_of_the_list_has_its_own_part(self) -> None:
        plan = plan_for(self.SCHEDULE, TEN[1:8], "level")
        assert plan.levels == (9.0, 8.0, 5.0, 4.0)
        assert plan.actions == (FULL, P1, FULL, P0)  # started: full
        assert plan.nulls == 3 and plan.warning is None

    def test_levels_between_and_outside(self) -> None:
        plan = plan_for(self.SCHEDULE, (20.0, 9.5, 9.0 * (1 + 5e-4), 8.9, 4.5, 0.2), "level")
        # 20: above all, the first; 9.5 is 10's (full), 9.0045 is 9's, 8.9 too, 4.5 is 5's, 0.2 is 1's (null)
        assert plan.actions == (FULL, FULL, P1, P1, FULL)

    EVEN = (14.615, 7.302, 4.086, 2.496, 1.616, 1.071, 0.695, 0.4)  # eight levels even in Stable Diffusion's time
    TURNS = schedule(segments("FP " * 4), "turns", levels=EVEN)

    def test_a_partial_step_is_never_far_from_its_full_one(self) -> None:
        """The lower half of 12 Karras levels ran FFPPPP, a tail of 8 FPPPPPPP."""
        ends = 14.6146 ** (1 / 7), 0.0292 ** (1 / 7)
        lower = [(ends[0] + i / 11 * (ends[1] - ends[0])) ** 7 for i in range(6, 12)]
        plan = plan_for(self.TURNS, lower, "level")
        assert pattern(plan) == "FFPFPF"
        assert plan.warning is not None and plan.warning.startswith("turns: 2 partial steps run in full")

    def test_the_distance_is_counted_in_the_schedules_own_levels(self) -> None:
        fine = [
            math.exp(math.log(a) * (1 - t) + math.log(b) * t)
            for a, b in itertools.pairwise(self.EVEN)
            for t in (0, 0.5)
        ]
        plan = plan_for(self.TURNS, fine, "level")
        assert pattern(plan) == "FFPPFFPPFFPPFF" and plan.warning is None
        long = schedule(segments("FPPP FPPP"), "long", levels=self.EVEN)
        assert pattern(plan_for(long, fine, "level")) == "FFPPPPPPFFPPPP"

    def test_without_recorded_levels_it_is_refused(self) -> None:
        with pytest.raises(
            ScheduleError, match=r"test: \$.levels: the schedule records no noise levels. Use the mapping"
        ):
            plan_for(drawn("FPPNN FPPPP"), TEN, "level")

    def test_an_unknown_mapping_is_refused(self) -> None:
        with pytest.raises(ScheduleError, match="'time' is not known here"):
            plan_for(self.SCHEDULE, TEN, "time")  # type: ignore[arg-type]


class TestOwnSolver:
    """Which of a file's weights can be used, by where a run begins and ends."""

    LEVELS = (14.6, 9.0, 4.0, 2.0, 1.0, 0.4)
    ROWS = ((1.0,), (1.2, -0.2), (1.3, -0.4, 0.1), (1.1, -0.1), (1.0,), (0.8, 0.1, 0.1))
    OWN = schedule(StepsPlan(tuple(Step(level, FULL, row) for level, row in zip(LEVELS, ROWS, strict=True))))

    def test_a_whole_run_has_all(self) -> None:
        plan = plan_for(self.OWN, (14.61, 8.0, 6.0, 2.0, 1.0, 0.5, 0.0), own_solver=True)
        assert plan.weights == self.ROWS and plan.warning is None

    def test_a_tail_has_those_that_read_none_of_what_is_missing(self) -> None:
        plan = plan_for(self.OWN, (6.0, 4.5, 3.0, 2.5, 1.5, 0.7), own_solver=True)
        assert plan.levels == (6.0, 4.0, 2.0, 1.0, 0.4)
        # at 4.0 the row reads three predictions, of which one was made; that at 2.0 reads its own and that of 4.0
        assert plan.weights == (None, None, *self.ROWS[3:])
        assert plan.warning is not None and "2 of 5 steps are taken by DPM-Solver++ 2M" in plan.warning

    def test_a_start_above_has_a_step_of_the_usual_solver_more(self) -> None:
        plan = plan_for(self.OWN, (20.0, 8.0, 6.0, 2.0, 1.0, 0.5, 0.4), own_solver=True)
        assert plan.levels == (20.0, *self.LEVELS)
        assert plan.weights == (None, *self.ROWS)

    def test_a_run_that_ends_early_arrives_by_the_usual_solver(self) -> None:
        plan = plan_for(self.OWN, (14.6, 8.0, 6.0, 4.0, 3.0), end=1.4, own_solver=True)
        assert plan.levels == self.LEVELS[:4]
        assert plan.weights == (*self.ROWS[:3], None)

    def test_too_few_steps_are_the_hosts_own(self) -> None:
        assert plan_for(self.OWN, (14.6, 1.0), own_solver=True).weights is None


class TestSteps:
    PLAN = StepsPlan((Step(14.6, FULL), Step(9.0, P0), Step(4.0, FULL), Step(1.5, P1), Step(0.4, FULL)))
    SCHEDULE = schedule(PLAN)

    def test_own_levels_replace_the_hosts(self) -> None:
        plan = plan_for(self.SCHEDULE, (14.61, 8.0, 6.0, 4.0, 2.0, 1.0, 0.5, 0.0))
        assert plan.levels == (14.61, 9.0, 4.0, 1.5, 0.4)  # the start level is the host's own number
        assert plan.actions == (FULL, P0, FULL, P1, FULL)
        assert plan.nulls == 2

    def test_one_that_brings_its_solver_is_refused_where_the_hosts_runs(self) -> None:
        own = replace(self.SCHEDULE, plan=own_solver(self.PLAN))
        with pytest.raises(ScheduleError, match=r"^drawn: it brings its own solver .* Choose a sampler that"):
            plan_for(own, (14.61, 8.0, 6.0, 4.0, 2.0))
        planned = plan_for(own, TEN, own_solver=True)
        assert replace(planned, weights=None, warning=None) == plan_for(self.SCHEDULE, TEN)

    def test_a_start_above_adds_one_full_step(self) -> None:
        plan = plan_for(self.SCHEDULE, (20.0, 8.0, 6.0, 4.0, 2.0, 1.0))
        assert plan.levels == (20.0, 14.6, 9.0, 4.0, 1.5, 0.4)
        assert plan.actions == (FULL, FULL, P0, FULL, P1, FULL)
        assert plan.nulls == 0

    def test_a_start_below_runs_the_tail_from_a_full_step(self) -> None:
        plan = plan_for(self.SCHEDULE, (3.0, 2.0, 1.5, 1.0, 0.5, 0.0))
        assert plan.levels == (3.0, 1.5, 0.4)
        assert plan.actions == (FULL, P1, FULL)

    def test_a_start_on_a_partial_level_is_full(self) -> None:
        plan = plan_for(self.SCHEDULE, (1.5, 1.2, 1.0, 0.7, 0.5))
        assert plan.levels == (1.5, 0.4) and plan.actions == (FULL, FULL)

    def test_the_start_keeps_what_its_full_step_drops(self) -> None:
        full = Action("full", drop=("a",))
        plan = plan_for(schedule(StepsPlan((Step(9.0, full), Step(1.0, P0)))), (9.0, 7.0, 5.0, 3.0, 1.0))
        assert plan.actions == (full, P0)


@pytest.mark.parametrize(
    ("sigmas", "reason"),
    [
        ((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), "noise level 1, 2, is not below"),
        ((6.0, 5.0, 5.0, 4.0, 3.0, 2.0), "noise level 2, 5, is not below"),
        ((math.inf, 5.0, 4.0, 3.0, 2.0, 1.0), "noise level 0 is inf"),
        ((6.0, math.nan, 4.0, 3.0, 2.0, 1.0), "noise level 1 is nan"),
        ((6.0, 5.0, 4.0, 3.0, -2.0, -3.0), "noise level 4 is -2.0"),
        ((6.0, 5.0, 4.0, 3.0, 0.0, 0.0), "noise level 4 is 0.0"),
        ((4.0, 3.0, 2.0, 1.0, 0.0), "4 steps are too few"),
        ((), "0 steps are too few"),
        (tuple(float(sigma) for sigma in range(1001, 0, -1)), "1001 steps are more than 1000"),
        ((0.0,), "0 steps are too few"),
    ],
)
@pytest.mark.parametrize("given", [drawn("FNN FPN"), TestSteps.SCHEDULE])
def test_lists_that_no_schedule_fits_run_in_full(sigmas: tuple[float, ...], reason: str, given: Schedule) -> None:
    plan = plan_for(given, sigmas)
    assert plan.warning is not None and reason in plan.warning and "every step runs in full" in plan.warning
    assert plan.nulls == 0
    assert len(plan.actions) == len(sigmas) - bool(sigmas and sigmas[-1] == 0)
    assert set(plan.actions) <= {FULL}
    for sigma in (*sigmas, 0.5, 100.0):
        assert not plan.actions or plan.actions[plan.index_at(sigma)] == FULL


class TestWithin:
    """Start and end of the acceleration: outside of them every step is full."""

    def test_segments(self) -> None:
        plan = plan_for(drawn("FPPNN FPPPP"), TEN, within=(8.5, 2.5))
        assert plan.levels == (10.0, 9.0, 8.0, 5.0, 4.0, 3.0, 2.0, 1.0)
        assert pattern(plan) == "FFPFPPFF"

    def test_null_steps_outside_run(self) -> None:
        plan = plan_for(drawn("FNNNN FPPPP"), TEN, within=(8.5, 0.0))
        assert plan.levels == (10.0, 9.0, 5.0, 4.0, 3.0, 2.0, 1.0) and pattern(plan) == "FFFPPPP"

    def test_steps(self) -> None:
        own = schedule(steps((10.0, "F"), (6.0, "P"), (3.0, "F"), (1.5, "P"), (0.5, "F"), (0.2, "P")))
        assert pattern(plan_for(own, TEN, within=(5.0, 0.4))) == "FFFPFF"
        assert pattern(plan_for(own, TEN)) == "FPFPFP"


class TestLookUp:
    PLAN = Plan((10.0, 5.0, 1.0), (FULL, P0, P1), 0)

    @pytest.mark.parametrize(
        ("sigma", "index"),
        [
            (99.0, 0),
            (10.0, 0),
            (9.0, 0),
            (7.1, 0),
            (7.06, 0),  # half-way from 10 to 5 in log sigma is 7.07: the step in progress is that of 10
            (6.8, 1),
            (5.006, 1),
            (5.0, 1),
            (4.99, 1),
            (2.1, 1),
            (2.0, 2),
            (1.001, 2),
            (1.0, 2),
            (0.1, 2),
            (0.0, 2),
        ],
    )
    def test_the_step_in_progress_or_the_one_that_is_a_little_exceeded(self, sigma: float, index: int) -> None:
        assert self.PLAN.index_at(sigma) == index

    @given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30, unique=True), st.floats(1e-4, 1e4))
    def test_rule_1(self, levels: list[float], sigma: float) -> None:
        levels.sort(reverse=True)
        found = index_at(levels, sigma)
        assert found == 0 or sigma <= levels[found] * (levels[found - 1] / levels[found]) ** 0.4501
        assert all(level < sigma for level in levels[found + 1 :])

    @given(levels=falling_levels())
    @example(levels=flow_levels(12, 100))
    @example(levels=[1.0, 0.9995, 0.999, 0.5])
    @example(levels=[2.0, math.nextafter(2.0, 1), 1.0])
    def test_every_level_finds_itself(self, levels: list[float]) -> None:
        """Fault 6: of levels closer than 1e-3 the first took the action of a later one."""
        assert [index_at(levels, level) for level in levels] == list(range(len(levels)))

    @given(fraction=st.floats(-0.54, 0.44), steps=st.integers(5, 100))
    @example(fraction=0.2, steps=12)
    def test_an_evaluation_beside_its_level_belongs_to_it(self, fraction: float, steps: int) -> None:
        """s_churn raises a level before it is evaluated; Detail Daemon tells the network another one than is listed."""
        levels = flow_levels(3, steps)
        for i, level in enumerate(levels[1:-1], start=1):
            other = levels[i - 1] if fraction > 0 else levels[i + 1]
            assert index_at(levels, level * (other / level) ** abs(fraction)) == i

    def test_every_step_of_a_churned_run_is_its_own(self) -> None:
        """Euler with s_churn 1 over 12 levels evaluates each 8.3 % above its level: FFPFPFPFPFPF was run."""
        levels = [14.6146 * (0.03 / 14.6146) ** (i / 11) for i in range(12)]
        assert [index_at(levels, level * (1 + 1 / 12)) for level in levels] == list(range(12))

    @given(st.integers(5, 60))
    def test_midpoints_belong_to_the_step_in_progress(self, steps: int) -> None:
        """dpm_2, dpmpp_sde and seeds_2 evaluate half-way to the next level, in log sigma."""
        levels = [14.6146 * (0.03 / 14.6146) ** (i / (steps - 1)) for i in range(steps)]
        between = [math.sqrt(high * low) for high, low in itertools.pairwise(levels)]
        assert [index_at(levels, level) for level in between] == list(range(steps - 1))


@pytest.mark.parametrize(
    ("levels", "actions", "place"),
    [
        ((1.0,), (FULL, FULL), "Plan.actions"),
        ((2.0, 1.0), (FULL, NULL), "Plan.actions"),
        ((1.0,), (P0,), "Plan.actions[0]"),
    ],
)
def test_impossible_plans_are_refused(levels: tuple[float, ...], actions: tuple[Action, ...], place: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        Plan(levels, actions, 0)
    assert caught.value.place == place


def test_steps_closer_than_the_tolerance_all_run() -> None:
    """Fault 6: steps that were less than 1e-3 below the host's first level were taken for it and left out."""
    own = StepsPlan(
        tuple(Step(sigma, action) for sigma, action in ((1.0, FULL), (0.9995, P0), (0.999, P1), (0.3, FULL)))
    )
    plan = plan_for(schedule(own), (1.0, 0.8, 0.6, 0.4, 0.2, 0.0))
    assert (plan.levels, plan.actions) == ((1.0, 0.9995, 0.999, 0.3), (FULL, P0, P1, FULL))
    ends_between = plan_for(schedule(own), (1.0, 0.9998, 0.9997, 0.9996, 0.9995), end=0.9992)
    assert ends_between.levels == (1.0, 0.9995)


def test_two_runs_share_the_steps_of_a_plan() -> None:
    """The step where one run ends and the next begins is the second one's, also with rounding errors."""
    own = schedule(StepsPlan(tuple(Step(sigma, FULL) for sigma in (14.0, 9.0, 6.0, 4.0, 2.0, 1.0))))
    for met in (4.0, 4.001, 3.999):
        first = plan_for(own, (14.0, 12.0, 10.0, 8.0, 6.0), end=met)
        second = plan_for(own, (met, 3.5, 3.0, 2.5, 2.0))
        assert first.levels + second.levels == (14.0, 9.0, 6.0, met, 2.0, 1.0)


def test_a_steps_plan_stops_where_the_run_stops() -> None:
    own = schedule(StepsPlan(tuple(Step(float(sigma), FULL) for sigma in (14, 9, 6, 4, 2, 1))))
    host = (11.5, 8.0, 6.5, 5.0, 4.5, 4.2)
    assert plan_for(own, host).levels == (11.5, 9.0, 6.0, 4.0, 2.0, 1.0)
    assert plan_for(own, host, end=4.0).levels == (11.5, 9.0, 6.0)


@pytest.mark.parametrize("start", [0.558, 0.554, 0.5535])
def test_a_start_beside_a_step_takes_its_place(start: float) -> None:
    """Two full steps ran at levels 0.558 and 0.554."""
    own = schedule(steps((2.0, "F"), (1.2, "P"), (0.554, "F"), (0.3, "P"), (0.1, "F"), (0.05, "P")))
    plan = plan_for(own, [start * 0.8**i for i in range(8)])
    assert plan.levels == (start, 0.3, 0.1, 0.05) and pattern(plan) == "FPFP"


class TestNeverMoreThanAsked:
    """A schedule never costs more than what the host would have run without it, and says what becomes of it."""

    TURNS = schedule(steps(*((15.0 * 0.8**i, "FP"[i % 2]) for i in range(30))), "turns")

    @pytest.mark.parametrize("asked", [5, 6, 7, 8, 20, 29])
    def test_a_steps_plan_of_more_steps_is_thinned_to_the_asked_ones(self, asked: int) -> None:
        host = tuple(15.0 * (1 - i / asked) for i in range(asked))
        plan = plan_for(self.TURNS, host)
        assert pattern(plan) == ("FP" * asked)[:asked]
        assert plan.levels[0] == 15.0 and plan.levels[-1] == self.TURNS.plan.levels[-1]
        assert plan.nulls == 0
        assert plan.warning == f"turns has 30 steps here and {asked} were asked for: it is thinned to {asked}"

    def test_one_that_fits_is_left_as_it_is(self) -> None:
        host = tuple(15.0 * (1 - i / 30) for i in range(30))
        plan = plan_for(self.TURNS, host)
        assert plan.levels == self.TURNS.plan.levels and plan.warning is None

    def test_levels_keep_their_spacing(self) -> None:
        plan = plan_for(self.TURNS, tuple(15.0 * (1 - i / 8) for i in range(8)))
        ratios = [low / high for high, low in itertools.pairwise(plan.levels)]
        assert ratios == pytest.approx([0.8 ** (29 / 7)] * 7)

    def test_img2img_takes_no_more_steps_than_its_own_list_has(self) -> None:
        """AUTOMATIC1111 at denoising strength 0.3 and 20 steps runs 7 calls; the schedule's tail has more below it."""
        whole = tuple(15.0 * (1 - i / 23) ** 3 for i in range(23))
        plan = plan_for(self.TURNS, whole, start=16)
        assert plan.levels[0] == whole[16]
        assert pattern(plan) == "FPFPFPF" or pattern(plan) == "FFPFPFP"

    def test_one_that_would_save_nothing_steps_aside(self) -> None:
        placed = schedule(steps(*((15.0 * 0.5**i, "F") for i in range(10))), "placed")
        host = tuple(15.0 * (1 - i / 8) for i in range(8))
        plan = plan_for(placed, host)
        assert (plan.levels, set(plan.actions)) == (host, {FULL})
        assert "placed has 10 steps here and 8 were asked for: with 8 it would save nothing" in str(plan.warning)

    def test_one_with_a_fitted_solver_steps_aside(self) -> None:
        fitted = replace(self.TURNS, plan=own_solver(self.TURNS.plan))
        host = tuple(15.0 * (1 - i / 8) for i in range(8))
        plan = plan_for(fitted, host, own_solver=True)
        assert (plan.levels, set(plan.actions), plan.weights) == (host, {FULL}, None)
        assert "ask for 30 steps or more" in str(plan.warning)

    @given(
        st.lists(st.sampled_from("FPP"), min_size=1, max_size=40).map(lambda row: "".join(["F", *row])),
        falling_levels(),
        st.integers(0, 29),
        st.booleans(),
    )
    def test_whatever_the_schedule_and_the_list(self, row: str, host: list[float], start: int, solver: bool) -> None:
        own = steps(*((15.0 * 0.8**i, kind) for i, kind in enumerate(row)))
        given = schedule(own_solver(own) if solver else own)
        run = host[min(start, len(host) - 1) :]
        plan = plan_for(given, host, start=len(host) - len(run), own_solver=True)
        assert 0 < len(plan.levels) <= len(run)
        assert plan.levels[0] == run[0]
        assert all(low < high for high, low in itertools.pairwise(plan.levels))

    @given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 60))
    def test_thinning_keeps_whole_groups(self, sizes: list[int], count: int) -> None:
        row = [action for size in sizes for action in (FULL, *[P0] * (size - 1))]
        levels, actions = thinned([0.9**i for i in range(len(row))], row, count)
        assert len(levels) == len(actions) == min(count, len(row))
        found = "".join(action.kind[0].upper() for action in actions)
        *groups, last = [1 + len(group) for group in found.split("F")[1:]]
        rest = iter(sizes)
        assert all(any(size == group for size in rest) for group in groups)  # in their order
        assert any(size >= last for size in rest)


class TestStart:
    """A run that begins inside the list (img2img) takes the matching tail; its first step is full."""

    def test_the_tail_of_the_whole_list(self) -> None:
        whole, tail = plan_for(drawn("FPPNN FPPPP"), TEN), plan_for(drawn("FPPNN FPPPP"), TEN, start=5)
        assert (tail.levels, tail.nulls, tail.warning) == ((5.0, 4.0, 3.0, 2.0, 1.0), 0, None)
        assert tail.actions == whole.actions[3:] == (FULL, P1, P1, P1, P1)

    @pytest.mark.parametrize("start, expected", [(1, "FPFPPPP"), (2, "FFPPPP"), (3, "FFPPPP"), (5, "FPPP")])
    def test_a_start_on_a_partial_or_null_step_is_full(self, start: int, expected: str) -> None:
        plan = plan_for(drawn("FPPN FPPPPN"), TEN, start=start)
        assert plan.levels[0] == TEN[start]
        assert pattern(plan) == expected

    def test_the_whole_list_decides_whether_it_is_stretched(self) -> None:
        assert plan_for(drawn("FPPNN FPPPP"), TEN, start=5).warning is None
        assert plan_for(drawn("FPPNNNNNNN FPPPPNNNNN"), TEN, start=5).warning is not None

    def test_too_short_a_tail_is_full(self) -> None:
        plan = plan_for(drawn("FPPNN FPPPP"), TEN, start=6)
        assert (pattern(plan), plan.nulls) == ("FFFF", 0)
        assert "4 steps are too few" in str(plan.warning)

    def test_a_steps_plan_begins_there(self) -> None:
        steps = schedule(StepsPlan((Step(9.5, FULL), Step(5.5, P0), Step(2.5, FULL), Step(0.5, P0))))
        assert plan_for(steps, TEN, start=5).levels == (5.0, 2.5, 0.5)

    @pytest.mark.parametrize("start", [-1, 10, 1.5])
    def test_outside_of_the_list_is_refused(self, start: int) -> None:
        with pytest.raises(ScheduleError, match="start"):
            plan_for(drawn("FPPNN FPPPP"), TEN, start=start)
