"""The loop: ask, evaluate, tell; and how it goes on after a kill."""

from __future__ import annotations

from collections.abc import Callable

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from flexiffusion.cost import CostTable
from flexiffusion.search.evaluator import Evaluator, Job
from flexiffusion.search.racing import rival_of
from flexsearch.runs import trial_candidate
from flexsearch.runs.optuna_sampler import MethodSampler, SpaceExhausted


def search(
    study: Study,
    sampler: MethodSampler,
    evaluator: Evaluator,
    costs: CostTable,
    evaluations: int,
    racing: bool,
    on_trial: Callable[[int, float, float], None],
) -> None:
    """Evaluate until the study has `evaluations` finished trials, or nothing new can be found.

    A trial that was under way when the process died is asked again under its own number: the sampler's answer depends
    only on the trials before it (and on which of them were under way, which is stored), so with an evaluator of one
    slot the search ends as if it had never been interrupted, and with more nothing is proposed twice. With `racing` a
    candidate leaves when it is clearly worse than one that costs no more. `on_trial` is told number, error and cost of
    every finished trial; costs are counted by `costs`, in full steps.
    """
    under_way: dict[int, tuple[Trial, float]] = {}
    while True:
        while len(under_way) < evaluator.slots:
            trials = study.get_trials(deepcopy=False)
            trial = _next(study, trials, evaluations, set(under_way))
            if trial is None:
                break
            if under_way and not trial.user_attrs.get("pending"):
                # Stored before the genes are, so that a resumed search proposes the same: see MethodSampler.
                trial.set_user_attr("pending", sorted(under_way))
            try:
                genes = {
                    name: trial.suggest_int(name, gene[0], gene[-1]) for name, gene in sampler.method.genes.items()
                }
            except SpaceExhausted:
                # The number is spent; a failed trial says so, and makes a resumed search end at the same place.
                study.tell(trial, state=TrialState.FAIL)
                continue
            candidate = sampler.method.candidate(genes)
            cost = candidate.cost(costs)
            before = sampler.evaluated(t for t in trials if t.number < trial.number)
            objective = sampler.method.objective
            rival = rival_of(candidate, cost, before, evaluator.count) if racing and objective.races else None
            sampler.expect(trial.number, genes, candidate, cost)
            evaluator.submit(Job(trial.number, candidate, objective, rival, before, genes))
            under_way[trial.number] = trial, cost
        if not under_way:
            return
        job, judgement = evaluator.finished()
        trial, cost = under_way.pop(job.number)
        trial.set_user_attr("schedule", job.candidate.text())
        trial.set_user_attr(trial_candidate.KEY, trial_candidate.to_json(job.candidate))
        trial.set_user_attr("errors", judgement.errors.tolist())
        trial.set_user_attr("calls", judgement.calls)
        study.tell(trial, [judgement.error, cost])
        on_trial(trial.number, judgement.error, cost)


def _next(study: Study, trials: list[FrozenTrial], evaluations: int, under_way: set[int]) -> Trial | None:
    """First the trials that a killed process left behind, in their order; then a new one; None when there is none."""
    for trial in trials:
        if trial.state in (TrialState.RUNNING, TrialState.WAITING) and trial.number not in under_way:
            return Trial(study, trial._trial_id)
    exhausted = any(trial.state == TrialState.FAIL for trial in trials)
    return None if exhausted or len(trials) >= evaluations else study.ask()
