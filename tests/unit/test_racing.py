"""Racing: who leaves early, who never does, and what is said of those that left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexiffusion.schedule import Action
from flexiffusion.search.candidate import make_candidate, plain
from flexiffusion.search.method import Evaluated
from flexiffusion.search.objective import Objective
from flexiffusion.search.paired import Errors, mean_root
from flexiffusion.search.racing import race, rival_of, stages

IMAGES = 128
LATENT = Objective("latent")


def noisy(scale: float, seed: int, spread: float = 1.0) -> Errors:
    return scale * np.exp(spread * np.random.default_rng(seed).normal(size=IMAGES))


def met(errors: Errors) -> tuple[Callable[[int, int], Errors], list[tuple[int, int]]]:
    asked: list[tuple[int, int]] = []

    def errors_of(first: int, last: int) -> Errors:
        asked.append((first, last))
        return errors[first:last]

    return errors_of, asked


@pytest.mark.parametrize(
    ("images", "expected"), [(6, (6,)), (8, (8,)), (12, (8, 12)), (128, (8, 32, 128)), (500, (8, 32, 128, 500))]
)
def test_stages(images: int, expected: tuple[int, ...]) -> None:
    assert stages(images) == expected


def test_without_a_rival_all_images_are_met_at_once() -> None:
    errors_of, asked = met(noisy(1, 0))
    judgement = race(errors_of, IMAGES, None, LATENT)
    assert asked == [(0, IMAGES)]
    assert judgement.error == pytest.approx(mean_root(noisy(1, 0)))


def test_the_better_one_meets_all_images_in_stages() -> None:
    rival = noisy(1, 0)
    errors_of, asked = met(0.5 * rival * noisy(1, 1, 0.1))
    judgement = race(errors_of, IMAGES, rival, LATENT)
    assert asked == [(0, 8), (8, 32), (32, 128)]
    assert judgement.error == pytest.approx(mean_root(judgement.errors)) and len(judgement.errors) == IMAGES


def test_the_clearly_worse_one_leaves_and_is_judged_by_the_ratio() -> None:
    rival = noisy(1, 0)
    errors = 3 * rival * noisy(1, 1, 0.1)
    errors_of, asked = met(errors)
    judgement = race(errors_of, IMAGES, rival, LATENT)
    assert asked == [(0, 8)]
    # the rival is far from its own mean on the first eight images; the estimate is not led astray by that
    assert abs(np.log(mean_root(rival[:8]) / mean_root(rival))) > 0.1
    assert judgement.error == pytest.approx(mean_root(errors), rel=0.05)


@given(st.integers(0, 2**32), st.floats(0.5, 4.0))
@settings(max_examples=200, deadline=None)
def test_who_leaves_is_never_said_to_be_better(seed: int, factor: float) -> None:
    rival = noisy(1, seed)
    judgement = race(met(factor * noisy(1, seed + 1))[0], IMAGES, rival, LATENT)
    assert len(judgement.errors) == IMAGES or judgement.error > mean_root(rival)


def test_an_equal_one_seldom_leaves() -> None:
    races = (race(met(noisy(1, 2 * i))[0], IMAGES, noisy(1, 2 * i + 1), LATENT) for i in range(300))
    left = sum(len(judgement.errors) < IMAGES for judgement in races)
    assert left <= 12  # two looks, each with a chance of about 1 %


def test_a_diverged_one_stops_at_once() -> None:
    errors = noisy(1, 0)
    errors[3] = np.nan
    errors_of, asked = met(errors)
    assert not np.isfinite(race(errors_of, IMAGES, noisy(1, 1), LATENT).error)
    assert asked == [(0, 8)]


@pytest.mark.parametrize(("errors", "error"), [(noisy(1, 0), mean_root(noisy(1, 0))), (np.zeros(IMAGES), 0.0)])
def test_nobody_leaves_where_images_are_exact(errors: Errors, error: float) -> None:
    judgement = race(met(errors)[0], IMAGES, np.zeros(IMAGES), LATENT)
    assert len(judgement.errors) == IMAGES and judgement.error == pytest.approx(error)


class TestRival:
    PLAIN = plain((999, 500, 100))
    MIXED = make_candidate((999, 500, 100), [Action("full"), Action("partial", 0, "reuse"), Action("full")])

    def evaluated(self) -> list[Evaluated]:
        cheap = Evaluated(0, {}, self.MIXED, 0.3, 2.1, np.full(IMAGES, 0.3))
        return [
            cheap,
            replace(cheap, candidate=self.PLAIN, error=0.5, cost=3.0, errors=np.full(IMAGES, 0.5)),
            replace(cheap, error=0.1, cost=4.0, errors=np.full(IMAGES, 0.1)),
            replace(cheap, error=0.2, errors=np.full(8, 0.2)),  # left early
        ]

    def test_the_best_that_costs_no_more_and_met_all_images(self) -> None:
        rival = rival_of(self.MIXED, 3.0, self.evaluated(), IMAGES)
        assert rival is not None and rival[0] == 0.3

    def test_plain_ones_race_against_plain_ones(self) -> None:
        rival = rival_of(self.PLAIN, 3.0, self.evaluated(), IMAGES)
        assert rival is not None and rival[0] == 0.5

    def test_none_is_cheap_enough(self) -> None:
        assert rival_of(self.MIXED, 2.0, self.evaluated(), IMAGES) is None

    def test_half_a_per_cent_of_cost_makes_no_difference(self) -> None:
        cheapest = min(item.cost for item in self.evaluated() if len(item.errors) == IMAGES)
        assert rival_of(self.MIXED, cheapest / 1.004, self.evaluated(), IMAGES) is not None
        assert rival_of(self.MIXED, cheapest / 1.006, self.evaluated(), IMAGES) is None
