"""Variation of placement candidates. Every operator takes and gives a valid candidate and draws from the given stream.

Levels move in log sigma, where the solvers' steps are natural (arXiv 2206.00927, section 3.4).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from ...cost import CostTable
from ...noise import NoiseLevels, distinct
from ...schedule import FULL, Action, SegmentLayout
from ..candidate import DRAWN, Candidate, make_candidate
from ..method import Stream
from .dropping import dropping
from .space import PlacementSpace


@dataclass(frozen=True)
class Variation:
    """The operators over one space. `plain_only` keeps every step full: placement search."""

    space: PlacementSpace
    levels: NoiseLevels
    costs: CostTable

    def mutate(self, parent: Candidate, stream: Stream, plain_only: bool) -> Candidate:
        """One to three random changes; seven children in ten change once.

        Three changes in five move levels: what a step computes matters by jumps, where it lies matters smoothly, so
        small moves are what most improvements are made of.
        """
        moves = (self.move_one, self.bend)
        structure = (self.swap_kinds, self.redo_one, self.redo_all, self.insert, self.densify, self.trade, self.remove,
                     self.shift, self.change_interval, self.split_or_merge, self.realign)  # fmt: skip
        child = parent
        for _ in range(min(3, int(stream.geometric(0.7)))):
            operators = moves if plain_only or stream.random() < 0.6 else structure
            child = operators[stream.integers(len(operators))](child, stream)
        return child

    def cross(self, parent: Candidate, other: Candidate, stream: Stream) -> Candidate:
        """One-point crossover at a boundary: `parent`'s steps down to a full step of `other`, then `other`'s.

        No feature crosses a full step but for prediction, so both halves do what they did.
        """
        fulls = [i for i, action in enumerate(other.actions) if i > 0 and action.kind == "full"]
        if not fulls:
            return parent
        cut = fulls[stream.integers(len(fulls))]
        head = [step for step in zip(parent.places, parent.actions, strict=True) if step[0] > other.places[cut]]
        steps = [*head, *zip(other.places[cut:], other.actions[cut:], strict=True)][: self.space.slots]
        return make_candidate([place for place, _ in steps], [action for _, action in steps])

    def move_one(self, parent: Candidate, stream: Stream) -> Candidate:
        """Move one level (never the first) by a part of the gap to its neighbours."""
        if len(parent.places) < 2:
            return parent
        logs = self._logs(parent)
        i = self._late(1, len(logs), stream)
        below = logs[i + 1] if i + 1 < len(logs) else math.log(self.levels.sigma(0))
        gap = max(logs[i - 1] - below, 0.05) / 2
        logs[i] += stream.normal() * gap * 10 ** stream.uniform(-1.3, -0.1)
        return self._placed(logs, parent.actions)

    def bend(self, parent: Candidate, stream: Stream) -> Candidate:
        """Move a run of levels together by a smooth bump in log sigma; the first level stays."""
        logs = self._logs(parent)
        centre, width = stream.uniform(0, 1), 10 ** stream.uniform(-1, 0.3)
        height = stream.normal() * 10 ** stream.uniform(-1.5, 0) * (logs[0] - logs[-1]) / len(logs)
        places = np.arange(len(logs)) / max(1, len(logs) - 1)
        bumps = height * np.exp(-(((places - centre) / width) ** 2)) * np.minimum(1, places * len(logs))
        return self._placed([a + float(b) for a, b in zip(logs, bumps, strict=True)], parent.actions)

    def swap_kinds(self, parent: Candidate, stream: Stream) -> Candidate:
        """Exchange what two neighbouring steps do; the first step stays full."""
        if len(parent.actions) < 3:
            return parent
        i = self._late(1, len(parent.actions) - 1, stream)
        actions = list(parent.actions)
        actions[i], actions[i + 1] = actions[i + 1], actions[i]
        return make_candidate(parent.places, actions)

    def redo_one(self, parent: Candidate, stream: Stream) -> Candidate:
        """Give one step another action: a branch deeper or shallower, or full, or any branch with any predictor."""
        if len(parent.actions) < 2:
            return parent
        i = self._late(1, len(parent.actions), stream)
        actions, old = list(parent.actions), parent.actions[i]
        if old.branch is not None and stream.random() < 0.5:
            branch = old.branch + (1 if stream.random() < 0.6 else -1)
            actions[i] = self._reached(replace(old, branch=min(max(branch, -1), self.space.branches - 1)))
        else:
            new = FULL if old != FULL and stream.random() < 0.3 else self._partial(stream)
            actions[i] = self._reached(replace(new, drop=old.drop))
        return make_candidate(parent.places, actions)

    def redo_all(self, parent: Candidate, stream: Stream) -> Candidate:
        """Give all partial steps one branch, or one predictor."""
        model = self._partial(stream)
        by_branch = stream.random() < 0.5

        def changed(action: Action) -> Action:
            if action.kind != "partial":
                return action
            if by_branch:
                return self._reached(replace(action, branch=model.branch))
            return replace(action, predictor=model.predictor)

        return make_candidate(parent.places, [changed(action) for action in parent.actions])

    def insert(self, parent: Candidate, stream: Stream) -> Candidate:
        """Put a new step, full or partial, into a gap."""
        return self._inserted(parent, FULL if stream.random() < 0.3 else self._partial(stream), stream)

    def _inserted(self, parent: Candidate, action: Action, stream: Stream) -> Candidate:
        """The candidate with a step more; the wider the gap in log sigma, the likelier it gets the step."""
        if len(parent.places) >= self.space.slots:
            return parent
        logs = [*self._logs(parent), math.log(self.levels.sigma(0))]
        gaps = np.maximum(-np.diff(logs), 1e-3)
        i = int(stream.choice(len(gaps), p=gaps / gaps.sum()))
        level = self.levels.place(math.exp(logs[i] - stream.uniform(0.3, 0.7) * gaps[i]))
        if level in parent.places:
            return parent
        return make_candidate((*parent.places, level), (*parent.actions, action))

    def densify(self, parent: Candidate, stream: Stream) -> Candidate:
        """Put a partial step of one action into the middle of every gap, or of each one with even odds."""
        partial, share = self._partial(stream), 0.5 if stream.random() < 0.5 else 1.0
        logs = [*self._logs(parent), math.log(self.levels.sigma(0))]
        levels = {self.levels.place(math.exp((a + b) / 2)) for a, b in itertools.pairwise(logs)}
        free = stream.permutation(sorted(levels - set(parent.places)))[: self.space.slots - len(parent.places)]
        new = [int(level) for level in free if stream.random() < share]
        return make_candidate((*parent.places, *new), (*parent.actions, *(partial for _ in new)))

    def trade(self, parent: Candidate, stream: Stream) -> Candidate:
        """Give one full step (never the first) for one to four partial ones of one action: itself and new ones."""
        fulls = [i for i, action in enumerate(parent.actions) if i > 0 and action == FULL]
        if not fulls:
            return parent
        i, partial = fulls[stream.integers(len(fulls))], self._partial(stream)
        child = make_candidate(parent.places, [*parent.actions[:i], partial, *parent.actions[i + 1 :]])
        for _ in range(int(stream.integers(4))):
            child = self._inserted(child, partial, stream)
        return child

    def remove(self, parent: Candidate, stream: Stream) -> Candidate:
        """Take one step out (never the first)."""
        if len(parent.places) < 3:
            return parent
        return without(parent, self._late(1, len(parent.places), stream))

    def shift(self, parent: Candidate, stream: Stream) -> Candidate:
        """Move what the steps do by one step, earlier or later; the levels stay, and the first step stays full."""
        if len(parent.actions) < 3:
            return parent
        rest = list(parent.actions[1:])
        rest = rest[1:] + rest[:1] if stream.random() < 0.5 else rest[-1:] + rest[:-1]
        return make_candidate(parent.places, [FULL, *rest])

    def change_interval(self, parent: Candidate, stream: Stream) -> Candidate:
        """One segment (a full step and the partial ones after it) gets a partial step more or fewer, and lays them
        out anew."""
        segments = self._segments(parent)
        i = self._late(0, len(segments), stream)
        first, partials = segments[i].start, [parent.actions[k] for k in segments[i]][1:]
        if partials and stream.random() < 0.5:
            partials.pop()
        else:
            partials.append(partials[-1] if partials else self._partial(stream))
        if len(parent.places) + len(partials) + 1 - len(segments[i]) > self.space.slots:
            return parent
        logs = self._laid_out(parent, segments[i], len(partials), "even")
        levels = [self.levels.place(math.exp(value)) for value in logs]
        if len({*levels, *parent.places[: first + 1], *parent.places[segments[i].stop :]}) != (
            len(parent.places) - len(segments[i]) + 1 + len(levels)
        ):
            return parent  # there is no room for another level
        places = [*parent.places[: first + 1], *levels, *parent.places[segments[i].stop :]]
        actions = [*parent.actions[: first + 1], *partials, *parent.actions[segments[i].stop :]]
        return make_candidate(places, actions)

    def split_or_merge(self, parent: Candidate, stream: Stream) -> Candidate:
        """One segment more: a partial step becomes full; or one fewer: a segment's full step does what those before
        it do."""
        split = stream.random() < 0.5
        able = [i for i, action in enumerate(parent.actions) if i > 0 and (action.kind == "partial") == split]
        if not able:
            return parent
        i = able[self._late(0, len(able), stream)]
        before = parent.actions[i - 1]
        merged = before if before.kind == "partial" else self._partial(stream)
        return make_candidate(parent.places, [*parent.actions[:i], FULL if split else merged, *parent.actions[i + 1 :]])

    def realign(self, parent: Candidate, stream: Stream) -> Candidate:
        """The kinds as they are, the partial steps of every segment laid out anew: all `even` in log sigma between two
        full steps, or all at the `front` (the paper's layout, arXiv 2409.17566)."""
        layout: SegmentLayout = "even" if stream.random() < 0.7 else "front"
        logs = self._logs(parent)
        for segment in self._segments(parent):
            logs[segment.start + 1 : segment.stop] = self._laid_out(parent, segment, len(segment) - 1, layout)
        return self._placed(logs, parent.actions)

    def _segments(self, parent: Candidate) -> list[range]:
        """The places of each full step and the partial ones after it."""
        fulls = [i for i, action in enumerate(parent.actions) if action.kind == "full"]
        return [range(a, b) for a, b in itertools.pairwise([*fulls, len(parent.actions)])]

    def _laid_out(self, parent: Candidate, segment: range, partials: int, layout: SegmentLayout) -> list[float]:
        """Log sigmas for so many partial steps of a segment; at the front they take half of the room."""
        logs = self._logs(parent)
        here, below = logs[segment.start], math.log(self.levels.sigma(0))
        gap = (logs[segment.stop] if segment.stop < len(logs) else below) - here
        share = 1.0 if layout == "even" else 0.5
        return [here + share * gap * (k + 1) / (partials + 1) for k in range(partials)]

    @staticmethod
    def _late(first: int, stop: int, stream: Stream) -> int:
        """A place from `first` up to `stop`, half of the time the later of two: what changes late shares a longer
        prefix with its parent, and costs fewer network calls."""
        places = stream.integers(first, stop, size=2)
        return int(places.max() if stream.random() < 0.5 else places[0])

    def fit(self, candidate: Candidate, budget: float, stream: Stream) -> Candidate:
        """The candidate brought to at most `budget` full steps, by random cheap changes.

        Too costly: a random full step becomes partial, a partial one falls by a branch, or a step goes, until it fits.
        Among changes that suffice at once the smallest are preferred, so that little of the budget is left unused.
        """
        while candidate.cost(self.costs) > budget + 1e-9 and len(candidate.places) > 1:
            options = [without(candidate, i) for i in range(1, len(candidate.places))]
            if not candidate.plain:
                options += self._cheaper(candidate)
            fitting = [option for option in options if option.cost(self.costs) <= budget + 1e-9]
            if fitting:
                costliest = max(option.cost(self.costs) for option in fitting)
                options = [option for option in fitting if option.cost(self.costs) >= costliest - 0.25]
            candidate = options[int(stream.integers(len(options)))]
        return candidate

    def _cheaper(self, candidate: Candidate) -> list[Candidate]:
        result = []
        for i, action in enumerate(candidate.actions):
            if i == 0 or action.branch == -1:
                continue
            if action.branch is None:
                lower = Action("partial", -1, "linear", action.drop)
            else:
                lower = replace(action, branch=action.branch - 1)
            actions = [*candidate.actions[:i], self._reached(lower), *candidate.actions[i + 1 :]]
            result.append(make_candidate(candidate.places, actions))
        return result

    def _reached(self, action: Action) -> Action:
        """The action without dropped units that it does not come to: what runs the same is the same candidate."""
        return dropping(action, frozenset(action.drop), self.costs) if action.drop else action

    def _partial(self, stream: Stream) -> Action:
        """A random partial action; shallow branches are likelier: most of the gain is there (docs/method.md 7)."""
        branch = min(int(stream.geometric(0.4)) - 2, self.space.branches - 1)
        return Action("partial", branch, DRAWN[stream.integers(len(DRAWN))])

    def _logs(self, candidate: Candidate) -> list[float]:
        return [math.log(self.levels.sigma(place)) for place in candidate.places]

    def _placed(self, logs: list[float], actions: tuple[Action, ...]) -> Candidate:
        """Levels, from log sigmas, with the actions that they had; the first place is the space's."""
        wanted = sorted((self.levels.place(math.exp(value)) for value in logs[1:]), reverse=True)
        return make_candidate(distinct([self.space.first, *wanted], self.space.first), actions)


def without(candidate: Candidate, i: int) -> Candidate:
    """The candidate without its step `i`."""
    return make_candidate(
        candidate.places[:i] + candidate.places[i + 1 :], candidate.actions[:i] + candidate.actions[i + 1 :]
    )
