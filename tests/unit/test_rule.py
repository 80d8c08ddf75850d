"""The rule: steps at the host's own levels, so many in full as the speed-up leaves, the first and the last too."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiffusion.errors import ScheduleError
from flexiffusion.plan import plan_for
from flexiffusion.rule import full_steps, gaps, places, rule
from flexiffusion.schedule import ModelInfo

MODEL = ModelInfo("sd15", 12)


def levels(count: int) -> list[float]:
    return [14.6 * 0.8**i for i in range(count)]


@given(st.integers(3, 200), st.floats(1, 4))
def test_full_steps_are_counted_and_lie_evenly(total: int, speedup: float) -> None:
    made = rule(levels(total), speedup, MODEL)
    actions = made.plan.actions()
    assert len(actions) == made.sampling.steps == total
    fulls = [i for i, action in enumerate(actions) if action.kind == "full"]
    assert tuple(fulls) == places(total, speedup)
    assert fulls[0] == 0 and fulls[-1] == total - 1
    assert len(fulls) == full_steps(total, speedup) == min(total, max(3, math.floor(total / speedup + 1e-9)))
    apart = [after - before for before, after in itertools.pairwise(fulls)]
    assert apart == sorted(apart) and apart[-1] - apart[0] <= 1
    others = {(action.kind, action.branch, action.predictor) for action in actions if action.kind != "full"}
    assert others <= {("partial", -1, "linear")}


def test_the_hosts_own_levels_all_stay() -> None:
    given = levels(20)
    plan = plan_for(rule(given, 2, MODEL), given)
    assert list(plan.levels) == given and plan.nulls == 0 and plan.warning is None
    assert "".join(action.kind[0] for action in plan.actions) == "fpfpfpfpfpfpfpfpfppf"


def test_without_a_cut_the_levels_between_are_taken_out() -> None:
    given = levels(20)
    plan = plan_for(rule(given, 2, MODEL, cut=False), given)
    assert [given.index(level) for level in plan.levels] == list(places(20, 2))
    assert {action.kind for action in plan.actions} == {"full"} and plan.nulls == 10


def test_guided_flow_models_get_fewer_full_steps_even_on_the_list() -> None:
    given = [1 - i / 20 for i in range(20)]
    made = rule(given, 2.5, ModelInfo("flux", 56, blocks=57), "flow")
    plan = plan_for(made, given)
    assert len(plan.levels) == 8 and {action.kind for action in plan.actions} == {"full"}
    assert plan.levels[::2] == tuple(given[::5]), "positions 2.5 i: every second one is a level of the list"
    assert given[3] < plan.levels[1] < given[2]
    unguided = rule(given, 2.5, ModelInfo("flux", 56, blocks=57), "flow", guided=False)
    assert plan_for(unguided, given).levels == tuple(given)


def test_a_flow_models_schedule_says_so() -> None:
    made = rule([1.0, 0.8, 0.6, 0.4, 0.2], 2, ModelInfo("flux", 56, blocks=57), "flow")
    assert (made.plan.noise, made.sampling.prediction, made.provenance.kind) == ("flow", "flow", "heuristic")


def test_speed_up_one_runs_everything_in_full() -> None:
    assert {action.kind for action in rule(levels(30), 1, MODEL).plan.actions()} == {"full"}


@pytest.mark.parametrize("speedup", [0.5, 4.5, math.nan, math.inf])
def test_a_speed_up_out_of_range_is_refused(speedup: float) -> None:
    with pytest.raises(ScheduleError, match="outside 1 to 4"):
        rule(levels(20), speedup, MODEL)


def test_too_few_levels_are_refused() -> None:
    with pytest.raises(ScheduleError, match="at least 3"):
        rule([2.0, 1.0], 2, MODEL)


def test_gaps_grow() -> None:
    assert gaps(19, 9) == (2, 2, 2, 2, 2, 2, 2, 2, 3)
    assert gaps(19, 5) == (3, 4, 4, 4, 4)
