"""One sampling call: noise level -> action, the feature cache, the counts.

Rules 1, 3, 4 and 6 to 8 of the run (docs/design.md): an action belongs to a noise level; a partial call needs a cache
entry of the same conditioning identity, occurrence, rows, size, dtype and device, and any miss runs the call in full
and is counted; the state lives for one sampling call; what was really run is what is reported.
"""

from __future__ import annotations

import logging
import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn

from .cache import Chunk, Entry, Features, Finite, Key, Signature
from .cut import capturing, noticing, skipping
from .dropping import dropping, learning
from .errors import FlexiffusionError, ModelMismatch
from .feature import Feature, joined
from .layouts import Layout, find_layout
from .layouts.transformer import TransformerLayout
from .noise import NoiseKind
from .plan import Plan, uses_of
from .predictor import place_of, predict_feature
from .schedule import FULL, Action, span

T = TypeVar("T")
_log = logging.getLogger("flexiffusion")


@dataclass(frozen=True, slots=True)
class Report:
    """What was really run, in network calls; `null` in noise levels.

    Attributes:
        full: calls of the whole network, the misses included.
        partial: calls that passed deep units by.
        null: noise levels taken out of the sampler's list.
        misses: calls run in full that the plan wanted partial.
        seconds: wall time from the first evaluation to the end of the run, all that the host did in it included.
        cache_bytes: the most memory that cached features held at one time, in bytes.
        evaluations: of the sampler; of one or more network calls each.
        levels: noise levels of the plan.
        full_seconds: median wall time of an evaluation that ran in full only; the first one, which warms up, does not
            count where there are more; nor do those that dropped units. None: there was none.
        dropped: units that calls left out because the plan drops them, summed over the calls.
        skipped: calls in which the network did not run, because another node of the host left them out (EasyCache).
    """

    full: int
    partial: int
    null: int
    misses: int
    seconds: float
    cache_bytes: int
    evaluations: int = 0
    levels: int = 0
    full_seconds: float | None = None
    dropped: int = 0
    skipped: int = 0

    def speedup(self, steps: int) -> float | None:
        """How many times as long `steps` levels in full would have taken, by this run's own full evaluations.

        An estimate from wall time: it is as good as the host's clock is, so it needs the host to wait for the device at
        every evaluation (reading the noise level does that). None: nothing was run, or nothing in full.
        """
        if self.full_seconds is None or not self.seconds or not self.levels:
            return None
        return steps * self.evaluations / self.levels * self.full_seconds / self.seconds

    @property
    def rest(self) -> str:
        """What most runs have none of: "dropped units 40, skipped by another node 9, "."""
        dropped = f"dropped units {self.dropped}, " if self.dropped else ""
        return dropped + (f"skipped by another node {self.skipped}, " if self.skipped else "")

    def __str__(self) -> str:
        return (
            f"full {self.full}, partial {self.partial}, null {self.null}, misses {self.misses}, {self.rest}"
            f"{self.seconds:.2f} s, cache {self.cache_bytes / 2**20:.1f} MiB"
        )


class Run:
    """State of one sampling call; a context manager that frees all of it.

        with Run(network, plan) as run:
            for sigma in plan.levels:
                run.evaluate(sigma)
                output = run(lambda: network(...), sample, chunks=("cond", "uncond"))

    Args:
        network: what `forward` will call; modules are touched only inside a call.
        plan: what to do at every noise level. A plan without partial steps and dropped units accepts any network.
        noise: what the plan's levels are, see `noise`. Of a transformer the first evaluation drops no unit.

    Raises:
        ModelMismatch: the network has no layout that can be cut, or fewer branches than the plan's partial steps need,
            or not the units that it drops.
    """

    def __init__(self, network: nn.Module, plan: Plan, noise: NoiseKind = "vp") -> None:
        self._plan = plan
        self._noise: NoiseKind = noise
        branches = [action.branch for action in plan.actions if action.branch is not None]
        needs_layout = branches or any(action.drop for action in plan.actions)
        self._layout: Layout | None = find_layout(network) if needs_layout else None
        if self._layout is not None and max(branches, default=-1) >= self._layout.branches:
            raise ModelMismatch(
                f"branch {max(branches)}: this {type(network).__name__} has branches -1 to "
                f"{self._layout.branches - 1}. Use a schedule made for this model family"
            )
        self._actions = plan.actions or (FULL,)
        names = sorted({name for action in self._actions for name in action.drop})
        units = dict(zip(names, self._layout.named(names), strict=True)) if self._layout else {}
        self._dropped = [tuple(units[name] for name in action.drop) for action in self._actions]
        self._by_example = isinstance(self._layout, TransformerLayout) and any(self._dropped)
        self._left: dict[nn.Module, Any] = {}  # what is left of dropped blocks, as the first evaluation showed
        self._learns = False
        self._uses, self._last_full = uses_of(self._actions)
        self._cache: dict[Key, Chunk] = {}
        self._index = -1
        self._sigma = math.nan
        self._occurrences: Counter[Hashable] = Counter()
        self._full = self._partial = self._misses = self._peak = self._left_out = self._skipped = 0
        self._seen = False  # whether the network was seen to run: an engine in its place (TensorRT) never is
        self._evaluations = 0
        self._began = 0.0  # the evaluation in progress
        self._before = (0, 0, 0)  # full and partial calls, and dropped units, before it
        self._full_times: list[float] = []  # seconds of the evaluations that ran in full only, and dropped nothing
        self._started: float | None = None
        self._ended: float | None = None
        self._warned: set[str] = set()
        self._lock = threading.RLock()  # a network's calls come one after the other, whatever threads they come from

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, ended: float | None = None) -> None:
        """Frees every feature. The report stays.

        ended: when the run's last work was done, by `time.perf_counter`; None: now. A host that loads another network
            before it closes this run would have its loading counted.
        """
        self._cache.clear()
        if self._ended is None:
            self._ended = time.perf_counter() if ended is None else ended
            self._clock(self._ended)

    @property
    def report(self) -> Report:
        """Counts so far."""
        ended = time.perf_counter() if self._ended is None else self._ended
        return Report(
            full=self._full,
            partial=self._partial,
            null=self._plan.nulls,
            misses=self._misses,
            seconds=0.0 if self._started is None else ended - self._started,
            cache_bytes=self._peak,
            evaluations=self._evaluations,
            levels=len(self._plan.levels),
            full_seconds=statistics.median(self._full_times[1:] or self._full_times) if self._full_times else None,
            dropped=self._left_out,
            skipped=self._skipped,
        )

    def features(self) -> Features:
        """What is cached now, for a run that begins with the same steps."""
        chunks = {
            key: Chunk(chunk.shapes, {branch: list(e) for branch, e in chunk.histories.items()})
            for key, chunk in self._cache.items()
        }
        return Features(self._index, self._sigma, chunks, dict(self._left))

    def go_on(self, features: Features) -> None:
        """Takes the place, and the features, of a run that did the same steps up to here.

        The features must hold what the steps to come need (`needed`); what they need not is left out.
        """
        self._require_open()
        self._index, self._sigma = features.index, features.sigma
        self._left = dict(features.left)
        for key, chunk in features.chunks.items():
            histories = {
                branch: [
                    replace(e, until=self._uses[e.index][branch]) for e in entries if branch in self._uses[e.index]
                ]
                for branch, entries in chunk.histories.items()
            }
            self._cache[key] = Chunk(chunk.shapes, histories)
        self._forget()

    def evaluate(self, sigma: float) -> Action:
        """Begins one evaluation of the sampler, of one or more network calls, and tells what the plan wants there.

        Raises:
            FlexiffusionError: sigma is not a positive finite number, or the run is closed.
        """
        self._require_open()
        self._place = place_of(sigma, self._noise)
        self._sigma = sigma
        index = self._plan.index_at(sigma)
        if index != self._index:
            self._index = index
            self._forget()
        self._occurrences.clear()
        now = time.perf_counter()
        self._clock(now)
        self._evaluations += 1
        self._learns = self._by_example and not self._left
        self._began, self._before = now, (self._full, self._partial, self._left_out)
        if self._started is None:
            self._started = now
        return self._actions[index]

    def __call__(self, forward: Callable[[], T], sample: Tensor, chunks: Sequence[Hashable] = (0,)) -> T:
        """Runs one network call as the plan wants it and returns what the network returned.

        Args:
            forward: calls the network exactly once.
            sample: the network's input; only its shape, dtype and device are read. # (B, C, H, W)
            chunks: conditioning identity of each equal slice of the batch. Features are cached for each, so that they
                may come joint, split or swapped at another evaluation.

        Raises:
            FlexiffusionError: before `evaluate`, or after `close`.
        """
        with self._lock:
            self._require_open()
            if self._index < 0:
                raise FlexiffusionError("run: called before any evaluation. Call `evaluate(sigma)` first")
            return self._run(forward, sample, chunks)

    def _run(self, forward: Callable[[], T], sample: Tensor, chunks: Sequence[Hashable]) -> T:
        dropped = self._dropped[self._index]
        if self._learns:
            # of a transformer's blocks nobody knows what is left of them before they have run once
            with learning({unit for units in self._dropped for unit in units}) as left:
                result = self._called(forward, sample, chunks)
            self._left.update(left)
            return result
        if self._by_example:
            dropped = tuple(unit for unit in dropped if unit in self._left)
        self._left_out += len(dropped)
        with dropping(dropped, self._left):
            return self._called(forward, sample, chunks)

    def _called(self, forward: Callable[[], T], sample: Tensor, chunks: Sequence[Hashable]) -> T:
        rows, left = divmod(sample.shape[0], len(chunks)) if chunks else (0, 1)
        keys = self._keys(chunks, (rows, sample.shape[1:], sample.dtype, sample.device))
        action = self._actions[self._index]
        uses = self._uses[self._index]
        if action.branch is not None:
            context = None if left else self._skipping(keys, action)
            if context is not None:
                with context:
                    result = forward()
                if context.delivered:
                    self._partial += 1
                    return result
                if not context.called and self._seen:
                    self._skipped += 1
                    return result
                self._misses += 1
                self._full += 1
                problem = context.problem or "the part of the network that delivers the feature did not run"
                self._warn(f"{problem}; the call runs in full")
                return result if context.problem else forward()
        if left:
            self._warn(f"batch of {sample.shape[0]} rows does not part into {len(keys)} equal chunks; it runs in full")
            uses = {}
        result, ran = self._capture(forward, keys, sample.shape[0], uses)
        self._skipped += not ran
        self._full += ran
        self._misses += ran and action.branch is not None
        return result

    def _clock(self, now: float) -> None:
        """Ends the evaluation in progress."""
        full, partial, left_out = self._before
        if self._full > full and self._partial == partial and self._left_out == left_out:
            self._full_times.append(now - self._began)

    def _require_open(self) -> None:
        if self._ended is not None:
            raise FlexiffusionError("run: closed. Make a new Run for every sampling call")

    def _keys(self, chunks: Sequence[Hashable], signature: Signature) -> list[Key]:
        keys = []
        for identity in chunks:
            keys.append((identity, signature, self._occurrences[identity, signature]))
            self._occurrences[identity, signature] += 1
        return keys

    def _skipping(self, keys: list[Key], action: Action) -> skipping | None:
        """The context of a partial call; None: a miss."""
        assert self._layout is not None and action.branch is not None
        histories = []
        for key in keys:
            chunk = self._cache.get(key)
            if chunk is None:
                identity, _, _ = key
                seen = any(other[0] == identity for other in self._cache)
                what = "a size (or a dtype)" if seen else "a prompt (conditioning)"
                if not self._warned:  # else it is known why there is none
                    self._warn(f"a call with {what} that the last full step did not have runs in full")
                return None
            history = self._history(chunk, action)
            if history is None:
                return None
            histories.append(history)
        # one entry is handed over as it is: joining copies it, and a lone one is cloned when it is handed out
        parts = [self._predicted(action, history) if len(history) > 1 else history[0].feature for history in histories]
        if len({part.shapes for part in parts}) > 1:
            return None
        fresh = len(parts) > 1 or len(histories[0]) > 1
        return skipping(self._layout, action.branch, joined(parts), self._cache[keys[0]].shapes, fresh)

    def _predicted(self, action: Action, history: list[Entry]) -> Feature:
        if action.predictor != "spectrum":
            return predict_feature(action.predictor, [(e.place, e.feature) for e in history], self._place)
        last = max(1, len(self._actions) - 1)
        return predict_feature("spectrum", [(e.index / last, e.feature) for e in history], self._index / last)

    def _history(self, chunk: Chunk, action: Action) -> list[Entry] | None:
        """Features to predict from, newest last; None if there is none from the last full step."""
        assert action.branch is not None
        entries = chunk.histories.get(action.branch, [])
        used = entries[-span(action.predictor) :]
        for entry in [entry for entry in used if not entry.finite]:
            self._warn("a feature was not finite; calls that need it run in full")
            entries.remove(entry)
            used.remove(entry)
        # a feature is as long as the prompt it was made with: what does not fit to the newest is no help
        used = [entry for entry in used if entry.feature.shapes == used[-1].feature.shapes]
        return used if used and used[-1].index >= self._last_full[self._index] else None

    def _capture(self, forward: Callable[[], T], keys: list[Key], rows: int, uses: Mapping[int, int]) -> tuple[T, bool]:
        """What the call returned, and whether the network ran."""
        if self._layout is None:
            return forward(), True
        if not uses:
            with noticing(self._layout) as noticed:
                result = forward()
            return result, self._ran(noticed.called)
        self._make_room(keys)
        with capturing(self._layout, uses, len(keys), rows) as capture:
            result = forward()
        if not self._ran(capture.called):
            return result, False
        if capture.problem is not None:
            self._warn(f"{capture.problem}; partial steps run in full")
        for branch, slices in capture.slices.items():
            for key, feature in zip(keys, slices, strict=True):
                chunk = self._cache.setdefault(key, Chunk(capture.shapes))
                chunk.shapes = capture.shapes
                entry = Entry(self._index, uses[branch], self._place, feature, Finite(feature))
                chunk.histories.setdefault(branch, []).append(entry)
        self._peak = max(self._peak, sum(chunk.bytes for chunk in self._cache.values()))
        return result, True

    def _ran(self, called: bool) -> bool:
        """Whether the network ran in a call, by whether its units were called. Units that never are say nothing."""
        self._seen = self._seen or called
        return called or not self._seen

    def _make_room(self, keys: list[Key]) -> None:
        """Frees what the next capture replaces, before it: two generations would double the memory."""
        for key in keys:
            chunk = self._cache.get(key)
            if chunk is not None:
                chunk.keep(lambda entry: entry.index != self._index)

    def _forget(self) -> None:
        """Frees what no later step needs, and what comes from lower levels when a sampler goes up again."""
        for key, chunk in list(self._cache.items()):
            chunk.keep(lambda entry: entry.index <= self._index <= entry.until)
            if not chunk.histories:
                del self._cache[key]

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning("sigma %.4g: %s", self._sigma, message)
