"""Synchronous on many workers: trial by trial what one worker finds, sooner."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.study import Study
from pool_fixtures import SimulatedCluster
from search_fixtures import BRANCHES, PRICED, TEACHER, FormulaEvaluator
from test_driver import METHODS, trials_of

from flexiffusion.search.candidate import Candidate, plain
from flexiffusion.search.evaluator import Job
from flexiffusion.search.methods.segments import FlexiffusionMethod
from flexiffusion.search.objective import Objective
from flexiffusion.search.paired import Errors
from flexiffusion.search.racing import Judgement, race
from flexsearch.evaluators.pool import PoolEvaluator, WorkerLost
from flexsearch.evaluators.synchronous import SynchronousEvaluator, raced_again
from flexsearch.runs.driver import search
from flexsearch.runs.optuna_sampler import MethodSampler

pytestmark = pytest.mark.usefixtures("small_generations")
LATENT = Objective("latent")


class Racing(FormulaEvaluator):
    """The formula's errors on forty images, with noise that is each candidate's own."""

    count = 40

    def judge(self, candidate: Candidate, objective: Objective, rival: Errors | None = None) -> Judgement:
        error = super().judge(candidate, objective).error
        noise = np.random.default_rng(abs(hash(candidate.key)) % 2**32).normal(size=self.count)
        errors = (error * np.exp(0.3 * noise)) ** 2
        return race(lambda first, last: errors[first:last], self.count, rival, objective)


def seconds(job: Job) -> float:
    return 0.2 + np.random.default_rng(job.number).random()


def go(
    name: str, workers: int, evaluations: int = 40, deaths: float = 0.0, study: Study | None = None,
    evaluator: FormulaEvaluator | None = None,
) -> tuple[Study, SimulatedCluster, SynchronousEvaluator | None]:  # fmt: skip
    sampler, stream, evaluator = MethodSampler(METHODS[name], 0), np.random.default_rng(1), evaluator or Racing()
    study = study or optuna.create_study(directions=["minimize", "minimize"])
    study.sampler = sampler
    cluster = SimulatedCluster(
        evaluator,
        workers,
        seconds,
        lambda worker, job: WorkerLost("it died") if job is not None and stream.random() < deaths else None,
    )
    if workers == 1:
        search(study, sampler, evaluator, PRICED, evaluations, True, lambda *_: None)
        return study, cluster, None
    judge = SynchronousEvaluator(
        PoolEvaluator(cluster, evaluator.count, lambda _: None), sampler.method, 0, PRICED, evaluations, True
    )
    search(study, sampler, judge, PRICED, evaluations, True, lambda *_: None)
    return study, cluster, judge


@pytest.mark.parametrize("name", METHODS)
def test_trial_by_trial_the_search_of_one_worker(name: str) -> None:
    alone, _, _ = go(name, 1)
    for workers, deaths in ((2, 0.0), (4, 0.1)):
        study, cluster, judge = go(name, workers, deaths=deaths)
        assert trials_of(study) == trials_of(alone)
        errors = [[trial.user_attrs["errors"] for trial in made.get_trials()] for made in (study, alone)]
        assert errors[0] == errors[1]
        assert judge is not None and judge.right > 15
        assert len({worker for worker, _ in cluster.given}) == workers


def test_more_workers_than_a_generation_foresee_children_of_the_trial_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trial under way may be a parent of what is foreseen: its genes must be known."""
    monkeypatch.setitem(METHODS, "one target", FlexiffusionMethod(TEACHER, (5.0,), BRANCHES, PRICED))
    alone, _, _ = go("one target", 1, 60)
    study, _, judge = go("one target", 13, 60)
    assert trials_of(study) == trials_of(alone)
    assert judge is not None and judge.right > 15


def test_it_is_sooner() -> None:
    _, cluster, _ = go("placement", 4)
    one_by_one = sum(seconds(Job(number, cluster.given[0][1].candidate, LATENT)) for number in range(40))
    assert cluster.clock < 0.6 * one_by_one


def test_killed_again_and_again_it_still_is() -> None:
    alone, _, _ = go("placement", 1, 30)
    study = optuna.create_study(directions=["minimize", "minimize"])
    for stop_at in (0, 4, 9):
        with pytest.raises(KeyboardInterrupt):
            go("placement", 3, 30, study=study, evaluator=Racing(stop_at))
    go("placement", 3, 30, study=study)
    assert trials_of(study) == trials_of(alone)


def against(rival: Errors | None) -> Job:
    return Job(0, plain((999, 500)), LATENT, rival)


class TestRacedAgain:
    ERRORS = np.random.default_rng(0).lognormal(size=40)

    def met(self, rival: Errors | None, scale: float = 1.0) -> Judgement:
        return race(lambda first, last: scale * self.ERRORS[first:last], 40, rival, LATENT)

    def test_the_same_rival(self) -> None:
        judgement = self.met(self.ERRORS)
        assert raced_again(judgement, self.ERRORS, against(self.ERRORS.copy()), 40) is judgement
        alone = self.met(None)
        assert raced_again(alone, None, against(None), 40) is alone

    @pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
    def test_another_rival_as_if_it_had_been_met_at_once(self, scale: float) -> None:
        weak, strong = 30 * self.ERRORS[::-1], 0.1 * self.ERRORS
        again = raced_again(self.met(weak, scale), weak, against(strong), 40)
        wanted = self.met(strong, scale)
        assert again is not None and again.error == wanted.error and np.array_equal(again.errors, wanted.errors)

    def test_more_images_are_needed(self) -> None:
        strong = 0.1 * self.ERRORS
        left = self.met(strong)
        assert len(left.errors) < 40
        assert raced_again(left, strong, against(30 * self.ERRORS), 40) is None

    def test_other_batches(self) -> None:
        assert raced_again(self.met(None), None, against(self.ERRORS), 40) is None
        assert raced_again(self.met(self.ERRORS), self.ERRORS, against(None), 40) is None
