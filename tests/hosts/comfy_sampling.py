"""One sampling of ComfyUI's own on a tiny transformer: schedules for it, and what its network really computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy_families
import torch
from comfy_families import FAMILIES, Tiny
from pack import part
from torch import Tensor, nn

engine = part("comfy_nodes.apply")
layouts = part("flexiffusion.layouts")
S = part("flexiffusion.schedule")

cut = part("flexiffusion.cut")

T = 8
# of calls whose matrix products are summed in another order
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@dataclass
class Loaded:
    """A family's MODEL; its network is made once and never changed."""

    name: str
    model: Any

    @property
    def tiny(self) -> Tiny:
        return FAMILIES[self.name]

    @property
    def network(self) -> nn.Module:
        return self.model.model.diffusion_model

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        return layouts.find_layout(self.network).units


LOADED: dict[str, Loaded] = {}


def loaded(name: str) -> Loaded:
    if name not in LOADED:
        LOADED[name] = Loaded(name, comfy_families.build(name))
    return LOADED[name]


@dataclass
class Calls:
    """Each network call of a sampling: how many blocks of the trunk computed anything, and its rows."""

    blocks: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @contextmanager
    def watching(self, network: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[None]:
        ran: set[int] = set()
        hooks = [
            network.register_forward_pre_hook(lambda module, args: (ran.clear(), self.rows.append(len(args[0])))[0]),
            network.register_forward_hook(lambda *_: self.blocks.append(len(ran))),
        ]
        for place, block in enumerate(blocks):
            # modules inside of a block: a block that is skipped is still called, with another forward
            inside = [module for module in block.modules() if module is not block]
            hooks += [m.register_forward_pre_hook(lambda *_, place=place: ran.add(place)) for m in inside]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def schedule(family: Loaded, kinds: str = "FP" * (T // 2), branch: int = -1, predictor: str = "linear") -> Any:
    """One of these kinds of step after another; F begins a segment."""
    parts = [len(rest) + 1 for rest in kinds.split("F")[1:]]
    plan = S.SegmentsPlan(
        tuple(S.Segment(n, n, branch, predictor) for n in parts), noise="flow" if family.tiny.flow else "vp"
    )
    return _named(family, plan, len(kinds))


def steps(family: Loaded, *rows: tuple[float, str], noise: str | None = None) -> Any:
    actions = {"F": S.FULL, "P": S.Action("partial", -1, "linear")}
    kind = noise or ("flow" if family.tiny.flow else "vp")
    return _named(family, S.StepsPlan(tuple(S.Step(s, actions[k]) for s, k in rows), noise=kind), T)


def _named(family: Loaded, plan: Any, total: int) -> Any:
    return S.Schedule(
        name="made",
        model=S.ModelInfo("tiny", len(family.blocks) - 1, blocks=len(family.blocks)),
        sampling=S.Sampling(None, None, total, None, None, "flow" if plan.noise == "flow" else None),
        plan=plan,
    )


@dataclass
class Sampled:
    latent: Tensor
    calls: Calls
    outcome: Any = None

    @property
    def counts(self) -> tuple[int, int, int]:
        report = self.outcome.report
        return report.full, report.partial, report.misses


def sample(
    family: Loaded,
    used: Any = None,
    model: Any = None,
    sampler: str = "euler",
    cfg: float = 3.0,
    rows: int = 1,
    tokens: tuple[int | None, int | None] = (None, None),
    joint: bool = True,
    mapping: str = "position",
    positive: Any = None,
    scheduler: str = "simple",
    latent: Tensor | None = None,
    **more: Any,
) -> Sampled:
    """One sampling of the host. used: a schedule; None: none of our nodes is there."""
    import comfy.model_management
    import comfy.sample

    model = model or family.model.clone()
    outcomes: list[Any] = []
    if used is not None:
        model = engine.apply(model, used, mapping, (), outcomes.append)
    calls = Calls()
    noise = comfy_families.noise(family.name, rows)
    positive = positive or comfy_families.conditioning(family.name, 1, tokens[0])
    negative = comfy_families.conditioning(family.name, 2, tokens[1])
    free = comfy.model_management.get_free_memory
    size = 1e12 if joint else 0.0
    comfy.model_management.get_free_memory = lambda device=None, torch_free_too=False: (
        (size, size) if torch_free_too else size
    )
    try:
        with calls.watching(family.network, family.blocks), torch.no_grad():
            result = comfy.sample.sample(
                model, noise, more.pop("steps", T), cfg, sampler, scheduler, positive, negative,
                torch.zeros_like(noise) if latent is None else latent, seed=3, disable_pbar=True, **more,
            )  # fmt: skip
    finally:
        comfy.model_management.get_free_memory = free
    return Sampled(result, calls, outcomes[0] if outcomes else None)


def state(network: nn.Module) -> list[Any]:
    """What no sampling may leave changed of any module."""
    return [(m, vars(m).get("forward"), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]


def compared(family: Loaded) -> tuple[Any, list[int]]:
    """A MODEL whose every network call is compared with partial ones right after it, at every branch; and which were.

    Bitwise at branch -1; with blocks that run, the difference is added to what it was taken off.
    """
    layout = layouts.find_layout(family.network)
    checked: list[int] = []

    def apply_model(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with cut.capturing(layout, range(-1, layout.branches), rows=len(x)) as capture:
            full = executor(x, *args, **kwargs)
        assert capture.problem is None and torch.equal(full, executor(x, *args, **kwargs))
        for branch in range(-1, layout.branches):
            with cut.skipping(layout, branch, capture.features[branch], capture.shapes) as context:
                partial = executor(x, *args, **kwargs)
            assert context.delivered and context.problem is None
            torch.testing.assert_close(partial, full, **({"rtol": 0, "atol": 0} if branch < 0 else CLOSE))
            checked.append(branch)
        return full

    model = family.model.clone()
    model.add_wrapper_with_key("apply_model", "test", apply_model)
    return model, checked
