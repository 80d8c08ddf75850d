"""diffusers' own caches as rivals at an asked cost. Settings are chosen on the search images, as every rival's are."""

from __future__ import annotations

import functools
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy

from flexiffusion.search.candidate import plain
from flexiffusion.search.paired import Errors
from flexiffusion.search.racing import Judgement, least
from flexiffusion.search.seeds import near
from flexsearch.evaluators.local import LocalEvaluator
from flexsearch.models.diffusers_caches import (
    FORMS,
    CachingDenoiser,
    DiffusersCache,
    Form,
    Meter,
    first_block_cache,
    taylorseer,
)
from flexsearch.models.folder_config import in_short
from flexsearch.models.pipeline import PipelineDenoiser
from flexsearch.runs.experiment import Experiment

ORDERS = (1, 2)  # of TaylorSeer's series
THRESHOLDS = (1e-3, 2.0)  # of First-Block-Cache: hardly anything is left out, nearly everything
HALVINGS = 6  # of that range, by ratio
FIRST = 8  # search images that the threshold is found on
_log = logging.getLogger("flexiffusion")


@contextmanager
def caching(evaluator: LocalEvaluator, cache: DiffusersCache, meter: Meter | None = None) -> Iterator[LocalEvaluator]:
    """The same images and references, sampled with a cache on the network; it is taken off in the end."""
    assert isinstance(evaluator.denoiser, PipelineDenoiser)
    other, denoiser = copy(evaluator), CachingDenoiser(evaluator.denoiser, cache, meter)
    other.denoiser, other.prefixes, other.path = denoiser, None, None
    other.batch = cache.batch or evaluator.batch
    try:
        yield other
    finally:
        denoiser.close()


def cache_rivals(experiment: Experiment, target: float) -> Iterator[DiffusersCache]:
    """The best TaylorSeer that costs about `target` full steps, and the First-Block-Cache whose cost is nearest to it.

    Nothing for networks that diffusers has no caches for. Where its hooks do not run, a warning says so.
    """
    denoiser = experiment.search_evaluator.denoiser
    if not isinstance(denoiser, PipelineDenoiser) or not hasattr(denoiser.model.network, "enable_cache"):
        return
    finders: dict[str, Callable[[Experiment, float], DiffusersCache | None]] = {
        "TaylorSeer": best_taylorseer, "First-Block-Cache": nearest_first_block_cache
    }  # fmt: skip
    for title, find in finders.items():
        try:
            found = find(experiment, target)
        except MemoryError:
            raise
        except Exception as error:  # the hooks take for granted what blocks are called with and return
            name = type(denoiser.model.network).__name__
            _log.warning("no row of %s: diffusers' hook does not run on %s (%s)", title, name, in_short(error))
            continue
        if found is not None:
            yield found


def best_taylorseer(experiment: Experiment, target: float) -> DiffusersCache | None:
    """Of each form and order the shortest interval within the cost; of these the one of the least error."""
    evaluator, settings = experiment.search_evaluator, experiment.settings
    able = [
        taylorseer(form, order, interval, evaluator.model.dtype)
        for form in FORMS
        if (interval := shortest_interval(experiment, form, target)) is not None
        for order in ORDERS
    ]

    def judged(cache: DiffusersCache, rival: Errors | None) -> Judgement:
        with caching(evaluator, cache) as other:
            return other.judge(plain(experiment.teacher), settings.objective, rival, settings.usual_solver)

    return least(able, judged, evaluator.count, settings.objective)


def shortest_interval(experiment: Experiment, form: Form, target: float) -> int | None:
    """TaylorSeer's shortest interval that costs about `target` full steps; None: none does. Its order costs nothing."""

    @functools.cache
    def costs(interval: int) -> float:
        return cost(experiment, taylorseer(form, ORDERS[0], interval, experiment.model.dtype), 1)

    intervals = range(2, len(experiment.teacher))
    found = bisect_left(intervals, True, key=lambda interval: costs(interval) <= target + 1e-9)
    return intervals[found] if found < len(intervals) and near(costs(intervals[found]), [target]) else None


def nearest_first_block_cache(experiment: Experiment, target: float) -> DiffusersCache | None:
    """The threshold whose cost on the first search images is nearest."""
    images = min(FIRST, experiment.search_evaluator.count)
    low, high = THRESHOLDS
    tried = []
    for _ in range(HALVINGS):
        cache = first_block_cache((low * high) ** 0.5)
        tried.append((cost(experiment, cache, images), cache))
        low, high = (low, cache.config.threshold) if tried[-1][0] <= target else (cache.config.threshold, high)
    return min(tried, key=lambda item: abs(item[0] - target))[1]


def cost(experiment: Experiment, cache: DiffusersCache, images: int) -> float:
    """What the teacher's steps take with a cache, in full steps, of the first search images."""
    meter = Meter()
    with caching(experiment.search_evaluator, cache, meter) as evaluator:
        evaluator.evaluate(plain(experiment.teacher), 0, images, experiment.settings.usual_solver)
    return meter.macs(images) / experiment.macs.full
