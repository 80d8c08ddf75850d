"""One call of a host's sampler under a schedule. Whatever it changes is an attribute of an object, put back at the end.

Changed while the sampler runs: `forward` of the CFG denoiser (which noise level is asked for, and which step of the
prompt schedule it is) and of the network (one network call: full or partial, by the core's Run). Nothing is
re-implemented, so ControlNet, FreeU, HyperTile and whoever else wraps the same attributes before or after us still run.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor

from flexiffusion.attributes import Attributes
from flexiffusion.errors import FlexiffusionError, ModelMismatch
from flexiffusion.families import FAMILIES
from flexiffusion.fit import distilled, require_fit, require_noise
from flexiffusion.host import SamplingReport, in_full, nothing_saved, total, why_not_cut
from flexiffusion.plan import LevelMapping
from flexiffusion.presets import Preset
from flexiffusion.run import Report, Run
from flexiffusion.schedule import FULL, Schedule
from flexiffusion.solver import own_sampler

from .automatic import Chooser
from .levels import Levels, Sigmas, levels_of, positions
from .network import Network

MARK = "flexiffusion"  # the attribute by which the denoiser callback and a second attachment find a sampling


class Sampling:
    """Lays a schedule over the next call of one sampler object.

    Args:
        schedule: or what chooses it, once it is known what is sampled.
        sampler: the host's, with `func`, `config`, `model_wrap_cfg` and `get_sigmas` or `get_timesteps`.
        network: the network that is loaded right now; asked again at every evaluation, since a refiner may change it.
        presets: what else there is, for the refusal of a schedule that does not fit.
        warn: is told what the user should know, in one sentence.
        refuse: is told, in one sentence, why the sampler runs the plain way.
        finish: is told what was run, also after an interrupt or an exception; never when the plain way was taken.
        progress: is told of how many of the host's steps there was nothing to do.
    """

    def __init__(
        self,
        sampler: Any,
        schedule: Schedule | Chooser,
        mapping: LevelMapping,
        network: Callable[[], Network | None],
        presets: tuple[Preset, ...],
        warn: Callable[[str], None],
        refuse: Callable[[str], None],
        finish: Callable[[SamplingReport], None],
        progress: Callable[[int], None],
    ) -> None:
        self._sampler = sampler
        self._chooser = None if isinstance(schedule, Schedule) else schedule
        if isinstance(schedule, Schedule):
            self._schedule = schedule
        self._mapping = mapping
        self._find_network = network
        self._presets = presets
        self._warn = warn
        self._refuse = refuse
        self._finish = finish
        self._progress = progress
        self._whole: Tensor | None = None
        self._attached = Attributes()
        self._denoiser = Attributes()
        self._unet = Attributes()
        self._network: Network | None = None
        self._run: Run | None = None
        self._reports: list[Report] = []
        self._sigma = math.nan
        self._conditionings = Conditionings()
        self._asked = 0.0  # when the denoiser was last called

    def attach(self) -> None:
        """Takes the place of the sampler's function for its next call. Attaching again replaces, never nests."""
        earlier = getattr(self._sampler.func, MARK, None)
        if isinstance(earlier, Sampling):
            earlier.detach()
        original = self._sampler.func

        # hosts look at the function's signature, which `wraps` lets them see through to the original
        @functools.wraps(original)
        def func(model: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.detach()
            return self._sample(original, model, x, args, kwargs)

        setattr(func, MARK, self)
        self._attached.put_function(self._sampler, "func", func)
        for name in ("get_sigmas", "get_timesteps"):
            if hasattr(self._sampler, name):
                self._attached.put_function(self._sampler, name, self._noting(getattr(self._sampler, name)))

    def detach(self) -> None:
        """Gives the sampler back what it had."""
        self._attached.undo()

    def begin_evaluation(self) -> None:
        """The denoiser is about to call the network; a refiner, if any, has been loaded by now."""
        network = self._find_network()
        if network is None:
            self._leave_network()
            return
        if not network.is_same(self._network):
            self._enter_network(network)
        if self._run is not None:
            self._run.evaluate(self._sigma)

    def _noting(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(original)
        def noting(*args: Any, **kwargs: Any) -> Tensor:
            self._whole = result = original(*args, **kwargs)
            return result

        return noting

    def _sample(
        self, original: Callable[..., Tensor], model: Any, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        denoiser = self._sampler.model_wrap_cfg
        config = self._sampler.config
        try:
            levels = levels_of(config.name, original, kwargs, self._whole, denoiser)
            if self._chooser is not None:
                self._choose(self._chooser, levels)
            self._plan, replaced = levels.plan(self._schedule, self._mapping)
            self._require_fit()
        except FlexiffusionError as error:
            self._refuse(str(error))
            return original(model, x, *args, **kwargs)
        if self._plan.warning:
            self._warn(self._plan.warning)
        kwargs = kwargs | replaced
        second_order, run, step = bool(config.options.get("second_order", False)), original, None
        if self._plan.weights is not None:
            run = own_sampler(self._plan.levels, self._plan.weights)
            self._warn(f"{self._schedule.name} brings its own solver: sampler {config.name} is not used")
        if replaced or (second_order and run is not original):
            places = positions(levels, self._plan)
            step = _Steps(denoiser, places, second_order, run is original, kwargs.get("callback"))
            kwargs["callback"] = step.callback
        try:
            self._watch(denoiser, levels, step)
            result = run(model, x, *args, **kwargs)
        finally:
            self._denoiser.undo()
            self._leave_network()
            report = total(self._reports, self._plan.nulls)
            self._finish(SamplingReport(self._schedule.name, report, len(levels.run)))
        if step is not None:
            self._progress(len(levels.run) - step.done)
        self._check_refiner(denoiser, levels)
        if note := nothing_saved(self._schedule.name, report):
            self._warn(note)
        elif not (report.partial or report.null or report.dropped or _is_all_full(self._schedule)):
            self._warn(f"{self._schedule.name}: nothing was saved, over {len(levels.run)} steps every step is full")
        return result

    def _choose(self, chooser: Chooser, levels: Levels) -> None:
        """Takes the schedule for what is run: in img2img for the tail of the list alone, as if that were all of it."""
        self._schedule = chooser(levels.run, isinstance(levels, Sigmas), self._loaded())
        self._mapping = "position"
        levels.whole = levels.run

    def _loaded(self) -> Network:
        network = self._find_network()
        if network is None:
            raise FlexiffusionError("Flexiffusion: no model is loaded; it runs the plain way")
        return network

    def _require_fit(self) -> None:
        network = self._loaded()
        require_noise(self._schedule, network.noise, type(network.unet).__name__)
        try:
            require_fit(self._schedule, network.unet, self._presets)
        except ModelMismatch:
            if why_not_cut(network.unet) is None or self._schedule.model.family in FAMILIES:
                raise
            self._plan = in_full(self._plan)
            name = type(network.unet).__name__
            self._warn(f"{self._schedule.name}: {name} is not a network that can be cut, so only null steps act")
        if few := distilled(network.unet):
            self._warn(f"{self._schedule.name}: {few}")
        made_for = self._schedule.model.sha256
        if made_for and network.sha256 and made_for != network.sha256:
            self._warn(
                f"{self._schedule.name} was made for another checkpoint of this family "
                f"({made_for[:10]}, loaded is {network.sha256[:10]}); its quality was not measured there"
            )

    def _check_refiner(self, denoiser: Any, levels: Levels) -> None:
        """Says so where a refiner was asked for and the steps at which it comes were left out."""
        p = getattr(denoiser, "p", None)
        refiner = getattr(p, "refiner_checkpoint_info", None)
        is_last_pass = getattr(p, "is_hr_pass", False) or not getattr(p, "enable_hr", False)
        left_out = sum(level < self._plan.levels[-1] for level in levels.run)
        if p is None or refiner is None or not is_last_pass or not left_out or "Refiner" in p.extra_generation_params:
            return
        if self._network is None or self._network.checkpoint != refiner:
            self._warn(
                f"{self._schedule.name}: the refiner did not take over, because the last {left_out} of "
                f"{len(levels.run)} steps are null. Let it come earlier, or use another schedule"
            )

    def _watch(self, denoiser: Any, levels: Levels, step: _Steps | None) -> None:
        original = denoiser.forward

        def forward(x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._asked = time.perf_counter()
            # one value is read from the device for each evaluation, as samplers do themselves
            self._sigma = self._usable(levels.sigma(float(sigma.flatten()[0])))
            self._conditionings.begin(x.shape[0])
            if step is not None:
                step.set()
            return original(x, sigma, *args, **kwargs)

        self._denoiser.put_function(denoiser, "forward", forward)
        self._denoiser.put(denoiser, MARK, self)

    def _usable(self, sigma: float) -> float:
        """The level itself; a host's slip (0, not a number) is taken for the nearest level of the plan."""
        if 0 < sigma < math.inf:
            return sigma
        return self._plan.levels[-1] if sigma <= 0 else self._plan.levels[0]

    def _enter_network(self, network: Network) -> None:
        first = self._network is None
        self._leave_network(self._asked)  # what comes between was the loading of the other network
        self._network = network
        plan = self._plan
        if not first:
            try:
                require_noise(self._schedule, network.noise, type(network.unet).__name__)
                require_fit(self._schedule, network.unet, self._presets)
            except FlexiffusionError as error:
                plan = in_full(plan)
                self._warn(f"{error}. It runs in full from here on")
        self._run = run = Run(network.unet, plan, network.noise)
        original = network.unet.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            sample = args[0] if args else kwargs.get("x")
            if not isinstance(sample, Tensor):
                return original(*args, **kwargs)
            return run(lambda: original(*args, **kwargs), sample, self._conditionings.of(sample, kwargs))

        self._unet.put_function(network.unet, "forward", forward)

    def _leave_network(self, ended: float | None = None) -> None:
        self._unet.undo()
        if self._run is not None:
            self._run.close(ended)
            self._reports.append(self._run.report)
            self._run = None


def begin_evaluation(denoiser: Any) -> None:
    """For the host's callback before every evaluation: nothing, unless this denoiser samples under a schedule."""
    sampling = vars(denoiser).get(MARK) if denoiser is not None else None
    if isinstance(sampling, Sampling):
        sampling.begin_evaluation()


class Conditionings:
    """The conditioning of each equal slice of a network call's batch.

    Forge says it. AUTOMATIC1111 gives its rows in one order, the conds first and the unconds last, be they joined,
    split or with the unconds left out: there the place of a row in the evaluation tells its conditioning.
    """

    def __init__(self) -> None:
        self._rows = 1
        self._offset = 0

    def begin(self, rows: int) -> None:
        """An evaluation of the sampler begins. rows: of its sample"""
        self._rows, self._offset = rows, 0

    def of(self, sample: Tensor, arguments: dict[str, Any]) -> tuple[Hashable, ...]:
        """Of one network call. arguments: the network's"""
        said = (arguments.get("transformer_options") or {}).get("cond_or_uncond")
        if said:
            return tuple(said)
        rows = sample.shape[0]
        size = self._rows if rows % self._rows == 0 and self._offset % self._rows == 0 else 1
        chunks = tuple((size, (self._offset + row) // size) for row in range(0, rows, size))
        self._offset += rows
        return chunks


class _Steps:
    """Keeps the host's count of steps where it would be, had no level been taken out.

    Prompt editing, AND schedules and the switch to a refiner by steps read `denoiser.step`, progress reads the
    callback's `i`.

    places:       of every evaluated level in the host's own list
    second_order: whether the host counts two evaluations a step, as for the sampler that was chosen
    evaluated_so: whether that sampler runs; else every step has one evaluation
    """

    def __init__(
        self,
        denoiser: Any,
        places: tuple[int, ...],
        second_order: bool,
        evaluated_so: bool,
        callback: Callable[..., Any] | None,
    ) -> None:
        self._denoiser = denoiser
        self._places = places
        self._second_order = second_order
        self._evaluated_so = evaluated_so
        self._callback = callback
        self.done = 0  # steps whose callback was called: between the two evaluations of a second-order step
        self._is_second = False

    def set(self) -> None:
        """Before an evaluation."""
        if self._is_second:
            self._denoiser.step = 2 * self._place(self.done - 1) + 1
        else:
            self._denoiser.step = self._place(self.done) * (2 if self._second_order else 1)
        self._is_second = False

    def callback(self, state: dict[str, Any]) -> Any:
        """The sampler's callback: a step's first evaluation is done."""
        place = self._place(self.done)
        self.done += 1
        self._is_second = self._second_order and self._evaluated_so
        return self._callback(state | {"i": place}) if self._callback is not None else None

    def _place(self, step: int) -> int:
        return self._places[min(step, len(self._places) - 1)]


def _is_all_full(schedule: Schedule) -> bool:
    return all(action == FULL for action in schedule.plan.actions())
