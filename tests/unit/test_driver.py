"""The search loop: no duplicates, and a killed search ends as an uninterrupted one."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.study import Study
from optuna.trial import TrialState
from pool_fixtures import SimulatedCluster
from search_fixtures import BRANCHES, PRICED, SCHEDULE, TABLE, TEACHER, UNITS, FormulaEvaluator

from flexiffusion.search.evaluator import OneByOne
from flexiffusion.search.front import front
from flexiffusion.search.method import Evaluated, Method, stream_of
from flexiffusion.search.methods.autodiffusion import AutoDiffusionMethod
from flexiffusion.search.methods.dropping import UnitSpace
from flexiffusion.search.methods.joint import JointVariation
from flexiffusion.search.methods.placement import PlacementMethod
from flexiffusion.search.methods.segments import FlexiffusionMethod
from flexiffusion.search.methods.space import PlacementSpace
from flexiffusion.search.methods.variation import Variation
from flexiffusion.search.seeds import plain_seeds
from flexsearch.evaluators.pool import PoolEvaluator
from flexsearch.runs.driver import search
from flexsearch.runs.optuna_sampler import MethodSampler
from flexsearch.runs.run_folder import RunFolder
from flexsearch.runs.settings import Settings

pytestmark = pytest.mark.usefixtures("small_generations")
TARGETS = (6.0, 3.0)
SLOTS = 12


def placement(plain_only: bool = False) -> PlacementMethod:
    variation = Variation(PlacementSpace(TEACHER[0], SLOTS, BRANCHES), SCHEDULE, TABLE)
    return PlacementMethod(list(plain_seeds(SCHEDULE, (3, 6))), TARGETS, variation, plain_only)


def joint() -> PlacementMethod:
    variation = JointVariation(UnitSpace(PlacementSpace(TEACHER[0], SLOTS, BRANCHES), tuple(UNITS)), SCHEDULE, PRICED)
    return PlacementMethod(list(plain_seeds(SCHEDULE, (3, 6))), TARGETS, variation)


METHODS: dict[str, Method] = {
    "placement": placement(),
    "joint": joint(),
    "autodiffusion": AutoDiffusionMethod(SCHEDULE, TARGETS, PRICED, BRANCHES),
    "flexiffusion": FlexiffusionMethod(TEACHER, TARGETS, BRANCHES, TABLE),
}


def go(folder: Path, method: Method, evaluator: OneByOne | PoolEvaluator, evaluations: int, seed: int = 0) -> Study:
    folder.mkdir(exist_ok=True)
    sampler = MethodSampler(method, seed)
    study = RunFolder(folder).study(Settings(), sampler)
    search(study, sampler, evaluator, PRICED, evaluations, True, lambda *_: None)
    return study


Trial = tuple[int, dict[str, int], list[float]]


def trials_of(study: Study) -> list[Trial]:
    return [(t.number, t.params, t.values) for t in study.get_trials() if t.state == TrialState.COMPLETE]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[list[Trial], list[str]]]:
    """By a method's name: the trials of a search of 18, and what it evaluated. Made once."""

    @functools.cache
    def made(name: str) -> tuple[list[Trial], list[str]]:
        evaluator = FormulaEvaluator()
        return trials_of(go(tmp_path_factory.mktemp(name), METHODS[name], evaluator, 18)), evaluator.evaluated

    return made


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_no_duplicate_is_evaluated(self, name: str, whole: Any) -> None:
        _, evaluated = whole(name)
        assert len(evaluated) == 18 == len(set(evaluated))

    def test_a_search_killed_again_and_again_equals_a_whole_one(self, name: str, whole: Any, tmp_path: Path) -> None:
        done = 0
        for stop_at in (0, 3, 1, 7):
            evaluator = FormulaEvaluator(stop_at)
            with pytest.raises(KeyboardInterrupt):
                go(tmp_path / "killed", METHODS[name], evaluator, 18)
            done += len(evaluator.evaluated)
        last = FormulaEvaluator()
        resumed = trials_of(go(tmp_path / "killed", METHODS[name], last, 18))
        assert resumed == whole(name)[0]
        assert done + len(last.evaluated) == 18  # what was finished before a kill was not evaluated again

    def test_another_seed_searches_elsewhere(self, name: str, whole: Any, tmp_path: Path) -> None:
        assert whole(name)[0][:10] != trials_of(go(tmp_path / "run", METHODS[name], FormulaEvaluator(), 10, seed=1))

    def test_a_finished_search_is_left_as_it_is(self, name: str, tmp_path: Path) -> None:
        go(tmp_path / "run", METHODS[name], FormulaEvaluator(), 5)
        evaluator = FormulaEvaluator()
        go(tmp_path / "run", METHODS[name], evaluator, 5)
        assert evaluator.evaluated == []


@pytest.mark.parametrize("name", METHODS)
class TestManyWorkers:
    """Asynchronous: what is proposed depends on who finishes first, and is a whole search all the same."""

    @staticmethod
    def pool(evaluator: FormulaEvaluator) -> PoolEvaluator:
        cluster = SimulatedCluster(evaluator, 3, lambda job: 1 + (job.number * 7 % 5))
        return PoolEvaluator(cluster, evaluator.count, lambda _: None)

    def test_no_duplicate_is_evaluated(self, name: str, tmp_path: Path) -> None:
        evaluator = FormulaEvaluator()
        study = go(tmp_path / "run", METHODS[name], self.pool(evaluator), 20)
        assert len(evaluator.evaluated) == 20 == len(set(evaluator.evaluated)) == len(trials_of(study))
        beside = [len(trial.user_attrs.get("pending", ())) for trial in study.get_trials()]
        assert max(beside) == 3  # three workers, and one candidate that waits for the first that is free

    def test_killed_again_and_again_it_ends_whole(self, name: str, tmp_path: Path) -> None:
        done: list[str] = []
        for stop_at in (0, 3, 7, None):
            evaluator = FormulaEvaluator(stop_at)
            try:
                study = go(tmp_path / "run", METHODS[name], self.pool(evaluator), 20)
            except KeyboardInterrupt:
                assert stop_at is not None
            done += evaluator.evaluated
        trials = study.get_trials()
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 20
        assert len(done) == len(set(done)) == 20

    def test_a_killed_one_proposes_again_what_it_had_proposed(self, name: str, tmp_path: Path) -> None:
        """Even where the process died between the genes of a trial: they are not mixed with those of another."""
        method = METHODS[name]
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run", method, self.pool(FormulaEvaluator(9)), 20)
        study = RunFolder(tmp_path / "run").study(Settings(), MethodSampler(method, 0))
        before = {t.number: t.params for t in study.get_trials() if t.state == TrialState.RUNNING}
        assert len(before) > 1
        last = max(before)
        with sqlite3.connect(tmp_path / "run" / "study.db") as connection:
            connection.execute(
                "DELETE FROM trial_params WHERE param_id IN (SELECT param_id FROM trial_params JOIN trials USING "
                "(trial_id) WHERE number = ? ORDER BY param_id LIMIT -1 OFFSET 4)", (last,)
            )  # fmt: skip
        study = go(tmp_path / "run", method, self.pool(FormulaEvaluator()), 20)
        assert {n: study.get_trials()[n].params for n in before} == before


def evolve(method: Method, count: int) -> list[Evaluated]:
    """The trials of one worker, without a trial store."""
    evaluator, done = FormulaEvaluator(), list[Evaluated]()
    for number in range(count):
        genes = method.propose(number, done, stream_of(0, number))
        assert genes is not None
        candidate = method.candidate(genes)
        error = evaluator.judge(candidate, method.objective).error
        done.append(Evaluated(number, genes, candidate, error, candidate.cost(PRICED)))
    return done


class TestPlacement:
    def test_improves_on_every_seed_at_the_asked_costs(self) -> None:
        method = placement()
        done = evolve(method, 300)
        for target in TARGETS:
            affordable = [item for item in done if item.cost <= target + 1e-9]
            seeds = [item.error for item in affordable if item.number < len(method.seeds)]
            assert min(item.error for item in affordable) < 0.95 * min(seeds)

    def test_keeps_a_line_of_plain_children(self) -> None:
        children = [item.candidate for item in evolve(placement(), 60)[6:]]
        assert len(children) // 4 <= sum(child.plain for child in children) < len(children)

    def test_plain_only(self) -> None:
        assert all(item.candidate.plain for item in evolve(placement(plain_only=True), 40))

    def test_children_go_to_the_asked_costs(self) -> None:
        for item in evolve(placement(), 80)[6:]:
            assert item.cost <= TARGETS[(item.number - 6) % 2] + 1e-9

    def test_plan_and_candidate_agree(self) -> None:
        method = placement()
        for item in evolve(method, 20):
            plan = method.file_plan(item.genes)
            assert tuple(SCHEDULE.place(sigma) for sigma in plan.levels) == item.candidate.places
            assert plan.actions() == item.candidate.actions


class Exhausted(PlacementMethod):
    def propose(self, number, evaluated, stream):  # type: ignore[no-untyped-def]
        return super().propose(number, evaluated, stream) if number < 4 else None


def test_an_exhausted_space_ends_the_search_once(tmp_path: Path) -> None:
    base = placement()
    method = Exhausted(base.seeds, base.targets, base.variation)
    for _ in range(2):
        study = go(tmp_path / "run", method, FormulaEvaluator(), 10)
        assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE] * 4 + [TrialState.FAIL]


def test_optuna_front_is_ours(tmp_path: Path) -> None:
    study = go(tmp_path / "run", placement(), FormulaEvaluator(), 30)
    values = [(trial.values[0], trial.values[1]) for trial in study.get_trials()]
    assert {values[i] for i in front(values)} == {tuple(trial.values) for trial in study.best_trials}
