from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fixtures import BRANCHES, TABLE, TEACHER

from flexiffusion.schedule import Segment
from flexiffusion.search.method import Evaluated, stream_of
from flexiffusion.search.methods.segments import (
    PARENTS,
    POPULATION,
    FlexiffusionMethod,
    segment_counts,
    segment_lengths,
)

METHOD = FlexiffusionMethod(TEACHER, (10.0, 5.0), BRANCHES, TABLE)


def test_lengths_are_as_equal_as_possible_longer_first() -> None:
    assert segment_lengths(50, 8) == (7, 7, 6, 6, 6, 6, 6, 6)


@pytest.mark.parametrize(("total", "counts"), [(20, (2, 4, 5, 10)), (50, (2, 5, 10, 25)), (30, (2, 3, 5, 6, 10, 15))])
def test_counts_are_the_divisors(total: int, counts: tuple[int, ...]) -> None:
    assert segment_counts(total) == counts


def test_a_prime_length_has_nearly_equal_segments() -> None:
    counts = segment_counts(31)
    assert len(counts) >= 5 and all(2 <= count <= 16 for count in counts)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(METHOD.counts), st.floats(2, 15))
def test_repair_meets_the_budget_exactly(seed: int, count: int, budget: float) -> None:
    """Never above; and no segment can gain one more active step without going above."""
    stream = np.random.default_rng(seed)
    repaired = METHOD._repaired(METHOD._random(count, stream), budget, stream)
    cost = METHOD._cost(repaired)
    assert cost <= max(budget, count) + 1e-9
    assert [segment.steps for segment in repaired] == list(segment_lengths(20, count))
    for segment in repaired:
        if segment.active < segment.steps and count <= budget:
            assert cost + TABLE.partial[segment.branch] / TABLE.full > budget


def test_cost_is_the_papers_formula() -> None:
    segments = [Segment(10, 4, 1), Segment(10, 1, 3)]
    assert METHOD._cost(segments) == pytest.approx(1 + 3 * 0.13 + 1)
    genes = METHOD._genes(segments)
    assert METHOD.candidate(genes).cost(TABLE) == pytest.approx(1 + 3 * 0.13 + 1)


def test_the_layout_is_the_papers() -> None:
    """Full, partial, then null to the segment's end; partial steps reuse."""
    plan = METHOD.file_plan(METHOD._genes([Segment(10, 3, 2), Segment(10, 2, 0)]))
    assert plan.layout == "front"
    assert "".join(action.kind[0] for action in plan.actions()) == "fppnnnnnnnfpnnnnnnnn"
    assert {segment.predictor for segment in plan.segments} == {"reuse"}


def evolve(count: int) -> list[Evaluated]:
    done: list[Evaluated] = []
    for number in range(count):
        genes = METHOD.propose(number, done, stream_of(0, number))
        assert genes is not None
        for name, gene in genes.items():
            assert gene in METHOD.genes[name]
        candidate = METHOD.candidate(genes)
        # The fewer the steps above t = 500, the better: something that mutation can find.
        error = 1.0 + sum(t > 500 for t in candidate.places)
        done.append(Evaluated(number, genes, candidate, error, candidate.cost(TABLE)))
    return done


def test_searches_every_asked_cost_by_turns_without_repeating() -> None:
    done = evolve(2 * POPULATION + 60)
    assert len({item.candidate.key for item in done}) == len(done)
    for item in done:
        assert item.cost <= METHOD.targets[item.number % 2] + 1e-9
    first, later = done[: 2 * POPULATION], done[2 * POPULATION :]
    assert np.mean([item.error for item in later]) < np.mean([item.error for item in first])


def test_parents_come_from_whole_earlier_generations() -> None:
    """The newest trials of an unfinished generation change nothing."""
    done = evolve(2 * POPULATION + 4)
    number = len(done)
    changed = [*done[:-4], *(Evaluated(i.number, i.genes, i.candidate, 0.0, i.cost) for i in done[-4:])]
    assert METHOD.propose(number, done, stream_of(0, number)) == METHOD.propose(number, changed, stream_of(0, number))
    assert PARENTS < POPULATION
