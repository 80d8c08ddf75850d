"""A search method as an Optuna sampler."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from flexiffusion.search.candidate import Candidate
from flexiffusion.search.method import Evaluated, Genes, Method, stream_of, unknown
from flexsearch.runs import trial_candidate


class SpaceExhausted(Exception):
    """The method found no candidate that has not been evaluated."""


class MethodSampler(BaseSampler):
    """Asks a `Method`. Trial n sees only finished trials with smaller numbers and the stream of (seed, n).

    So its proposal is a function of the study, and the same before and after a kill. Where several are under way at a
    time, the numbers of those that trial n was proposed beside are stored with it (`pending`): it sees their
    candidates, lest one is proposed twice, as bad ones ("constant liar", Ginsbourger et al. 2010). Decoded trials are
    remembered, by number, to spare the decoding.
    """

    def __init__(self, method: Method, seed: int) -> None:
        self.method = method
        self.seed = seed
        self._decoded: dict[int, Evaluated] = {}
        self._expected: dict[int, Evaluated] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: IntDistribution(gene[0], gene[-1]) for name, gene in self.method.genes.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        pending = trial.user_attrs.get("pending", ())
        before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number and t.number not in pending]
        genes = self.propose(trial.number, [*self.evaluated(before), *self._unknown(pending)])
        if genes is None:
            raise SpaceExhausted
        return genes

    def propose(self, number: int, evaluated: Sequence[Evaluated]) -> dict[str, int] | None:
        """The genes of trial `number` after these; None when nothing new was found."""
        return self.method.propose(number, evaluated, stream_of(self.seed, number))

    def expect(self, number: int, genes: Genes, candidate: Candidate, cost: float) -> None:
        """Remember a trial that is under way."""
        self._expected[number] = unknown(number, genes, candidate, cost)

    def _unknown(self, pending: Collection[int]) -> list[Evaluated]:
        """Trials as they were known while they were under way; some have been finished before the driver died."""
        known = [self._expected.get(number) or self._decoded[number] for number in pending]
        return [unknown(item.number, item.genes, item.candidate, item.cost) for item in known]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise RuntimeError(f"{param_name} is not one of the search's genes")

    def evaluated(self, trials: Iterable[FrozenTrial]) -> Sequence[Evaluated]:
        """The finished ones of `trials`, decoded, by number."""
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        for trial in finished:
            if trial.number not in self._decoded:
                error, cost = trial.values
                attributes = trial.user_attrs
                steps = attributes.get(trial_candidate.KEY)  # which runs of older versions have not
                candidate = self.method.candidate(trial.params) if steps is None else trial_candidate.from_json(steps)
                self._decoded[trial.number] = Evaluated(
                    trial.number,
                    trial.params,
                    candidate,
                    error,
                    cost,
                    np.array(attributes["errors"]),
                    attributes["calls"],
                )
        return [self._decoded[trial.number] for trial in finished]
