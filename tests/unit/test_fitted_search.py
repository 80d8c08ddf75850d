"""A search whose schedules have a solver each: what is judged, what is measured, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexiffusion.schedule import FULL, Action, StepsPlan
from flexiffusion.search.candidate import Candidate, make_candidate, plain
from flexiffusion.search.fitting import ABOUT_ONE, Fitting
from flexiffusion.search.method import Evaluated
from flexiffusion.search.methods.placement import PlacementMethod
from flexiffusion.search.objective import Objective
from flexiffusion.search.paired import squared_error
from flexiffusion.solver import Weights
from flexsearch.errors import ConfigError
from flexsearch.evaluators.local import LocalEvaluator
from flexsearch.runs import final_table
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.export import with_weights
from flexsearch.runs.settings import Settings
from flexsearch.sampling import references

LATENT = Objective("latent")
Refined = tuple[list[final_table.Entry], list[final_table.Entry], list[str]]
HEAD = Action("partial", -1, "linear")
SMALL = Settings(model="pixel", steps=6, speedups=(2.0,), images=10, held_out=3, batch=4, evaluations=160)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(SMALL, tmp_path_factory.mktemp("references"))


@pytest.fixture(scope="module")
def evaluator(experiment: Experiment) -> LocalEvaluator:
    return experiment.search_evaluator


def candidates(experiment: Experiment) -> list[Candidate]:
    first, second, third, *_, last = experiment.teacher
    return [
        make_candidate((first, second, third, last), [FULL, HEAD, FULL, FULL]),
        make_candidate((first, second, third, last - 20), [FULL, HEAD, FULL, HEAD]),
        plain((first, third, last)),
    ]


class TestJudging:
    def test_the_first_images_are_fitted_on_and_the_others_judge_with_these_weights(
        self, experiment: Experiment, evaluator: LocalEvaluator
    ) -> None:
        assert evaluator.fitted_on == 8
        candidate = candidates(experiment)[0]
        judged, weights = evaluator.judge(candidate, LATENT), evaluator.fit(candidate)
        rest = evaluator.evaluate(candidate, 8, 10, weights).trajectory.latents
        np.testing.assert_array_equal(
            judged.errors[8:], squared_error(rest, evaluator.references["teacher"].latents[8:10])
        )

    def test_it_is_nearer_to_the_teacher_than_the_usual_solver(
        self, experiment: Experiment, evaluator: LocalEvaluator
    ) -> None:
        for candidate in candidates(experiment):
            usual = evaluator.judge(candidate, LATENT, solver="dpmpp_2m").error
            assert evaluator.judge(candidate, LATENT).error < 0.8 * usual

    def test_races_and_shared_prefixes_change_nothing(self, experiment: Experiment, evaluator: LocalEvaluator) -> None:
        alone = experiment.evaluator_for_search(evaluator.references)
        alone.prefixes = None
        shared = experiment.evaluator_for_search(evaluator.references)
        rival = np.full(10, 1e9)  # nobody leaves
        for candidate in candidates(experiment):
            expected = alone.judge(candidate, LATENT)
            for again in (shared.judge(candidate, LATENT, rival), shared.judge(candidate, LATENT)):
                np.testing.assert_array_equal(again.errors, expected.errors)
            assert again.calls < expected.calls  # the second time

    def test_who_leaves_early_met_only_the_images_that_it_was_fitted_on(
        self, experiment: Experiment, evaluator: LocalEvaluator
    ) -> None:
        rival = np.full(10, 1e-9)
        assert len(evaluator.judge(candidates(experiment)[2], LATENT, rival).errors) == 8


def test_a_file_with_the_weights_is_measured_as_the_choice_was(experiment: Experiment) -> None:
    candidate = candidates(experiment)[0]
    solver = final_table.solver_of(experiment, candidate)
    assert not isinstance(solver, str)
    plan = with_weights(candidate.steps_plan(experiment.model.levels), solver)
    assert isinstance(plan, StepsPlan) and plan.weights == solver
    entry = final_table.Entry("found", 2.0, "found", candidate, solver)
    usual = final_table.Entry("plain", 2.0, "plain", candidate, "dpmpp_2m")
    again = final_table.Entry("placed_fitted", 2.0, "again", candidate, plan.weights)
    held_out = experiment.held_out_evaluator
    measured = final_table.measure(held_out, [entry, usual, again], lambda _: None)
    assert measured[0][1] is measured[2][1] and measured[0][1] is not measured[1][1]
    errors = [outcome.latent_errors("teacher").mean() for _, outcome in measured]
    assert errors[0] < 0.8 * errors[1]


def test_rivals_are_the_users_own_solver_others_and_fitted_ones(experiment: Experiment) -> None:
    chosen = final_table.rivals(experiment, 2.0, 3.0, final_table.Known(experiment))
    solvers = {entry.kind: entry.solver for entry in chosen}
    assert {kind: solvers[kind] for kind in ("plain", "uni_pc", "dpmpp_3m", "deepcache")} == {
        "plain": "dpmpp_2m", "uni_pc": "uni_pc", "dpmpp_3m": "dpmpp_3m", "deepcache": "dpmpp_2m"
    }  # fmt: skip
    assert not isinstance(solvers["plain_fitted"], str)


def test_what_has_more_steps_than_the_teacher_is_not_found(experiment: Experiment) -> None:
    """Hosts would not run it: they make no more calls than their user asked for."""
    longer = make_candidate(tuple(range(999, 299, -100)), [FULL, *[HEAD] * 6])
    assert len(longer.places) == 7 > len(experiment.teacher)
    items = [Evaluated(i, {}, one, 0.1 * i, 2.0) for i, one in enumerate([longer, *candidates(experiment)])]
    found = final_table.Entry("found", 2.0, "found", items[1].candidate, "dpmpp_2m")
    assert longer.key not in {item.candidate.key for item in final_table.contenders(experiment, found, items)}


class TestRefining:
    def test_samples_of_the_search_images_end_nearer(self, experiment: Experiment, evaluator: LocalEvaluator) -> None:
        candidate = candidates(experiment)[0]
        before = evaluator.judge(candidate, LATENT).error
        after = evaluator.evaluate(candidate, solver=evaluator.refine(candidate)).latent_errors("teacher")
        assert LATENT.of(after) < 0.95 * before

    @pytest.mark.parametrize("best", [0, 1, 2], ids=["judged by", "free", "about one"])
    def test_with_many_full_steps_it_is_what_ends_nearest(
        self, best: int, experiment: Experiment, evaluator: LocalEvaluator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of what the search judged the schedule with, and two fits on all images; the better ones are made poor."""
        monkeypatch.setattr("flexiffusion.search.refining.FEW", 2)
        monkeypatch.setattr(evaluator, "prefixes", None)  # they take for granted that one prefix has one fit
        candidate, poor = candidates(experiment)[0], Fitting(consistency=-0.5)
        assert candidate.actions.count(FULL) == 3
        usual = evaluator.fit(candidate), evaluator.fit(candidate, 10), evaluator.fit(candidate, 10, ABOUT_ONE)
        fits = list(usual)
        if best != 0:
            fitted = evaluator._fitted
            monkeypatch.setattr(evaluator, "_fitted", lambda one, n, how=poor: fitted(one, n, how if n == 10 else poor))
            fits[0] = evaluator.fit(candidate)
        if best != 1:
            monkeypatch.setattr("flexsearch.evaluators.local.Fitting", lambda: poor)
            fits[1] = evaluator.fit(candidate, 10, poor)
        if best == 0:
            monkeypatch.setattr("flexsearch.evaluators.local.ABOUT_ONE", poor)
            fits[2] = fits[1]
        errors = [LATENT.of(evaluator.evaluate(candidate, solver=one).latent_errors("teacher")) for one in fits]
        assert errors.index(min(errors)) == best, errors
        assert evaluator.refine(candidate) == usual[best]

        def from_one(weights: Weights) -> float:
            return sum(abs(sum(row) - 1) for row in weights)

        assert from_one(usual[2]) < 0.3 * from_one(usual[1])

    def test_only_what_the_search_made_is_refined(self, experiment: Experiment, refined: Refined) -> None:
        made, given, told = refined
        assert [entry.kind for entry in made] == ["found", "placed_fitted", "plain_fitted", "plain"]
        assert made[1].candidate == given[1].candidate and made[1].solver != given[1].solver
        assert made[2:] == given[2:]
        assert len(told) == 3 == final_table.refinements(experiment, given, self.evaluated(experiment))

    def test_what_is_nearest_then_is_found(self, experiment: Experiment, refined: Refined) -> None:
        made, _, _ = refined
        evaluator = experiment.search_evaluator

        def error(candidate: Candidate, solver: Any) -> float:
            return LATENT.of(evaluator.evaluate(candidate, solver=solver).latent_errors("teacher"))

        each = {candidate.key: error(candidate, evaluator.refine(candidate)) for candidate in candidates(experiment)}
        assert made[0].candidate.key == min(each, key=lambda key: each[key])
        assert error(made[0].candidate, made[0].solver) == min(each.values())
        assert made[0].file_plan == made[0].candidate.steps_plan(experiment.model.levels)

    @staticmethod
    def evaluated(experiment: Experiment) -> list[Evaluated]:
        """Finished trials of the candidates, which a search has found this good."""
        space = experiment.method
        assert isinstance(space, PlacementMethod)
        return [
            Evaluated(i, space.variation.space.encode(candidate), candidate, error, 2.9)
            for i, (candidate, error) in enumerate(zip(candidates(experiment), [0.2, 0.1, 0.3], strict=True))
        ]

    @pytest.fixture(scope="class")
    @classmethod
    def refined(cls, experiment: Experiment) -> Refined:
        """The entries refined, as they were before, and what was told."""
        evaluated, told = cls.evaluated(experiment), list[str]()
        solvers = [final_table.solver_of(experiment, item.candidate) for item in evaluated]
        placed = evaluated[2].candidate
        given = [
            final_table.Entry("found", 2.0, "found", evaluated[1].candidate, solvers[1]),
            final_table.Entry("placed_fitted", 2.0, "placed", placed, solvers[2]),
            final_table.Entry("plain_fitted", 2.0, "fitted", placed, solvers[2]),
            final_table.Entry("plain", 2.0, "plain", placed, "dpmpp_2m"),
        ]
        return final_table.with_refined(experiment, given, evaluated, told.append), given, told


class TestSettings:
    def test_our_searches_fit_and_the_papers_do_not(self) -> None:
        assert Settings().fits and Settings(method="joint").fits and Settings().usual_solver == "dpmpp_2m"
        papers = Settings(method="flexiffusion")
        assert not papers.fits and papers.solver_name == papers.usual_solver == "dpmpp_2m"
        with pytest.raises(ConfigError, match="--solver: --method autodiffusion has none that is fitted"):
            Settings(method="autodiffusion", solver="fitted")

    def test_the_teacher_is_sampled_as_the_user_does(self) -> None:
        assert Settings(solver="uni_pc").usual_solver == "uni_pc"
        assert Settings(teacher_solver="uni_pc").usual_solver == "uni_pc" and Settings(teacher_solver="uni_pc").fits
        with pytest.raises(ConfigError, match="--teacher-solver: 'fitted' is not known"):
            Settings(teacher_solver="fitted")

    def test_runs_of_before_go_on_as_they_were(self) -> None:
        document = json.loads(json.dumps(Settings(solver="ddim").to_dict()))
        del document["teacher_solver"]
        assert Settings.from_dict(document) == Settings(solver="ddim")


def test_a_converged_reference_is_what_is_fitted_to(tmp_path: Path) -> None:
    settings = Settings(model="pixel", steps=6, speedups=(2.0,), images=2, held_out=2, reference="converged")
    evaluator = Experiment(settings, tmp_path).search_evaluator
    assert evaluator.path is not None and len(evaluator.path.sigmas) == references.CONVERGED_STEPS
    assert np.array_equal(evaluator.path.end.numpy(), evaluator.references["converged"].latents.numpy())
