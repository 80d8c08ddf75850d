"""A diffusers pipeline's own sampling loop, run one evaluation at a time.

A pipeline's `__call__` knows all that its family of models wants: how prompts are encoded and latents packed, how time
is told, how guidance is made of one call of the network, or of two. None of that is written again here. The loop runs
in a thread of its own; where it calls its scheduler's `step`, it hands over what it would have stepped by, and waits
for the next sample and noise level. So every pipeline is a denoiser, whatever its family.
"""

from __future__ import annotations

import copy
import inspect
import queue
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from flexiffusion.conditioning import batch_of
from flexiffusion.search.denoiser import Calls

PROMPTS = 128  # that one pipeline's open calls hold text states of: megabytes each, where encoders are large
LoopKey = tuple[tuple[str, ...], float]  # prompts and guidance
EVALUATIONS = 4096  # of one call of a pipeline; then it is called anew


class _Stopped(BaseException):  # not an Exception: pipelines catch those
    """Thrown into a loop that nobody needs any more."""


@dataclass(frozen=True)
class Call:
    """What a pipeline called its network with."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def on(self, network: Callable[..., Any], device: str | torch.device) -> Any:
        """Makes the call again, with its tensors on a device."""
        return network(*moved(self.args, device), **moved(dict(self.kwargs), device))


@dataclass
class Asked:
    """What a pipeline asked of its scheduler when it began: the arguments of `set_timesteps`, its own latents, and the
    first output that it would have stepped by."""

    timesteps: Mapping[str, Any] = field(default_factory=dict)
    latents: Tensor | None = None
    output: Tensor | None = None
    calls: list[Call] = field(default_factory=list)


class NetworkProxy:
    """In place of a pipeline's network: all that it is, but calls go through a `Run`, and are recorded at first."""

    def __init__(self, network: nn.Module, asked: Asked, dry: nn.Module | None) -> None:
        self._network, self._asked, self._dry = network, asked, dry
        self.run: Calls | None = None
        self.began = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.began:
            self._asked.calls.append(Call(args, kwargs))
            if self._dry is not None:
                return self._asked.calls[-1].on(self._dry, "meta")
            return self._network(*args, **kwargs)
        if self.run is None:
            return self._network(*args, **kwargs)
        return self.run(lambda: self._network(*args, **kwargs), batch_of(args, kwargs))


class PipelineLoop:
    """One call of a pipeline for one set of prompts.

    Args:
        pipe: the pipeline; it is not changed.
        network: the name of its network among its parts.
        arguments: of its `__call__`: prompts, guidance, size.
        discrete: whether its timesteps are whole numbers.
        dry: a weightless copy of the network, which the pipeline runs until it first steps; None: the network itself.

    Raises what the pipeline raises, on entry or in `evaluate`.
    """

    def __init__(
        self, pipe: Any, network: str, arguments: Mapping[str, Any], discrete: bool, dry: nn.Module | None
    ) -> None:
        self.asked = Asked()
        self._pipe = copy.copy(pipe)
        self._arguments = {**arguments, "num_inference_steps": EVALUATIONS}
        self._network = NetworkProxy(getattr(pipe, network), self.asked, dry)
        self._scheduler = self._stand_in(pipe.scheduler)
        # past diffusers' own __setattr__, which would write into the configuration that both copies share
        vars(self._pipe).update({"scheduler": self._scheduler, network: self._network})
        self._timesteps = torch.zeros(EVALUATIONS, dtype=torch.int64 if discrete else torch.float32)
        self._sigmas = torch.zeros(EVALUATIONS + 1)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._steps = 0
        self._waiting = True
        self._thread = threading.Thread(target=self._call, name="flexsearch pipeline", daemon=True)
        self._thread.start()
        self.asked.output = self._reply()
        self._network.began = True

    def evaluate(self, sample: Tensor, timestep: float, sigma: float, run: Calls | None) -> Tensor:
        """What the pipeline would step by at this timestep: the guided output of its network.

        sample: (n, *latent shape), scaled as the network sees it
        sigma:  the noise level of the timestep, for pipelines that ask their scheduler for it
        """
        self._network.run = run
        self._waiting = True
        try:
            self._requests.put((sample, timestep, sigma))
            return self._reply()
        finally:
            self._network.run = None

    @property
    def over(self) -> bool:
        """Whether it has no evaluation left, has failed, or was left before it had answered (Ctrl-C)."""
        return self._steps >= EVALUATIONS or self._waiting or not self._thread.is_alive()

    def close(self) -> None:
        """Ends the pipeline's call."""
        if self._thread.is_alive():
            self._requests.put(_Stopped())
            self._thread.join()

    def _reply(self) -> Tensor:
        reply = self._replies.get()
        self._waiting = False
        if isinstance(reply, BaseException):
            self._thread.join()
            raise reply
        assert isinstance(reply, Tensor)
        return reply

    def _call(self) -> None:
        try:
            with torch.inference_mode():
                self._pipe(**self._arguments)
            self._replies.put(RuntimeError("the pipeline ended by itself"))
        except _Stopped:
            pass
        except BaseException as error:  # whatever it is, it is the caller's to see
            self._replies.put(error)

    def _stand_in(self, scheduler: Any) -> Any:
        stand_in = copy.copy(scheduler)

        def set_timesteps(
            num_inference_steps: int | None = None,
            device: Any = None,
            timesteps: Any = None,
            sigmas: Any = None,
            mu: float | None = None,
        ) -> None:
            self.asked.timesteps = {"sigmas": sigmas, "mu": mu}
            self._timesteps = self._timesteps.to(device)
            stand_in.timesteps, stand_in.sigmas = self._timesteps, self._sigmas
            stand_in.num_inference_steps = num_inference_steps

        def step(output: Tensor, timestep: Any, sample: Tensor, *_: Any, return_dict: bool = True, **__: Any) -> Any:
            if not self._network.began:
                self.asked.latents = sample
            self._steps += 1
            self._replies.put(output)
            request = self._requests.get()
            if isinstance(request, BaseException):
                raise request
            following, at, sigma = request
            if self._steps < EVALUATIONS:
                self._timesteps[self._steps] = at  # the loop's next timestep is a view of it
                self._sigmas[self._steps] = sigma
            following = following.to(sample.device, sample.dtype)
            return SimpleNamespace(prev_sample=following) if return_dict else (following,)

        stand_in.set_timesteps, stand_in.step = set_timesteps, step
        stand_in.scale_model_input = lambda sample, *_, **__: sample
        return stand_in


def last_part(pipe: Any, network: str, proxy: NetworkProxy, latents: Tensor, arguments: Mapping[str, Any]) -> Any:
    """The pictures of a pipeline's call of one step that gives these latents, in float32 as autoencoders want them."""
    pipe, scheduler = copy.copy(pipe), copy.copy(pipe.scheduler)

    def set_timesteps(
        steps: int = 1, device: Any = None, timesteps: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        scheduler.timesteps, scheduler.sigmas = torch.ones(1, device=device), torch.zeros(2)

    def step(output: Any, timestep: Any, sample: Tensor, *_: Any, return_dict: bool = True, **__: Any) -> Any:
        given = latents.to(sample.device)
        return SimpleNamespace(prev_sample=given) if return_dict else (given,)

    scheduler.set_timesteps, scheduler.step = set_timesteps, step
    scheduler.scale_model_input = lambda sample, *_, **__: sample
    vars(pipe).update({"scheduler": scheduler, network: proxy})
    return pipe(**arguments, return_dict=False)[0]


class OpenLoops:
    """The calls of a pipeline that are open, by prompts and guidance: the last used ones, of `PROMPTS` in all.

    Each holds a thread and the text states of its prompts; all are ended when this is collected.
    """

    def __init__(self) -> None:
        self._loops: OrderedDict[LoopKey, PipelineLoop] = OrderedDict()
        weakref.finalize(self, _close_all, self._loops)

    def get(self, key: LoopKey, make: Callable[[], PipelineLoop]) -> PipelineLoop:
        """The open one, or a new one in place of those that were used longest ago."""
        loop = self._loops.pop(key, None)
        if loop is None or loop.over:
            if loop is not None:
                loop.close()
            while self._loops and sum(len(prompts) for prompts, _ in (key, *self._loops)) > PROMPTS:
                self._loops.popitem(last=False)[1].close()
            loop = make()
        self._loops[key] = loop
        return loop

    def __len__(self) -> int:
        return len(self._loops)

    def close(self) -> None:
        """Ends all of them."""
        _close_all(self._loops)


def _close_all(loops: OrderedDict[LoopKey, PipelineLoop]) -> None:
    while loops:
        loops.popitem()[1].close()


def moved(value: Any, device: str | torch.device) -> Any:
    """The value with all tensors in it on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(item, device) for item in value)
    return value


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    return name in inspect.signature(function).parameters
