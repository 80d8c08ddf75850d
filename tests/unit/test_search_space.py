from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_fixtures import BRANCHES, SCHEDULE, TABLE, TEACHER

from flexiffusion.noise import spaced_places
from flexiffusion.schedule import FULL, Action
from flexiffusion.search.candidate import Candidate, make_candidate, plain
from flexiffusion.search.methods.space import PlacementSpace, slots_for
from flexiffusion.search.methods.variation import Variation
from flexiffusion.search.seeds import all_seeds, alternating, deepcache, easycache, fitted_seeds, spectrum

SPACE = PlacementSpace(TEACHER[0], 24, BRANCHES)
VARIATION = Variation(SPACE, SCHEDULE, TABLE)
PARENTS = [
    plain(TEACHER),
    plain((999,)),
    plain((999, 3)),
    deepcache(TEACHER, 3, 2),
    alternating(spaced_places(SCHEDULE, 12, "logsnr"), -1, "quadratic"),
]
STREAMS = st.integers(0, 2**32).map(np.random.default_rng)


def check(candidate: Candidate) -> None:
    assert candidate.places[0] == TEACHER[0] and candidate.actions[0] == FULL
    assert all(a > b for a, b in zip(candidate.places, candidate.places[1:], strict=False))
    assert candidate.places[-1] >= 0 and len(candidate.places) == len(candidate.actions)
    assert all(action.branch is None or -1 <= action.branch < BRANCHES for action in candidate.actions)


class TestCandidate:
    def test_equal_runs_have_equal_keys(self) -> None:
        """With one full step behind it there is no line to fit: `linear` is `reuse`."""
        linear = make_candidate((999, 500), (FULL, Action("partial", 1, "linear")))
        assert linear.key == make_candidate((500, 999), (Action("partial", 1, "reuse"), FULL)).key

    def test_first_step_is_made_full(self) -> None:
        assert make_candidate((999, 500), (Action("partial", 1), FULL)).plain

    def test_cost_in_full_steps(self) -> None:
        assert make_candidate((999, 500, 2), (FULL, Action("partial", 2), FULL)).cost(TABLE) == pytest.approx(2.3)

    def test_text(self) -> None:
        assert alternating((999, 500, 2), -1, "reuse").text() == "999F 500p-1r 2F"


class TestSpace:
    @pytest.mark.parametrize("parent", PARENTS)
    def test_genes_and_back(self, parent: Candidate) -> None:
        genes = SPACE.encode(parent)
        assert set(genes) == set(SPACE.genes) and len(genes) == 24
        for name, gene in genes.items():
            assert gene in SPACE.genes[name]
        assert SPACE.decode(genes) == parent

    def test_too_many_steps(self) -> None:
        with pytest.raises(ValueError, match="25 steps do not fit 24 slots"):
            SPACE.encode(plain(spaced_places(SCHEDULE, 25, "uniform")))

    def test_slots_hold_the_cheapest_alternation(self) -> None:
        assert slots_for(TABLE, 10, 1000) >= 2 * int(10 / 1.01)
        assert slots_for(TABLE, 10_000, 1000) == 1000


class TestOperators:
    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(PARENTS), STREAMS, st.booleans())
    def test_children_are_valid(self, parent: Candidate, stream: np.random.Generator, plain_only: bool) -> None:
        if plain_only:
            parent = plain(parent.places)
        child = VARIATION.mutate(parent, stream, plain_only)
        check(child)
        assert child.plain or not plain_only

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(PARENTS), STREAMS, st.floats(1, 12))
    def test_fit_keeps_the_budget(self, parent: Candidate, stream: np.random.Generator, budget: float) -> None:
        fitted = VARIATION.fit(parent, budget, stream)
        check(fitted)
        assert fitted.cost(TABLE) <= budget + 1e-9

    @pytest.mark.parametrize(
        "name",
        [
            "move_one",
            "bend",
            "swap_kinds",
            "redo_one",
            "redo_all",
            "insert",
            "densify",
            "trade",
            "remove",
            "change_interval",
            "split_or_merge",
        ],
    )
    def test_every_operator_changes_something(self, name: str) -> None:
        parent = PARENTS[-1]
        children = {getattr(VARIATION, name)(parent, np.random.default_rng(seed)).key for seed in range(30)}
        assert len(children - {parent.key}) > 3 or (name == "redo_all" and children - {parent.key})

    def test_crossover_takes_over_at_a_full_step(self) -> None:
        mother, father = PARENTS[-1], PARENTS[0]
        for seed in range(20):
            child = VARIATION.cross(mother, father, np.random.default_rng(seed))
            check(child)
            fulls = [i for i, action in enumerate(father.actions) if action == FULL][1:]
            cuts = [i for i in fulls if child.places[-(len(father.places) - i) :] == father.places[i:]]
            assert any(
                set(child.places) - set(father.places[i:]) == {t for t in mother.places if t > father.places[i]}
                for i in cuts
            )

    def test_crossover_takes_over_at_a_full_step_that_drops_layers(self) -> None:
        mother = plain((999, 800, 600))
        father = make_candidate((999, 500, 100), [FULL, Action("full", drop=("unit",)), Action("partial", 0)])
        child = VARIATION.cross(mother, father, np.random.default_rng(0))
        assert child.places == (999, 800, 600, 500, 100) and child.actions[3:] == father.actions[1:]

    def test_shift_keeps_levels_and_counts(self) -> None:
        parent = alternating(spaced_places(SCHEDULE, 7, "logsnr"), 0, "reuse")
        children = {VARIATION.shift(parent, np.random.default_rng(seed)) for seed in range(10)}
        letters = {"".join(action.kind[0] for action in child.actions) for child in children}
        # fpfpfpf with all but the first moved; partial steps that come first reuse the same
        assert letters == {"ffpfpfp"}
        assert {child.places for child in children} == {parent.places}

    def test_realign_lays_partial_steps_out(self) -> None:
        parent = make_candidate((999, 990, 985, 500, 10), [FULL, *[Action("partial", 0)] * 2, FULL, FULL])
        children = {VARIATION.realign(parent, np.random.default_rng(seed)) for seed in range(10)}
        logs = [[math.log(SCHEDULE.sigma(t)) for t in child.places] for child in children]
        shares = sorted(round((row[0] - row[2]) / (row[0] - row[3]), 2) for row in logs)
        assert shares == pytest.approx([1 / 3, 2 / 3], abs=0.02)  # front, even
        assert all(child.actions == parent.actions for child in children)

    def test_change_interval_changes_one_segment_by_one_step(self) -> None:
        parent = PARENTS[-1]
        for seed in range(30):
            child = VARIATION.change_interval(parent, np.random.default_rng(seed))
            check(child)
            kinds = [action.kind for action in child.actions]
            assert kinds.count("full") == [action.kind for action in parent.actions].count("full")
            assert abs(len(child.actions) - len(parent.actions)) <= 1

    def test_densify_fills_every_gap_or_about_half(self) -> None:
        parent = plain(spaced_places(SCHEDULE, 8, "logsnr"))
        fullest = max(
            (VARIATION.densify(parent, np.random.default_rng(seed)) for seed in range(20)), key=lambda c: len(c.actions)
        )
        assert set(parent.places) < set(fullest.places)
        assert sum(action.kind == "partial" for action in fullest.actions) >= 7


class TestSeeds:
    SEEDS = all_seeds(SCHEDULE, TEACHER, TABLE, (10.0, 5.0), BRANCHES)

    def test_no_two_run_the_same(self) -> None:
        assert len({seed.candidate.key for seed in self.SEEDS}) == len(self.SEEDS)

    def test_every_kind_is_there_at_every_asked_cost(self) -> None:
        for target in (5.0, 10.0):
            near = {s.kind for s in self.SEEDS if 0.8 * target <= s.candidate.cost(TABLE) <= target + 1e-9}
            # EasyCache protects four of these 20 steps, so it cannot be four times as fast
            assert near == {"plain", "deepcache", "spectrum", "alternating"} | (
                {"easycache"} if target == 10 else set()
            )

    def test_plain_ones_cost_their_number_of_steps(self) -> None:
        plains = [seed for seed in self.SEEDS if seed.kind == "plain"]
        assert sorted(seed.candidate.cost(TABLE) for seed in plains) == [5, 5, 5, 10, 10, 10]

    def test_deepcache_has_every_interval_and_branch_of_its_cost(self) -> None:
        have = {seed.candidate.key for seed in self.SEEDS if seed.kind == "deepcache"}
        for interval in (2, 3, 4, 5, 7, 10, 20):  # 10, 7, 5, 4, 3, 2 and 1 full steps
            for branch in range(BRANCHES):
                candidate = deepcache(TEACHER, interval, branch)
                cost = candidate.cost(TABLE)
                if any(0.8 * target <= cost <= target for target in (5.0, 10.0)):
                    assert candidate.key in have

    def test_spectrum_s_windows_grow(self) -> None:
        """Full steps at 0 to 2, then the last of windows of 2, 2, 3, 3, 4 steps."""
        candidate = spectrum(TEACHER, 3, 0.5)
        kinds = "".join(action.kind[0] for action in candidate.actions)
        assert kinds == "fffpfpfppfppfpppfppp"
        # the first two partial steps have two full ones to go by; none is lowered
        assert {action.predictor for action in candidate.actions if action.kind == "partial"} == {"spectrum"}
        assert {action.branch for action in candidate.actions if action.kind == "partial"} == {-1}

    def test_easycache_protects_both_ends(self) -> None:
        kinds = "".join(action.kind[0] for action in easycache(TEACHER, 4).actions)
        assert kinds == "ffffpppfpppfpppfpppf"

    def test_where_solvers_are_fitted_it_begins_with_plain_steps_and_turns_in_the_teachers_spacing(self) -> None:
        seeds = fitted_seeds(SCHEDULE, TABLE, (10.0, 5.0), BRANCHES, "karras")
        assert len({seed.candidate.key for seed in seeds}) == len(seeds)
        assert {seed.kind for seed in seeds} == {"plain", "alternating"}
        assert sum(seed.kind == "plain" for seed in seeds) == 6
        for seed in seeds:
            if seed.kind == "alternating":
                places = seed.candidate.places
                assert places == spaced_places(SCHEDULE, len(places), "karras")
                assert any(0.7 * target <= seed.candidate.cost(TABLE) <= target for target in (5.0, 10.0))
        kinds = {"".join(action.kind[0] for action in seed.candidate.actions) for seed in seeds}
        assert {"fp" * 9, "fpp" * 9, "fppp" * 9, "fp" * 4, "fpp" * 4, "fppp" * 4} <= kinds

    def test_deepcache_is_uniform(self) -> None:
        kinds = "".join(action.kind[0] for action in deepcache(TEACHER, 3, 1).actions)
        assert kinds == "fppfppfppfppfppfppfp"
