"""The search of timesteps and dropped units, and the joint space: genomes, budgets, stages, no candidate twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from search_fixtures import BRANCHES, PRICED, SCHEDULE

from flexiffusion.noise import spaced_places
from flexiffusion.schedule import FULL, Action
from flexiffusion.search.candidate import Candidate, make_candidate, plain
from flexiffusion.search.method import Evaluated, stream_of
from flexiffusion.search.methods.autodiffusion import MUTANTS, POPULATION, AutoDiffusionMethod, _steps
from flexiffusion.search.methods.dropping import WORD, UnitSpace, dropping
from flexiffusion.search.methods.joint import JointVariation
from flexiffusion.search.methods.space import PlacementSpace

NAMES = tuple(PRICED.units)


def error_of(candidate: Candidate) -> float:
    """More steps are better, an even spread too, and each dropped unit harms a little."""
    ideal = spaced_places(SCHEDULE, len(candidate.places), "logsnr")
    off = sum(abs(a - b) for a, b in zip(ideal, candidate.places, strict=True)) / 1000 / len(ideal)
    return (1 + off + 0.002 * candidate.dropped) / len(candidate.places)


def searched(method: AutoDiffusionMethod, count: int, seed: int = 0) -> list[Evaluated]:
    evaluated: list[Evaluated] = []
    for number in range(count):
        genes = method.propose(number, evaluated, stream_of(seed, number))
        assert genes is not None
        candidate = method.candidate(genes)
        evaluated.append(Evaluated(number, genes, candidate, error_of(candidate), candidate.cost(PRICED)))
    return evaluated


class TestGenome:
    def test_it_is_a_bijection(self) -> None:
        units = tuple(f"input_blocks.{i}.0" for i in range(70))
        space = UnitSpace(PlacementSpace(999, 4, BRANCHES), units)
        assert len(space.genes) == 4 * (1 + 3)
        made = Candidate(
            (999, 500, 3), (Action("full", drop=units[::3]), Action("partial", 2, "reuse", units[29:31]), FULL)
        )
        genes = space.encode(made)
        assert genes.keys() == space.genes.keys()
        assert all(genes[name] in space.genes[name] for name in genes)
        assert all(float(value) == value < 2**53 for value in genes.values())
        assert space.decode(genes) == made and WORD < 53

    def test_what_does_not_run_is_not_dropped(self) -> None:
        drop = frozenset({"input_blocks.1.0", "input_blocks.3.0", "middle_block.0"})
        assert dropping(Action("partial", 2), drop, PRICED).drop == ("input_blocks.1.0",)
        assert dropping(FULL, drop, PRICED).drop == tuple(sorted(drop))

    def test_dropping_is_not_plain_and_changes_the_key(self) -> None:
        whole = plain((999, 500, 10))
        thinned = make_candidate(whole.places, [Action("full", drop=NAMES[:2]), FULL, FULL])
        assert whole.plain and not thinned.plain
        assert thinned.actions[0].drop == tuple(sorted(NAMES[:2])), "the first step keeps what it drops"
        assert thinned.key != whole.key
        assert thinned.text() == "999F-2 500F 10F"


class TestAutoDiffusion:
    @pytest.mark.parametrize("count", [None, 8, 12])
    def test_every_candidate_keeps_the_rules(self, count: int | None) -> None:
        method = AutoDiffusionMethod(SCHEDULE, (10.0,), PRICED, BRANCHES, count)
        evaluated = searched(method, 6 * POPULATION)
        assert len({item.candidate.key for item in evaluated}) == len(evaluated)
        for item in evaluated:
            timesteps = item.candidate.places
            assert timesteps[0] == 999 and all(a > b for a, b in pairwise(timesteps))
            assert count is None or len(timesteps) == count
            assert item.cost <= 10 + 1e-9
            assert item.candidate.cost(PRICED) == pytest.approx(method.cost(_steps(item.candidate)))
            assert max(len(action.drop) for action in item.candidate.actions) <= method.most
            assert all(action.kind == "full" for action in item.candidate.actions)
        best = min(evaluated, key=lambda item: item.error)
        assert best.error <= min(item.error for item in evaluated[:2]), "never worse than its seeds"
        if count is None:
            assert len(best.candidate.places) > 10, "dropping buys timesteps"

    def test_it_begins_with_uniform_and_quadratic_timesteps(self) -> None:
        evaluated = searched(AutoDiffusionMethod(SCHEDULE, (6.0, 4.0), PRICED, BRANCHES), 4)
        assert [item.candidate for item in evaluated] == [
            plain(spaced_places(SCHEDULE, count, spacing)) for spacing in ("uniform", "quadratic") for count in (6, 4)
        ]

    def test_stages(self) -> None:
        method = AutoDiffusionMethod(SCHEDULE, (8.0,), PRICED, BRANCHES)

        def generations(*best: float) -> list[list[Evaluated]]:
            return [[Evaluated(0, {}, plain((999,)), error, 1.0)] for error in best]

        assert method.most == 4
        assert [method.ceiling(8.0, generations(*[9.0, 8.0, 7.0, 6.0, 5.0, 4.0][:n])) for n in range(7)] == [
            0, 0, 0, 0, 1, 2, 3,
        ]  # fmt: skip
        assert [method.ceiling(8.0, generations(*[9.0, 9.5, 3.0, 2.0][:n])) for n in range(5)] == [0, 0, 1, 2, 3]
        assert method.ceiling(8.0, generations(*[9.0] * 40)) == 4
        assert replace(method, count=9).ceiling(8.0, []) == 4, "nine timesteps cannot be had whole"
        assert replace(method, steps_only=True).ceiling(8.0, generations(*[9.0] * 40)) == 0

    def test_the_first_stage_drops_nothing(self) -> None:
        evaluated = searched(AutoDiffusionMethod(SCHEDULE, (8.0,), PRICED, BRANCHES), 2 * POPULATION)
        assert all(item.candidate.plain and len(item.candidate.places) == 8 for item in evaluated)

    def test_mutants_come_from_parents_and_keep_most_of_them(self) -> None:
        method = AutoDiffusionMethod(SCHEDULE, (8.0,), PRICED, BRANCHES)
        evaluated = searched(method, POPULATION + MUTANTS)
        parents = sorted(evaluated[:POPULATION], key=lambda item: item.error)[:10]
        for item in evaluated[POPULATION:]:
            shared = max(len(set(item.candidate.places) & set(p.candidate.places)) for p in parents)
            assert shared >= 4

    def test_a_step_keeps_its_units_in_a_cross(self) -> None:
        method = AutoDiffusionMethod(SCHEDULE, (8.0,), PRICED, BRANCHES)
        one = {t: frozenset({NAMES[0]}) for t in (999, 700, 300)}
        other = {t: frozenset({NAMES[1]}) for t in (100, 999, 600, 20)}
        for seed in range(30):
            child = method._crossed(one, other, np.random.default_rng(seed))
            for timestep, drop in child.items():
                assert drop in (one.get(timestep), other.get(timestep))

    def test_a_budget_that_cannot_be_met(self) -> None:
        method = AutoDiffusionMethod(SCHEDULE, (2.0,), PRICED, BRANCHES, count=12)
        assert method.propose(0, [], stream_of(0, 0)) is None

    def test_it_is_a_function_of_the_trials_before(self) -> None:
        method = AutoDiffusionMethod(SCHEDULE, (8.0,), PRICED, BRANCHES)
        evaluated = searched(method, 120)
        for number in (0, 49, 77, 119):
            assert method.propose(number, evaluated[:number], stream_of(0, number)) == evaluated[number].genes


class TestJoint:
    def test_every_child_is_valid_and_within_the_budget(self) -> None:
        space = UnitSpace(PlacementSpace(999, 24, BRANCHES), NAMES)
        variation = JointVariation(space, SCHEDULE, PRICED)
        stream = np.random.default_rng(0)
        candidate, kinds = plain(spaced_places(SCHEDULE, 8, "logsnr")), set()
        for _ in range(400):
            child = variation.fit(variation.mutate(candidate, stream, False), 8.0, stream)
            assert child.cost(PRICED) <= 8 + 1e-9
            assert space.decode(space.encode(child)) == child
            for action in child.actions:
                assert dropping(action, frozenset(action.drop), PRICED) == action, (
                    "nothing that does not run is dropped"
                )
                kinds.add((action.kind, bool(action.drop)))
            if len(child.places) > 4:
                candidate = child
        assert kinds == {("full", False), ("full", True), ("partial", False), ("partial", True)}

    def test_every_cheaper_step_is_cheaper_and_keeps_what_it_dropped(self) -> None:
        space = UnitSpace(PlacementSpace(999, 24, BRANCHES), NAMES)
        variation = JointVariation(space, SCHEDULE, PRICED)
        stream = np.random.default_rng(0)
        candidate, offered = plain(spaced_places(SCHEDULE, 8, "logsnr")), 0
        for _ in range(100):
            child = variation.fit(variation.mutate(candidate, stream, False), 8.0, stream)
            candidate = child if len(child.places) > 4 else candidate
            for option in variation._cheaper(child):
                offered += 1
                assert option.cost(PRICED) < child.cost(PRICED)
                for before, after in zip(child.actions, option.actions, strict=True):
                    assert set(after.drop) <= set(before.drop)
                    assert after.kind == "partial" or after.drop == before.drop
        assert offered > 100

    @pytest.mark.parametrize("operator", ["redo_one", "redo_all"])
    def test_another_kind_of_step_drops_what_it_did_as_far_as_it_comes_to_it(self, operator: str) -> None:
        variation = JointVariation(UnitSpace(PlacementSpace(999, 24, BRANCHES), NAMES), SCHEDULE, PRICED)
        deepest = Action("partial", BRANCHES - 1, "reuse")
        dropped = dropping(deepest, frozenset(NAMES), PRICED)
        assert dropped.drop
        parent = make_candidate((999, 700, 400, 100), [FULL, dropped, dropped, dropped])
        for seed in range(40):
            child = getattr(variation, operator)(parent, np.random.default_rng(seed))
            for before, after in zip(parent.actions, child.actions, strict=True):
                assert set(after.drop) == set(dropping(after, frozenset(before.drop), PRICED).drop)

    def test_plain_children_drop_nothing(self) -> None:
        space = UnitSpace(PlacementSpace(999, 24, BRANCHES), NAMES)
        variation = JointVariation(space, SCHEDULE, PRICED)
        stream = np.random.default_rng(0)
        for _ in range(50):
            assert variation.mutate(plain(spaced_places(SCHEDULE, 8, "logsnr")), stream, True).plain
