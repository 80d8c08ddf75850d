"""The default search: one front of error against cost, bred around the asked costs, seeded with every baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...schedule import StepsPlan
from ..candidate import Candidate
from ..front import best_first
from ..method import Evaluated, Genes, Method, Stream
from ..objective import Objective
from ..seeds import Seed
from .variation import Variation

ATTEMPTS = 500  # draws of a child before the neighbourhood counts as exhausted
CROSSED = 0.1  # of the children have two parents
LATENT = Objective("latent")


@dataclass(frozen=True)
class PlacementMethod(Method):
    """Proposes trial n from the evaluated trials before it: the seeds first, then children.

    Children go by turns to the asked costs (`targets`, in full steps). A child's parent is drawn by rank from NSGA-II's
    order of the candidates that cost at most the target (and not less than 60 % of it, where there are such), or is one
    of the best that are somewhat above it; the child's cost is then brought down to the target. Every third child has
    full steps only: the search keeps the best *placement of plain steps* as the rival of its own partial ones.
    """

    seeds: Sequence[Seed]
    targets: Sequence[float]
    variation: Variation
    plain_only: bool = False
    objective: Objective = LATENT

    @property
    def genes(self) -> dict[str, range]:
        return self.variation.space.genes

    def candidate(self, genes: Genes) -> Candidate:
        return self.variation.space.decode(genes)

    def file_plan(self, genes: Genes) -> StepsPlan:
        return self.candidate(genes).steps_plan(self.variation.levels)

    def propose(self, number: int, evaluated: Sequence[Evaluated], stream: Stream) -> dict[str, int] | None:
        if number < len(self.seeds):
            return self.variation.space.encode(self.seeds[number].candidate)
        turn, position = divmod(number - len(self.seeds), len(self.targets))
        target = self.targets[position]
        plain_child = self.plain_only or turn % 3 == 2
        known = {item.candidate.key for item in evaluated}
        pool = [item for item in evaluated if item.candidate.plain or not plain_child]
        order, above = self._parents(target, pool), self._above_budget(target, pool)
        for _ in range(ATTEMPTS):
            parents = above if above and stream.random() < 0.15 else order
            parent = parents[min(int(stream.geometric(0.5)) - 1, len(parents) - 1)]
            if stream.random() < CROSSED:
                parent = self.variation.cross(parent, order[stream.integers(min(4, len(order)))], stream)
            child = self.variation.fit(self.variation.mutate(parent, stream, plain_child), target, stream)
            if child.key not in known and len(child.places) <= self.variation.space.slots:
                return self.variation.space.encode(child)
        return None

    @staticmethod
    def _parents(target: float, pool: Sequence[Evaluated]) -> list[Candidate]:
        affordable = [item for item in pool if item.cost <= target + 1e-9]
        near = [item for item in affordable if item.cost >= 0.6 * target]
        chosen = near or affordable or sorted(pool, key=lambda item: item.cost)[:1]
        # By error first: the asked cost is a bound, so of two that keep it the better one is the likelier parent.
        leaders = sorted(chosen, key=lambda item: item.error)[:3]
        rest = [chosen[i] for i in best_first([(item.error, item.cost) for item in chosen])]
        return [item.candidate for item in dict.fromkeys([*leaders, *rest])]

    @staticmethod
    def _above_budget(target: float, pool: Sequence[Evaluated]) -> list[Candidate]:
        """The best candidates that cost up to 40 % too much: what was found there may survive losing a step."""
        above = [item for item in pool if target + 1e-9 < item.cost <= 1.4 * target]
        return [item.candidate for item in sorted(above, key=lambda item: item.error)[:3]]
