"""The loop: ask, evaluate, tell; and how it goes on after a kill."""

from __future__ import annotations

from collections.abc import Callable

from optuna.study import Study
from optuna.trial import Trial, TrialState

from flexiffusion.cost import CostTable
from flexsearch.engines.local import LocalEngine
from flexsearch.search.racing import rival_of
from flexsearch.search.sampler import MethodSampler, SpaceExhausted


def search(
    study: Study,
    sampler: MethodSampler,
    engine: LocalEngine,
    costs: CostTable,
    evaluations: int,
    racing: bool,
    on_trial: Callable[[int, float, float], None],
) -> None:
    """Evaluate until the study has `evaluations` finished trials, or nothing new can be found.

    A trial that was under way when the process died is asked again under its own number: the sampler's answer depends
    only on the trials before it, so the search ends as if it had never been interrupted. With `racing` a candidate
    leaves when it is clearly worse than one that costs no more. `on_trial` is told number, error and cost of every
    finished trial; costs are counted by `costs`, in full steps.
    """
    while True:
        trials = study.get_trials(deepcopy=False)
        under_way = [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
        exhausted = any(trial.state == TrialState.FAIL for trial in trials)
        if exhausted or (len(trials) >= evaluations and not under_way):
            return
        trial = Trial(study, under_way[0]._trial_id) if under_way else study.ask()
        try:
            genes = {
                name: trial.suggest_int(name, gene.low, gene.high)
                for name, gene in sampler.method.distributions.items()
            }
        except SpaceExhausted:
            # The number is spent; a failed trial says so, and makes a resumed search end at the same place.
            study.tell(trial, state=TrialState.FAIL)
            return
        candidate = sampler.method.candidate(genes)
        cost = candidate.cost(costs)
        before = sampler.evaluated(t for t in trials if t.number < trial.number)
        objective = sampler.method.objective
        rival = rival_of(candidate, cost, before, engine.count) if racing and objective.races else None
        judgement = engine.judge(candidate, objective, rival)
        trial.set_user_attr("schedule", candidate.text())
        trial.set_user_attr("errors", judgement.errors.tolist())
        trial.set_user_attr("calls", judgement.calls)
        study.tell(trial, [judgement.error, cost])
        on_trial(trial.number, judgement.error, cost)
