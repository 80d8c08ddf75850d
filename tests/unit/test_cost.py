"""Cost tables and speed-ups."""

from __future__ import annotations

import json
import math

import pytest

from flexiffusion.cost import CostTable, Saving
from flexiffusion.errors import ScheduleError
from flexiffusion.schedule import FULL, NULL, Action, Segment, SegmentsPlan

TABLE = CostTable("macs", 100.0, {-1: 1.0, 0: 8.0, 1: 22.0})


def test_costs_of_steps() -> None:
    assert TABLE.of(FULL) == 100.0
    assert TABLE.of(NULL) == 0.0
    assert TABLE.of(Action("partial", -1, "quadratic")) == 1.0
    assert TABLE.total([]) == 0.0


def test_a_segment_costs_full_and_k_minus_1_partials() -> None:
    actions = SegmentsPlan((Segment(10, 4, 1), Segment(10, 1, 0))).actions()
    assert TABLE.total(actions) == 100 + 3 * 22 + 100
    assert TABLE.in_full_steps(actions) == pytest.approx(2.66)
    assert TABLE.speedup(actions, 20) == pytest.approx(20 / 2.66)
    assert TABLE.speedup((FULL,) * 20, 20) == 1.0


UNITS = CostTable(
    "macs", 100.0, {-1: 1.0, 0: 8.0, 1: 22.0}, {"middle_block.0": Saving(30.0), "input_blocks.1.0": Saving(9.0, 1)}
)


def test_dropped_units_cost_nothing() -> None:
    both = ("middle_block.0", "input_blocks.1.0")
    assert UNITS.of(Action("full", drop=both)) == 61.0
    assert UNITS.of(Action("partial", 1, drop=both)) == 13.0
    assert UNITS.of(Action("partial", 0, drop=both)) == 8.0, "what a step does not come to saves nothing"
    with pytest.raises(ScheduleError, match="a full step's units cost all of it"):
        CostTable("macs", 10.0, {}, {"a": Saving(5.0), "b": Saving(5.0)})
    with pytest.raises(ScheduleError, match="a partial step's units cost all of it"):
        CostTable("macs", 100.0, {0: 5.0, 1: 8.0}, {"a": Saving(3.0, 1), "b": Saving(5.0, 1)})
    with pytest.raises(ScheduleError, match=r"Saving.cost: -1"):
        Saving(-1.0)


def test_it_survives_json() -> None:
    for table in (TABLE, UNITS, CostTable("ms", 3, {}), CostTable("macs", 5.2e12, {11: 0.1})):
        assert CostTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    assert hash(CostTable("ms", 3, {0: 1})) == hash(CostTable("ms", 3.0, {0: 1.0}))


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, True, "8", None])
def test_costs_that_are_none(bad: object) -> None:
    with pytest.raises(ScheduleError, match=r"CostTable.full: "):
        CostTable("ms", bad, {})  # type: ignore[arg-type]
    with pytest.raises(ScheduleError, match=r"CostTable.partial\[3\]: "):
        CostTable("ms", 10.0, {3: bad})  # type: ignore[dict-item]


def test_what_has_no_cost() -> None:
    with pytest.raises(ScheduleError, match=r"no cost is known for branch 2. Known branches: -1, 0, 1"):
        TABLE.of(Action("partial", 2))
    with pytest.raises(ScheduleError, match="no cost is known for the unit mid"):
        TABLE.of(Action("full", drop=("mid",)))
    with pytest.raises(ScheduleError, match="the actions run nothing"):
        TABLE.speedup((NULL,), 20)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        (None, "CostTable"),
        ({"unit": "ms", "full": 1}, "CostTable"),
        ({"unit": "ms", "full": 1, "partial": {}, "more": 1}, "CostTable"),
        ({"unit": "s", "full": 1, "partial": {}}, "CostTable.unit"),
        ({"unit": "ms", "full": 1, "partial": [1]}, "CostTable.partial"),
        ({"unit": "ms", "full": 1, "partial": {"one": 1}}, "CostTable.partial key"),
        ({"unit": "ms", "full": 1, "partial": {"01": 1}}, "CostTable.partial key"),
        ({"unit": "ms", "full": 1, "partial": {"-2": 1}}, "CostTable.partial key"),
        ({"unit": "ms", "full": 1, "partial": {"64": 1}}, "CostTable.partial key"),
        ({"unit": "ms", "full": 1, "partial": {}, "units": [1]}, "CostTable.units"),
        ({"unit": "ms", "full": 1, "partial": {}, "units": {"a": 1}}, "CostTable.units.a"),
        ({"unit": "ms", "full": 1, "partial": {}, "units": {"../a": [0.5, None]}}, "CostTable.units key"),
    ],
)
def test_documents_that_are_no_table(document: object, place: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        CostTable.from_dict(document)
    assert caught.value.place == place
