"""One run put together from its settings: model, references, method, evaluator."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path

from torch import nn

from flexiffusion.cost import CostTable
from flexiffusion.noise import spaced_places
from flexiffusion.search import macro_steps
from flexiffusion.search.fitting import TeacherPath
from flexiffusion.search.macro_steps import StepErrors
from flexiffusion.search.method import Method
from flexiffusion.search.objective import ReferenceName
from flexiffusion.search.planner import planned_at
from flexiffusion.search.prefixes import Prefixes
from flexiffusion.search.racing import stages
from flexiffusion.search.refining import Images
from flexiffusion.search.seeds import Seed, all_seeds, fitted_seeds
from flexsearch.choices import FITTED
from flexsearch.devices import automatic_batch
from flexsearch.errors import ConfigError
from flexsearch.evaluators.local import LocalEvaluator
from flexsearch.metrics.features import AUTO, CLASSIFIED, Features, load_features
from flexsearch.metrics.own_features import NAME as OWN
from flexsearch.metrics.own_features import OwnFeatures
from flexsearch.metrics.real_fid import RealFid, real_statistics
from flexsearch.models.checkpoint import Checkpoint, CheckpointDenoiser
from flexsearch.models.costs import count_macs, count_units, known_or_measured_ms
from flexsearch.models.load import load_model
from flexsearch.runs.methods import build
from flexsearch.runs.settings import Settings
from flexsearch.runs.step_errors import known_or_measured
from flexsearch.sampling.guidance import images_at, images_each, other_scales
from flexsearch.sampling.prompts import BUNDLED, read_prompts, split_prompts
from flexsearch.sampling.references import HELD_OUT, ImageSet, Reference, converged_places, reference
from flexsearch.sampling.solvers import SamplerSettings, solver_maker

FOLLOWED = 32  # search images whose teacher's way is kept, for the last fit of what was found


class Experiment:
    """What a run works with. Parts are made when they are first asked for."""

    _progress: Callable[[int], None] = staticmethod(lambda calls: None)

    def __init__(self, settings: Settings, references: Path) -> None:
        self.settings = settings
        self.folder = references

    @cached_property
    def model(self) -> Checkpoint:
        settings = self.settings
        return load_model(
            settings.model, settings.device, settings.dtype, settings.size, settings.prediction, settings.compiled,
            settings.frames,
        )  # fmt: skip

    @cached_property
    def batch(self) -> int:
        """Images sampled together, to begin with."""
        asked = self.settings.batch
        return (
            automatic_batch(self.model.device, self.model.bytes_per_image(self.sampling.guidance))
            if asked is None
            else asked
        )

    def described(self) -> str:
        """The model in one line: what was loaded, what was recognised, how it will run. Then a line for each note."""
        width, height = self.model.image_size
        frames = "" if self.model.frames is None else f", {self.model.frames} frames"
        line = f"{self.model.described()}, {width}x{height}{frames}, batch {self.batch}"
        return "\n".join([line, *self.model.note_lines(), *self._prompt_notes()])

    def _prompt_notes(self) -> list[str]:
        """What a person should know of the prompts that they gave."""
        settings = self.settings
        given = [*settings.prompts, *settings.held_out_prompts]
        if given and not self.model.conditional:
            return [f"note: {self.model.source} draws without prompts; those that were given are not used"]
        cut, read = (self.model.cut_prompts(given) if given else None) or (0, 0)
        return [
            f"note: {cut} of {len(given)} prompts have more than {read} tokens; the rest of each is not read"
        ] * bool(cut)

    @cached_property
    def features(self) -> Features:
        if self.features_name == OWN:
            if self.settings.real is not None:
                place = f"--features {self.settings.features}"
                problem = "a checkpoint's own features are of its latents, and real pictures have none"
                raise ConfigError(place, problem, "Choose inception:FILE, or package.module:Class")
            return OwnFeatures(self.model)
        return load_features(self.features_name).to(self.model.device)

    @property
    def features_name(self) -> str:
        """What the features are, as files write it: the bundled classifier of what the bundled models draw, else the
        checkpoint's own."""
        asked = self.settings.features
        if asked != AUTO:
            return asked
        return "bundled" if self.model.family in CLASSIFIED else OWN

    @cached_property
    def sampling(self) -> SamplerSettings:
        """Raises ConfigError for a solver that the model's kind of noise does not have."""
        for solver in {self.settings.usual_solver, self.settings.chosen_solver} - {FITTED}:
            solver_maker(solver, self.model.levels)
        guidance = self.settings.guidance
        default = self.model.default_guidance
        return SamplerSettings(self.settings.usual_solver, default if guidance is None else guidance)

    @cached_property
    def macs(self) -> CostTable:
        """Multiply-adds of every kind of step."""
        return count_macs(self.model, self.sampling.guidance)

    @cached_property
    def costs(self) -> CostTable:
        """What the search counts in: multiply-adds, or milliseconds of this device or of a given one.

        Raises ConfigError where the given one is of a model with other branches.
        """
        settings, given = self.settings, self.settings.other_device
        if settings.cost == "macs":
            return self.macs
        if settings.cost == "units":
            return count_units(self.model)
        if given is None:
            return known_or_measured_ms(self.model, self.sampling.guidance, self.batch, self.folder / "latency.json")
        self.check_profile(given)
        return given

    def check_profile(self, given: CostTable) -> None:
        """Raises ConfigError where a cost table of another device is of a model with other branches, or lacks units."""
        if set(given.partial) != set(self.macs.partial):
            raise ConfigError(
                "--profile",
                f"it has branches {min(given.partial)} to {max(given.partial)}, "
                f"but {self.model.source} has -1 to {self.model.branches - 1}",
                "Make it of the same model with `flexsearch profile --out`",
            )
        if self.settings.method in ("autodiffusion", "joint") and set(given.units) != set(self.macs.units):
            raise ConfigError(
                "--profile", "it does not tell what this model's layers cost", "Make it again with this version"
            )

    @cached_property
    def teacher(self) -> tuple[int, ...]:
        """The teacher's steps, as places on the model's levels."""
        return spaced_places(self.model.levels, self.settings.steps, self.settings.spacing)

    @cached_property
    def prompts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Search prompts and held-out prompts."""
        settings = self.settings
        if settings.held_out_prompts:
            return settings.prompts, settings.held_out_prompts
        if settings.prompts or self.model.prompts or not self.model.conditional:
            return split_prompts(settings.prompts or self.model.prompts)
        return read_prompts(BUNDLED, str(BUNDLED))

    def draw_references(self, progress: Callable[[int], None]) -> None:
        """Both evaluators, with their references. `progress` is told of `reference_calls` in all, as they are done."""
        self._progress = progress
        try:
            _ = self.search_evaluator, self.held_out_evaluator
        finally:
            del self._progress

    @property
    def reference_calls(self) -> int:
        """Network calls, of one image each, that the references of both image sets take."""
        settings = self.settings
        steps = {"teacher": len(self.teacher), "converged": len(converged_places(self.model))}
        searched = sum(steps[name] for name in {"teacher", settings.judged_by})
        return settings.images * searched + settings.held_out * sum(steps.values())

    @cached_property
    def search_evaluator(self) -> LocalEvaluator:
        judged_by = self.settings.judged_by
        followed = min(self.settings.images, FOLLOWED) if self.settings.fits else 0
        return self.evaluator_for_search(self._references(self._search_images, {"teacher", judged_by}, followed))

    def evaluator_for_search(self, references: dict[ReferenceName, Reference]) -> LocalEvaluator:
        """An evaluator on the search images, with references that are known."""
        prefixes = Prefixes(self.settings.memory << 20) if self.settings.memory else None
        path = None
        if self._fitted_on:
            judged_by = self.settings.judged_by
            sampling, places = self._ways[judged_by]
            maker = solver_maker(sampling.solver, self.model.levels)
            path = references[judged_by].path(maker, self.model.levels.sigmas(places))
        return self._evaluator(self._search_images, references, prefixes, path)

    @property
    def _fitted_on(self) -> int:
        """How many of the search images candidates' solvers are fitted on: those that each of them meets first."""
        return stages(self.settings.images)[0] if self.settings.fits else 0

    @property
    def _search_images(self) -> ImageSet:
        return ImageSet(self.settings.seed, 0, self.settings.images, self.prompts[0])

    @cached_property
    def held_out_evaluator(self) -> LocalEvaluator:
        return self.held_out_against({"teacher", "converged"})

    def held_out_against(self, needed: Collection[ReferenceName]) -> LocalEvaluator:
        """An evaluator on the held-out images, with these references only."""
        images = ImageSet(self.settings.seed, HELD_OUT, self.settings.held_out, self.prompts[1])
        return self._evaluator(images, self._references(images, needed))

    def evaluator_without_references(self, images: ImageSet) -> LocalEvaluator:
        """What samples candidates on other images; nothing is known there to compare them with."""
        return self._evaluator(images, {})

    @property
    def _ways(self) -> dict[ReferenceName, tuple[SamplerSettings, Sequence[int]]]:
        """Of the teacher; of the converged solution, by DPM-Solver++ 2M at the same guidance."""
        return {
            "teacher": (self.sampling, self.teacher),
            "converged": (SamplerSettings("dpmpp_2m", self.sampling.guidance), converged_places(self.model)),
        }

    def _references(
        self, images: ImageSet, needed: Collection[ReferenceName], followed: int = 0
    ) -> dict[ReferenceName, Reference]:
        """Those that are needed; that which candidates are judged by with the way of the `followed` first images."""
        features = (self.features_name, self.features)
        return {
            name: reference(
                self.model,
                sampling,
                images,
                places,
                features,
                self.folder,
                self.batch,
                followed if name == self.settings.judged_by else 0,
                self._progress,
            )
            for name, (sampling, places) in self._ways.items()
            if name in needed
        }

    def denoiser(self, images: ImageSet) -> CheckpointDenoiser:
        """The model, told what these images are to show."""
        return images.denoiser(self.model, self.sampling.guidance)

    def _evaluator(
        self,
        images: ImageSet,
        references: dict[ReferenceName, Reference],
        prefixes: Prefixes | None = None,
        path: TeacherPath | None = None,
    ) -> LocalEvaluator:
        return LocalEvaluator(
            denoiser=self.denoiser(images),
            solver=self.settings.usual_solver if self.settings.fits else self.settings.chosen_solver,
            noise=images.noise(self.model),
            references=references,
            features=self.features,
            macs=self.macs,
            judged_by=self.settings.judged_by,
            batch=self.batch,
            prefixes=prefixes,
            real=self.real,
            path=path,
            fitted_on=0 if path is None else self._fitted_on,
            elsewhere=self._other_scales,
        )

    def _other_scales(self) -> list[Images]:
        sampling, places = self._ways[self.settings.judged_by]
        return images_at(self.model, sampling, self._search_images, places, self.batch)

    @property
    def refined_images(self) -> int:
        """On how many images a solver is refined, those at other guidance scales among them."""
        images, scales = self.settings.images, other_scales(self.model, self.sampling.guidance)
        return images + len(scales) * images_each(images)

    @cached_property
    def real(self) -> RealFid | None:
        """FID to the real pictures that the settings name."""
        settings = self.settings
        if settings.real is None:
            return None
        features = self.features
        assert isinstance(features, nn.Module)  # own features are refused before
        named = (self.features_name, features)
        return RealFid(real_statistics(Path(settings.real), named, self.model.image_size, self.folder))

    @property
    def step_error_levels(self) -> int:
        """How often `step_errors` tells of progress where it measures: after each level of each batch."""
        images = min(self.settings.images, macro_steps.IMAGES)
        return len(macro_steps.grid_of(self.model.levels)) * math.ceil(images / self.batch)

    def step_errors(self, progress: Callable[[], None] = lambda: None) -> StepErrors:
        """What the planner plans by: errors of macro-steps over the first search images."""
        images = ImageSet(self.settings.seed, 0, min(self.settings.images, macro_steps.IMAGES), self.prompts[0])
        return known_or_measured(self.model, self.sampling, images, self.folder, self.batch, progress)

    @cached_property
    def planned(self) -> list[Seed]:
        """The planner's schedules at the asked costs."""
        return [
            Seed("planned", f"planned, {item.error:.2g} predicted", item.candidate)
            for item in planned_at(self.step_errors(), self.costs, self.settings.targets)
        ]

    @cached_property
    def seeds(self) -> list[Seed]:
        """Hand-made schedules within the asked costs, where the search begins."""
        settings = self.settings
        if settings.fits:
            return fitted_seeds(self.model.levels, self.costs, settings.targets, self.model.branches, settings.spacing)
        return self.seeds_at(settings.targets)

    def seeds_at(self, targets: Sequence[float]) -> list[Seed]:
        """Every hand-made schedule within these costs, in full steps."""
        return all_seeds(self.model.levels, self.teacher, self.costs, targets, self.model.branches)

    @cached_property
    def method(self) -> Method:
        """The search method, as the settings ask for it."""
        return build(self)
