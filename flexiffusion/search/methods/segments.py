"""The paper-faithful search (Flexiffusion, arXiv 2409.17566v2; docs/method.md 1).

From the paper: equal segments; in each one a full step, partial steps that reuse its feature, then nulls (`front`
layout); genes N, and per segment branch and interval; a random first population; segment-aware mutation and selection
only, no crossover; relative FID as fitness; a cost budget.

The paper leaves these open; our values:
- N: the divisors of T from 2 to T/2 that the budget can pay; for a T with fewer than three of them, the numbers of
  segments of nearly equal length (T / L rounded, L = 2, 3, ...; longer segments first).
- population 50, parents the 10 best of all generations (AutoDiffusion's numbers, arXiv 2309.10438, section 4.1);
- a child redraws branch and interval of each segment with probability 0.25 (at least one), and N with probability 0.1,
  in which case every segment is drawn anew;
- the budget is met exactly from below: random segments lose active steps, or fall to a shallower branch, until the
  schedule fits; then random segments gain active steps while one more still fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ...cost import CostTable
from ...schedule import Segment, SegmentsPlan
from ..candidate import Candidate, make_candidate
from ..method import Evaluated, Genes, Method, Stream
from ..objective import Objective

POPULATION = 50
PARENTS = 10
SEGMENT_RATE = 0.25
COUNT_RATE = 0.1
ATTEMPTS = 500
RFID = Objective("rfid")


def segment_lengths(total: int, count: int) -> tuple[int, ...]:
    """`count` lengths that sum to `total`, as equal as it allows, longer ones first."""
    length, longer = divmod(total, count)
    return (length + 1,) * longer + (length,) * (count - longer)


def segment_counts(total: int) -> tuple[int, ...]:
    """The values of N that the search tries (see the module's text)."""
    divisors = [count for count in range(2, total // 2 + 1) if total % count == 0]
    if len(divisors) >= 3:
        return tuple(divisors)
    return tuple(sorted({round(total / length) for length in range(2, total // 2 + 1)} | set(divisors)))


@dataclass(frozen=True)
class FlexiffusionMethod(Method):
    """One search per asked cost, by turns: trial n works on `targets[n % len(targets)]` (in full steps)."""

    teacher: tuple[int, ...]
    targets: Sequence[float]
    branches: int
    costs: CostTable
    objective: Objective = RFID

    @cached_property
    def counts(self) -> tuple[int, ...]:
        return segment_counts(len(self.teacher))

    @cached_property
    def genes(self) -> dict[str, range]:
        genes: dict[str, range] = {"segments": range(1, max(self.counts) + 1)}
        for i in range(max(self.counts)):
            genes[f"branch{i:02d}"] = range(self.branches)
            genes[f"interval{i:02d}"] = range(1, len(self.teacher) + 1)
        return genes

    def file_plan(self, genes: Genes) -> SegmentsPlan:
        lengths = segment_lengths(len(self.teacher), genes["segments"])
        return SegmentsPlan(
            tuple(
                Segment(length, genes[f"interval{i:02d}"], genes[f"branch{i:02d}"]) for i, length in enumerate(lengths)
            )
        )

    def candidate(self, genes: Genes) -> Candidate:
        actions = self.file_plan(genes).actions()
        kept = [(t, a) for t, a in zip(self.teacher, actions, strict=True) if a.kind != "null"]
        return make_candidate([t for t, _ in kept], [a for _, a in kept])

    def propose(self, number: int, evaluated: Sequence[Evaluated], stream: Stream) -> dict[str, int] | None:
        turn, position = divmod(number, len(self.targets))
        budget = self.targets[position]
        mine = [item for item in evaluated if item.number % len(self.targets) == position]
        known = {item.candidate.key for item in evaluated}
        generation = turn // POPULATION
        # Parents come from whole earlier generations, as in a generational algorithm run one by one.
        earlier = [item for item in mine if item.number // len(self.targets) < generation * POPULATION]
        parents = sorted(earlier, key=lambda item: item.error)[:PARENTS]
        for _ in range(ATTEMPTS):
            if parents:
                segments = self._mutated(self.file_plan(parents[stream.integers(len(parents))].genes), budget, stream)
            else:
                segments = self._random(self._random_count(budget, stream), stream)
            genes = self._genes(self._repaired(segments, budget, stream))
            if self.candidate(genes).key not in known:
                return genes
        return None

    def _random_count(self, budget: float, stream: Stream) -> int:
        payable = [count for count in self.counts if count <= budget + 1e-9] or [1]
        return payable[stream.integers(len(payable))]

    def _random(self, count: int, stream: Stream) -> list[Segment]:
        return [self._random_segment(length, stream) for length in segment_lengths(len(self.teacher), count)]

    def _random_segment(self, length: int, stream: Stream) -> Segment:
        branch = int(stream.integers(self.branches))
        return Segment(length, int(stream.integers(1, length + 1)), branch)

    def _mutated(self, plan: SegmentsPlan, budget: float, stream: Stream) -> list[Segment]:
        if stream.random() < COUNT_RATE:
            return self._random(self._random_count(budget, stream), stream)
        redrawn = stream.random(len(plan.segments)) < SEGMENT_RATE
        redrawn[stream.integers(len(plan.segments))] = True
        return [
            self._random_segment(segment.steps, stream) if again else segment
            for segment, again in zip(plan.segments, redrawn, strict=True)
        ]

    def _cost(self, segments: Sequence[Segment]) -> float:
        """Sum of C_full + (k - 1) C_partial(b) over the segments, in full steps (docs/method.md 1)."""
        return sum(1 + (s.active - 1) * self.costs.partial[s.branch] / self.costs.full for s in segments)

    def _repaired(self, segments: list[Segment], budget: float, stream: Stream) -> list[Segment]:
        segments = list(segments)
        while self._cost(segments) > budget + 1e-9:
            loose = [i for i, s in enumerate(segments) if s.active > 1]
            if not loose:
                break  # only full steps are left: the number of segments alone decides
            i = loose[stream.integers(len(loose))]
            s = segments[i]
            if s.branch > 0 and stream.random() < 0.5:
                segments[i] = Segment(s.steps, s.active, s.branch - 1)
            else:
                segments[i] = Segment(s.steps, s.active - 1, s.branch)
        while True:
            slack = budget + 1e-9 - self._cost(segments)
            room = [
                i
                for i, s in enumerate(segments)
                if s.active < s.steps and self.costs.partial[s.branch] / self.costs.full <= slack
            ]
            if not room:
                return segments
            i = room[stream.integers(len(room))]
            segments[i] = Segment(segments[i].steps, segments[i].active + 1, segments[i].branch)

    def _genes(self, segments: Sequence[Segment]) -> dict[str, int]:
        genes = {"segments": len(segments)}
        for i in range(max(self.counts)):
            segment = segments[i] if i < len(segments) else Segment(1, 1, 0)
            genes[f"branch{i:02d}"], genes[f"interval{i:02d}"] = segment.branch, segment.active
        return genes
