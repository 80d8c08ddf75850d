"""The search methods by name: what makes each from an experiment. A new one is a function and a line of `BUILDERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flexiffusion.search.method import Method
from flexiffusion.search.methods.autodiffusion import AutoDiffusionMethod
from flexiffusion.search.methods.dropping import UnitSpace
from flexiffusion.search.methods.joint import JointVariation
from flexiffusion.search.methods.placement import PlacementMethod
from flexiffusion.search.methods.segments import FlexiffusionMethod
from flexiffusion.search.methods.space import PlacementSpace, slots_for
from flexiffusion.search.methods.variation import Variation
from flexiffusion.search.seeds import Seed
from flexsearch.errors import ConfigError
from flexsearch.named import callable_of, is_named

if TYPE_CHECKING:
    from flexsearch.runs.experiment import Experiment


def placement(experiment: Experiment) -> Method:
    """Levels, kinds, branches and predictors: the default."""
    seeds = _seeds(experiment)
    space = _space(experiment, seeds)
    return _bred(experiment, seeds, Variation(space, experiment.model.levels, experiment.costs))


def joint(experiment: Experiment) -> Method:
    """As placement, and units that a step drops."""
    seeds = _seeds(experiment)
    units = UnitSpace(_space(experiment, seeds), tuple(experiment.costs.units))
    return _bred(experiment, seeds, JointVariation(units, experiment.model.levels, experiment.costs))


def flexiffusion(experiment: Experiment) -> Method:
    """Segments, as the Flexiffusion paper has them."""
    settings, branches = experiment.settings, experiment.model.branches
    return FlexiffusionMethod(experiment.teacher, settings.targets, branches, experiment.costs, settings.objective)


def autodiffusion(experiment: Experiment) -> Method:
    """Time steps and dropped units, as AutoDiffusion has them.

    Raises ConfigError for more time steps than the budget can ever pay for.
    """
    settings = experiment.settings
    method = AutoDiffusionMethod(
        experiment.model.levels,
        settings.targets,
        experiment.costs,
        experiment.model.branches,
        settings.timesteps,
        settings.plain_only,
        settings.objective,
    )
    for speedup, target in zip(settings.speedups, settings.targets, strict=True):
        if settings.timesteps is not None and settings.timesteps * method.cheapest > target + 1e-9:
            raise ConfigError(
                "--timesteps",
                f"{settings.timesteps} timesteps cost at least {settings.timesteps * method.cheapest:.1f} full "
                f"steps, but {speedup:g}x allows {target:.1f}",
                "Give fewer, or a lower --speedup",
            )
    return method


BUILDERS: dict[str, Callable[[Experiment], Method]] = {
    "placement": placement,
    "flexiffusion": flexiffusion,
    "autodiffusion": autodiffusion,
    "joint": joint,
}


def build(experiment: Experiment) -> Method:
    """The method that the settings ask for: one of `BUILDERS`, or what a `package.module:name` makes of the experiment.

    Raises ConfigError.
    """
    name = experiment.settings.method
    builder = callable_of("--method", name) if is_named(name) else BUILDERS[name]
    made: Method = builder(experiment)
    return made


def _seeds(experiment: Experiment) -> list[Seed]:
    """Where a search of ours begins.

    The plans first: whatever else is hand-made then races against them, and mostly meets a few images only.
    """
    settings = experiment.settings
    planned = experiment.planned if settings.planner else []
    known = {seed.candidate.key: seed for seed in [*planned, *experiment.seeds]}
    return [seed for seed in known.values() if seed.candidate.plain or not settings.plain_only]


def _space(experiment: Experiment, seeds: list[Seed]) -> PlacementSpace:
    slots = max(
        slots_for(experiment.costs, max(experiment.settings.targets), len(experiment.model.levels)),
        *(len(seed.candidate.places) for seed in seeds),
    )
    return PlacementSpace(experiment.teacher[0], slots, experiment.model.branches)


def _bred(experiment: Experiment, seeds: list[Seed], variation: Variation) -> Method:
    settings = experiment.settings
    return PlacementMethod(seeds, settings.targets, variation, settings.plain_only, settings.objective)
