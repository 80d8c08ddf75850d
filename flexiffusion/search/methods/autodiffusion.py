"""AutoDiffusion (arXiv 2309.10438; docs/method.md 3): which timesteps, and which units each of them drops.

From the paper: a population of 50; the 10 best of all generations are the parents; of a generation 25 are mutants (each
position replaced with a probability between 0.1 and 0.25), 15 are crosses (uniform by position), the rest random; two
stages, timesteps only until the best repeats (at most 4 generations), then with a ceiling of dropped units that rises
by a fifth of its maximum each generation; a budget; no candidate twice; uniform timesteps in the first population.

Not from the paper:
- quadratic timesteps are in it too; the noise is the same for every candidate, so that none wins by luck; a step and
  the units that it drops stay together in variation; the budget holds for mutants and crosses as well.
- the first timestep is the noisiest one, where every host begins.
- the paper leaves open how many units a step may drop in the end: half of them.
- a mutant's unit is replaced by a coin's toss, so it changes with half of the probability.
- where the number of timesteps is free, half of the mutants gain one in the second stage.
- the budget is met from below: random units are dropped, or (where the number of timesteps is free) random timesteps
  taken out, until the schedule fits; then timesteps and units come back while one more still fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ...cost import CostTable
from ...noise import NoiseLevels, spaced_places
from ...schedule import Action, StepsPlan
from ..candidate import Candidate, make_candidate
from ..method import Evaluated, Genes, Method, Stream
from ..objective import Objective
from .dropping import UnitSpace
from .space import PlacementSpace

POPULATION = 50
PARENTS = 10
MUTANTS = 25
CROSSES = 15
RATES = (0.1, 0.25)
STEPS_GENERATIONS = 4
RAISES = 5
SHARE = 0.5  # of the units that a step may drop in the end
ATTEMPTS = 500

Steps = dict[int, frozenset[str]]  # place -> the units that it drops


@dataclass(frozen=True)
class AutoDiffusionMethod(Method):
    """One search per asked cost, by turns: trial n works on `targets[n % len(targets)]` (in full steps).

    `count` is the number of timesteps, None: as many as the budget pays for. `steps_only` never drops a unit.
    """

    levels: NoiseLevels
    targets: Sequence[float]
    costs: CostTable
    branches: int
    count: int | None = None
    steps_only: bool = False
    objective: Objective = field(default=Objective("latent"))

    @cached_property
    def units(self) -> tuple[str, ...]:
        return tuple(self.costs.units)

    @cached_property
    def most(self) -> int:
        """How many units a step may drop in the end."""
        return int(len(self.units) * SHARE)

    @cached_property
    def cheapest(self) -> float:
        """The least cost of a step, in full steps."""
        costliest = sorted((saving.cost for saving in self.costs.units.values()), reverse=True)[: self.most]
        return 1.0 if self.steps_only else 1 - sum(costliest) / self.costs.full

    @cached_property
    def space(self) -> UnitSpace:
        slots = self.count or min(len(self.levels), int(max(self.targets) / self.cheapest) + 1)
        return UnitSpace(PlacementSpace(len(self.levels) - 1, slots, self.branches), self.units)

    @property
    def genes(self) -> dict[str, range]:
        return self.space.genes

    def candidate(self, genes: Genes) -> Candidate:
        return self.space.decode(genes)

    def file_plan(self, genes: Genes) -> StepsPlan:
        return self.candidate(genes).steps_plan(self.levels)

    def propose(self, number: int, evaluated: Sequence[Evaluated], stream: Stream) -> dict[str, int] | None:
        turn, position = divmod(number, len(self.targets))
        generation, place = divmod(turn, POPULATION)
        target = self.targets[position]
        known = {item.candidate.key for item in evaluated}
        mine = [item for item in evaluated if item.number % len(self.targets) == position]
        generations = [
            [item for item in mine if item.number // len(self.targets) // POPULATION == g] for g in range(generation)
        ]
        earlier = sorted((item for items in generations for item in items), key=lambda item: item.error)
        parents = [_steps(item.candidate) for item in earlier[:PARENTS]]
        ceiling = self.ceiling(target, generations)
        for attempt in range(ATTEMPTS):
            steps = None
            if not parents and attempt == 0:
                steps = self._seed(place, target)
            elif parents and place < MUTANTS:
                steps = self._mutated(parents[stream.integers(len(parents))], ceiling, stream)
            elif parents and place < MUTANTS + CROSSES:
                one, other = (parents[stream.integers(len(parents))] for _ in range(2))
                steps = self._crossed(one, other, stream)
            fitted = self._fitted(steps or self._random(target, ceiling, stream), target, ceiling, stream)
            if fitted is None:
                continue
            candidate = make_candidate(fitted, [Action("full", drop=tuple(drop)) for drop in fitted.values()])
            if candidate.key not in known:
                return self.space.encode(candidate)
        return None

    def ceiling(self, target: float, generations: Sequence[Sequence[Evaluated]]) -> int:
        """How many units a step of the next generation may drop, given the finished generations."""
        if self.steps_only:
            return 0
        if self.count is not None and self.count > target + 1e-9:
            return self.most  # so many timesteps cannot be had whole
        best: list[float] = []
        begin = STEPS_GENERATIONS
        for number, items in enumerate(generations):
            best.append(min([*best[-1:], *(item.error for item in items)], default=float("inf")))
            if number > 0 and best[-1] == best[-2]:
                begin = min(begin, number + 1)
        raises = max(0, len(generations) - begin + 1)
        return min(self.most, -(-self.most * raises // RAISES))

    def _seed(self, place: int, target: float) -> Steps | None:
        """Uniform and quadratic timesteps, whole."""
        count = self.count or int(target + 1e-9)
        if place > 1 or count < 1:
            return None
        return dict.fromkeys(spaced_places(self.levels, count, ("uniform", "quadratic")[place]), frozenset())

    def _random(self, target: float, ceiling: int, stream: Stream) -> Steps:
        first = len(self.levels) - 1
        fewest = max(1, int(target + 1e-9))
        most = fewest if ceiling == 0 else min(self.space.slots, int(target / self.cheapest))
        count = self.count or int(stream.integers(fewest, max(fewest, most) + 1))
        chosen = [first, *stream.choice(first, count - 1, replace=False)]
        return {
            int(t): frozenset(stream.permutation(self.units)[: stream.integers(ceiling + 1)].tolist()) for t in chosen
        }

    def _mutated(self, parent: Steps, ceiling: int, stream: Stream) -> Steps:
        """Each timestep, and each unit of each step, is replaced with one probability; a step keeps its units."""
        rate = stream.uniform(*RATES)
        first = len(self.levels) - 1
        child: Steps = {}
        for place, drop in parent.items():
            if place != first and stream.random() < rate:
                place = int(stream.integers(first))
            if ceiling:
                flipped = {unit for unit in self.units if stream.random() < rate / 2}
                kept = stream.permutation(sorted(drop ^ flipped))[:ceiling]
                drop = frozenset(kept.tolist())
            child.setdefault(place, drop)
        if self.count is None and ceiling and len(child) < self.space.slots and stream.random() < 0.5:
            self._insert(child, stream)  # paid for by dropped units or by another timestep, as it comes
        return child

    def _crossed(self, one: Steps, other: Steps, stream: Stream) -> Steps:
        """Position by position the step of either parent, with the units that it drops; both in falling order."""
        longer, shorter = sorted((sorted(one.items(), reverse=True), sorted(other.items(), reverse=True)), key=len)[
            ::-1
        ]
        child: Steps = {}
        for i, step in enumerate(longer):
            if i < len(shorter):
                step = step if stream.random() < 0.5 else shorter[i]
            elif stream.random() < 0.5:
                continue
            child.setdefault(*step)
        return child

    def cost(self, steps: Steps) -> float:
        """In full steps."""
        saved = sum(self.costs.units[unit].cost for drop in steps.values() for unit in drop)
        return len(steps) - saved / self.costs.full

    def _fitted(self, steps: Steps, target: float, ceiling: int, stream: Stream) -> Steps | None:
        """The steps brought to the asked number, and to the budget from below; None: they cannot be."""
        steps = dict(steps)
        while self.count is not None and len(steps) < self.count:  # two positions fell on one timestep
            self._insert(steps, stream)
        thinning = stream.random() < 0.5  # else timesteps go first, of which each saves as much as many units
        while self.cost(steps) > target + 1e-9:
            droppable = [(t, unit) for t, drop in steps.items() if len(drop) < ceiling for unit in self.units
                         if unit not in drop]  # fmt: skip
            removable = [t for t in steps if t != len(self.levels) - 1] if self.count is None else []
            if removable and not (thinning and droppable):
                del steps[removable[stream.integers(len(removable))]]
            elif droppable:
                place, unit = droppable[stream.integers(len(droppable))]
                steps[place] |= {unit}
            else:
                return None
        while True:
            slack = target + 1e-9 - self.cost(steps)
            if self.count is None and slack >= 1 and len(steps) < self.space.slots:
                self._insert(steps, stream)
                continue
            back = [(t, unit) for t, drop in steps.items() for unit in sorted(drop)
                    if self.costs.units[unit].cost / self.costs.full <= slack]  # fmt: skip
            if not back:
                return steps
            place, unit = back[stream.integers(len(back))]
            steps[place] -= {unit}

    def _insert(self, steps: Steps, stream: Stream) -> None:
        free = [t for t in range(len(self.levels)) if t not in steps]
        steps[free[stream.integers(len(free))]] = frozenset()


def _steps(candidate: Candidate) -> Steps:
    return {place: frozenset(action.drop) for place, action in zip(candidate.places, candidate.actions, strict=True)}
