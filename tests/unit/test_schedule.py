"""The dataclasses: what they unfold to, what they refuse, what makes two schedules the same."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from flexiffusion.errors import FlexiffusionError, ScheduleError, VersionError
from flexiffusion.metadata import Cost, Metric, ModelInfo, Provenance, Sampling
from flexiffusion.schedule import (
    FULL,
    NULL,
    Action,
    Schedule,
    Segment,
    SegmentsPlan,
    Step,
    StepsPlan,
    canonical_actions,
    canonical_key,
)

MODEL = ModelInfo("sd15", 12)


def sampling(steps: int) -> Sampling:
    return Sampling("ddim", None, steps, 7.5, (512, 512), "epsilon")


def pattern(actions: tuple[Action, ...]) -> str:
    return "".join(action.kind[0].upper() for action in actions)


@pytest.mark.parametrize(
    ("layout", "steps", "active", "expected"),
    [
        ("front", 5, 3, "FPPNN"),
        ("front", 5, 5, "FPPPP"),
        ("front", 5, 1, "FNNNN"),
        ("front", 1, 1, "F"),
        ("even", 5, 3, "FPNPN"),  # floor(j * 5 / 3) = 0, 1, 3
        ("even", 6, 2, "FNNPNN"),
        ("even", 7, 4, "FPNPNPN"),  # 0, 1, 3, 5
        ("even", 5, 1, "FNNNN"),
        ("even", 4, 4, "FPPP"),
    ],
)
def test_a_segment_unfolds(layout: str, steps: int, active: int, expected: str) -> None:
    plan = SegmentsPlan((Segment(steps, active, 2, "linear"),), layout)  # type: ignore[arg-type]
    assert pattern(plan.actions()) == expected
    assert {action for action in plan.actions() if action.kind == "partial"} <= {Action("partial", 2, "linear")}
    assert plan.total_steps == len(plan.actions()) == steps


def test_segments_follow_one_another() -> None:
    plan = SegmentsPlan((Segment(3, 2, 1), Segment(2, 1), Segment(2, 2, -1, "quadratic")))
    partial = Action("partial", 1), Action("partial", -1, "quadratic")
    assert plan.actions() == (FULL, partial[0], NULL, FULL, NULL, FULL, partial[1])
    assert plan.total_steps == 7


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda: Action("half"), "Action.kind"),  # type: ignore[arg-type]
        (lambda: Action("partial"), "Action.branch"),
        (lambda: Action("partial", -2), "Action.branch"),
        (lambda: Action("partial", True), "Action.branch"),
        (lambda: Action("partial", 0, "cubic"), "Action.predictor"),  # type: ignore[arg-type]
        (lambda: Action("full", 0), "Action.branch"),
        (lambda: Action("full", predictor="linear"), "Action.predictor"),
        (lambda: Action("null", drop=("a",)), "Action.drop"),
        (lambda: Action("full", drop=("a", "a")), "Action.drop"),
        (lambda: Segment(0, 0), "Segment.steps"),
        (lambda: Segment(3, 4), "Segment.active"),
        (lambda: Segment(3, 2, 1.5), "Segment.branch"),  # type: ignore[arg-type]
        (lambda: SegmentsPlan(()), "SegmentsPlan.segments"),
        (lambda: SegmentsPlan((FULL,)), "SegmentsPlan.segments"),  # type: ignore[arg-type]
        (lambda: SegmentsPlan((Segment(600, 1), Segment(600, 1))), "SegmentsPlan.segments"),
        (lambda: Step(float("nan"), FULL), "Step.sigma"),
        (lambda: Step(0.0, FULL), "Step.sigma"),
        (lambda: Step(10**400, FULL), "Step.sigma"),
        (lambda: Step(1.0, NULL), "Step.action"),
        (lambda: Step(1.0, "full"), "Step.action"),  # type: ignore[arg-type]
        (lambda: StepsPlan((Step(1.0, Action("partial", 0)),)), "StepsPlan.steps[0].do"),
        (lambda: StepsPlan((Step(1.0, FULL), Step(2.0, FULL))), "StepsPlan.steps[1].sigma"),
        (lambda: ModelInfo("sd15", 12, "A" * 64), "ModelInfo.sha256"),
        (lambda: Sampling(None, None, 5, None, (512,), None), "Sampling.size"),  # type: ignore[arg-type]
        (lambda: Metric("relative_fid", float("inf"), 8), "Metric.value"),
        (lambda: Cost(macs=0), "Cost.macs"),
        (lambda: Cost(ms={"a": float("nan")}), "Cost.ms['a']"),
        (lambda: Provenance("found"), "Provenance.kind"),  # type: ignore[arg-type]
    ],
)
def test_refused_in_code_as_in_a_file(make, place: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ScheduleError) as caught:
        make()
    assert caught.value.place == place
    assert caught.value.remedy


def test_the_schedule_checks_its_parts_against_one_another() -> None:
    segments = SegmentsPlan((Segment(3, 2, 1), Segment(3, 1)))
    steps = StepsPlan((Step(9.0, FULL), Step(1.0, Action("partial", 12))))
    with pytest.raises(ScheduleError, match=r"Schedule.sampling.steps: 5 steps, but the segments have 6"):
        Schedule("a", MODEL, sampling(5), segments)
    with pytest.raises(ScheduleError, match=r"Schedule.levels: 2 levels for segments of 6 steps"):
        Schedule("a", MODEL, sampling(6), segments, levels=(2.0, 1.0))
    with pytest.raises(ScheduleError, match=r"Schedule.plan.segments\[0\].branch: 1 is outside the model's 1 branches"):
        Schedule("a", ModelInfo("sd15", 1), sampling(6), segments)
    with pytest.raises(ScheduleError, match=r"Schedule.plan.steps\[1\].branch: 12 is outside"):
        Schedule("a", MODEL, sampling(6), steps)
    with pytest.raises(ScheduleError, match=r"Schedule.extra.a.b: .* is no JSON value"):
        Schedule("a", MODEL, sampling(6), segments, extra={"a": {"b": {1, 2}}})
    with pytest.raises(ScheduleError, match=r"Schedule.extra.*: lies 9 levels deep"):
        Schedule("a", MODEL, sampling(6), segments, extra={"a": [[[[[[[]]]]]]]})


def test_schedules_are_values() -> None:
    def make(extra: dict[str, object]) -> Schedule:
        plan = SegmentsPlan([Segment(3.0, 2, 1), Segment(3, 1)])  # type: ignore[arg-type, list-item]
        cost = Cost(ms={"b": 2, "a": 1})
        return Schedule("a", MODEL, sampling(6), plan, cost=cost, levels=[6, 5, 4, 3, 2, 1], extra=extra)  # type: ignore[arg-type]

    one, two = make({"b": [1, {"c": None}], "a": 1}), make({"a": 1, "b": [1, {"c": None}]})
    assert one == two and hash(one) == hash(two) and len({one, two}) == 1
    assert one != make({"a": 2})
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.extra == {"a": 1, "b": (1, {"c": None})}
    assert one.levels == (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
    with pytest.raises(TypeError):
        one.extra["a"] = 2  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.name = "b"  # type: ignore[misc]


def test_the_order_of_dropped_layers_does_not_matter() -> None:
    assert Action("full", drop=("b", "a")) == Action("full", drop=("a", "b"))


def test_canonical_actions_are_what_is_run() -> None:
    linear, quadratic = Action("partial", 0, "linear"), Action("partial", 0, "quadratic")
    reuse = Action("partial", 0)
    given = (FULL, quadratic, NULL, FULL, quadratic, linear, FULL, quadratic)
    assert canonical_actions(given) == (FULL, reuse, NULL, FULL, linear, linear, FULL, quadratic)
    dropping = Action("partial", 3, "linear", ("mid",))
    assert canonical_actions((dropping, dropping)) == (
        Action("full", drop=("mid",)),
        Action("partial", 3, drop=("mid",)),
    )
    assert canonical_actions(canonical_actions(given)) == canonical_actions(given)


def test_plans_that_run_the_same_have_the_same_key() -> None:
    linear, reuse = Action("partial", 0, "linear"), Action("partial", 0)
    key = canonical_key((FULL, reuse, FULL), (9.0, 4.0, 1.0))
    assert canonical_key((FULL, linear, FULL), (9.0, 4.0, 1.0)) == key
    assert canonical_key((FULL, NULL, linear, FULL, NULL), (9.0, 5.0, 4.0, 1.0, 0.5)) == key
    assert canonical_key((FULL, reuse, FULL), (9.0000001, 4.0, 1)) == key
    assert len(key) == 64 and key == key.lower()
    others = {
        canonical_key((FULL, FULL, FULL), (9.0, 4.0, 1.0)),
        canonical_key((FULL, Action("partial", 1), FULL), (9.0, 4.0, 1.0)),
        canonical_key((FULL, reuse, FULL), (9.001, 4.0, 1.0)),
        canonical_key((FULL, reuse), (9.0, 4.0)),
        canonical_key((FULL, reuse, Action("full", drop=("a",))), (9.0, 4.0, 1.0)),
    }
    assert key not in others and len(others) == 5
    with pytest.raises(ValueError):
        canonical_key((FULL,), (9.0, 4.0))


def test_dropped_units_that_a_partial_step_does_not_run_make_no_other_plan() -> None:
    """Fault 12: they were counted, so files that run the same had different keys."""
    reached = {"shallow": 1, "deep": 5, "middle": None, "head": -1}
    drops = (*reached, "unknown")
    actions = (Action("full", drop=drops), *(Action("partial", b, drop=drops) for b in (-1, 1, 5)))
    assert [action.drop for action in canonical_actions(actions, reached)] == [
        tuple(sorted(drops)),
        ("head", "unknown"),
        ("head", "shallow", "unknown"),
        ("deep", "head", "shallow", "unknown"),
    ]
    levels = (9.0, 4.0)
    whole, dropping = (FULL, Action("partial", 1)), (FULL, Action("partial", 1, drop=("deep", "middle")))
    assert canonical_key(dropping, levels, reached) == canonical_key(whole, levels)
    assert canonical_key(dropping, levels) != canonical_key(whole, levels)  # not known: taken to be run
    runs = (FULL, Action("partial", 1, drop=("deep", "shallow")))
    assert canonical_key(runs, levels, reached) != canonical_key(whole, levels, reached)
    # a first partial step runs in full, and then it comes to all of them
    assert canonical_actions((dropping[1],), reached) == (Action("full", drop=("deep", "middle")),)


def test_errors_keep_their_parts_between_processes() -> None:
    for kind in (ScheduleError, VersionError):
        error = pickle.loads(pickle.dumps(kind("here", "it is 3", "Make it 4")))
        assert type(error) is kind and isinstance(error, FlexiffusionError)
        assert (error.place, error.problem, error.remedy) == ("here", "it is 3", "Make it 4")
        assert str(error) == "here: it is 3. Make it 4"
