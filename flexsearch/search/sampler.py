"""A search method as an Optuna sampler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from flexsearch.search.method import Evaluated, Method, stream_of


class SpaceExhausted(Exception):
    """The method found no candidate that has not been evaluated."""


class MethodSampler(BaseSampler):
    """Asks a `Method`. Trial n sees only finished trials with smaller numbers and the stream of (seed, n).

    So its proposal is a function of the study, and the same before and after a kill. Decoded trials are remembered, by
    number, to spare the decoding.
    """

    def __init__(self, method: Method, seed: int) -> None:
        self.method = method
        self.seed = seed
        self._decoded: dict[int, Evaluated] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.method.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
        genes = self.method.propose(trial.number, self.evaluated(before), stream_of(self.seed, trial.number))
        if genes is None:
            raise SpaceExhausted
        return genes

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
                candidate = self.method.candidate(trial.params)
                attributes = trial.user_attrs
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
