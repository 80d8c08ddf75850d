from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from flexiffusion.search.front import best_first, crowding, front, ranks

# Few distinct values, so that ties and equal points are common.
POINTS = st.lists(st.tuples(st.integers(1, 6).map(float), st.integers(1, 6).map(float)), min_size=1, max_size=25)


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def ranks_by_definition(points: list[tuple[float, float]]) -> list[int]:
    result, left, level = [-1] * len(points), set(range(len(points))), 0
    while left:
        layer = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in layer:
            result[i] = level
        left -= layer
        level += 1
    return result


@given(POINTS)
def test_ranks_are_those_of_the_definition(points: list[tuple[float, float]]) -> None:
    assert ranks(points) == ranks_by_definition(points)


@given(POINTS)
def test_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    chosen = front(points)
    assert {points[i] for i in chosen} == {p for p in points if not any(dominates(q, p) for q in points)}
    assert len({points[i] for i in chosen}) == len(chosen)
    assert [points[i][1] for i in chosen] == sorted(points[i][1] for i in chosen)


@given(POINTS)
def test_best_first_orders_by_rank(points: list[tuple[float, float]]) -> None:
    order, rank = best_first(points), ranks(points)
    assert sorted(order) == list(range(len(points)))
    assert [rank[i] for i in order] == sorted(rank)


def test_crowding_prefers_the_ends_and_the_lonely() -> None:
    points = [(1e-1, 1.0), (9e-2, 1.2), (1e-2, 5.0), (1e-3, 9.0), (1e-4, 10.0)]
    distances = crowding(points)
    assert distances[0] == distances[-1] == math.inf
    assert distances[2] == max(distances[1:-1])
