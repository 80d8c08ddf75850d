"""ComfyUI's own transformers under a schedule, in the host's own sampling: every family, every way to call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy_families
import pytest
import torch
from comfy_families import FAMILIES, Tiny
from pack import part
from torch import Tensor, nn

pytestmark = pytest.mark.host

engine = part("comfy_nodes.apply")
cut = part("flexiffusion.cut")
errors = part("flexiffusion.errors")
layouts = part("flexiffusion.layouts")
S = part("flexiffusion.schedule")

T = 8
# of joint against split calls, whose matrix products are summed in another order
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="session")
def host(comfyui_path: Path) -> Iterator[None]:
    comfy_families.import_host()
    yield
    _loaded.clear()  # a model that is left takes leave of modules of the host that are gone by then


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


_loaded: dict[str, Loaded] = {}


def loaded(name: str) -> Loaded:
    if name not in _loaded:
        _loaded[name] = Loaded(name, comfy_families.build(name))
    return _loaded[name]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, host: None) -> Iterator[Loaded]:
    """Whatever a test does, no module has another attribute, forward or hook afterwards."""
    found = loaded(request.param)
    before = _state(found.network)
    yield found
    assert _state(found.network) == before


@pytest.fixture
def only(request: pytest.FixtureRequest, host: None) -> Iterator[Callable[[str], Loaded]]:
    """As `family`, by name."""
    before: list[tuple[nn.Module, Any]] = []

    def get(name: str) -> Loaded:
        found = loaded(name)
        before.append((found.network, _state(found.network)))
        return found

    yield get
    for network, state in before:
        assert _state(network) == state


def _state(network: nn.Module) -> list[Any]:
    return [(m, vars(m).get("forward"), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]


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
    comfy.model_management.get_free_memory = lambda *args, **kwargs: 1e12 if joint else 0
    try:
        with calls.watching(family.network, family.blocks), torch.no_grad():
            result = comfy.sample.sample(
                model, noise, more.pop("steps", T), cfg, sampler, scheduler, positive, negative,
                torch.zeros_like(noise) if latent is None else latent, seed=3, disable_pbar=True, **more,
            )  # fmt: skip
    finally:
        comfy.model_management.get_free_memory = free
    return Sampled(result, calls, outcomes[0] if outcomes else None)


class TestEveryFamily:
    def test_is_built_as_the_host_loads_it(self, family: Loaded) -> None:
        sampling = part("comfy_nodes.network").noise_of(family.model.get_model_object("model_sampling"))
        assert (sampling == "flow") == family.tiny.flow
        assert len(family.blocks) == family.tiny.blocks

    def test_all_full_is_bitwise_the_host_alone(self, family: Loaded) -> None:
        plain = sample(family)
        full = sample(family, schedule(family, "F" * T))
        assert torch.isfinite(plain.latent).all()
        assert torch.equal(full.latent, plain.latent)
        assert full.counts == (len(full.calls.blocks), 0, 0) == (len(plain.calls.blocks), 0, 0)

    @pytest.mark.parametrize("branch", [-1, 1])
    def test_executed_is_what_is_planned_and_reported(self, family: Loaded, branch: int) -> None:
        found = sample(family, schedule(family, branch=branch))
        each = len(found.calls.blocks) // T  # conditionings of other lengths go in calls of their own
        n = len(family.blocks)
        assert found.calls.blocks == ([n] * each + [branch + 1] * each) * (T // 2)
        assert found.counts == (each * T // 2, each * T // 2, 0)
        assert torch.isfinite(found.latent).all()
        assert not torch.equal(found.latent, sample(family).latent)

    def test_partial_after_full_on_the_same_input_is_that_full_call(self, family: Loaded) -> None:
        """Bitwise at branch -1; with blocks that run, the difference is added to what was taken off it."""
        layout = layouts.find_layout(family.network)
        branches = range(-1, layout.branches)
        checked: list[int] = []

        def thrice(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            with cut.capturing(layout, branches, rows=len(x)) as capture:
                full = executor(x, *args, **kwargs)
            assert capture.problem is None and torch.equal(full, executor(x, *args, **kwargs))
            for branch in branches:
                with cut.skipping(layout, branch, capture.features[branch], capture.shapes) as context:
                    partial = executor(x, *args, **kwargs)
                assert context.delivered and context.problem is None
                torch.testing.assert_close(partial, full, **({"rtol": 0, "atol": 0} if branch < 0 else CLOSE))
                checked.append(branch)
            return full

        model = family.model.clone()
        model.add_wrapper_with_key("apply_model", "test", thrice)
        sample(family, model=model, steps=2)
        assert set(checked) == set(branches)

    def test_split_calls_of_a_batch_are_those_that_are_joint(self, family: Loaded) -> None:
        used = schedule(family)
        together, apart = sample(family, used, rows=2), sample(family, used, rows=2, joint=False)
        n = len(family.blocks)
        assert apart.calls.blocks == [n, n, 0, 0] * (T // 2) and apart.counts == (T, T, 0)
        torch.testing.assert_close(apart.latent, together.latent, **CLOSE)

    def test_without_guidance(self, family: Loaded) -> None:
        found = sample(family, schedule(family), cfg=1.0)
        assert found.calls.blocks == [len(family.blocks), 0] * (T // 2) and found.counts == (4, 4, 0)
        assert torch.equal(sample(family, schedule(family, "F" * T), cfg=1.0).latent, sample(family, cfg=1.0).latent)

    def test_image_to_image(self, family: Loaded) -> None:
        start = comfy_families.noise(family.name, seed=7)
        found = sample(family, schedule(family), denoise=0.5, latent=start)
        assert found.calls.blocks[0] == len(family.blocks) and found.counts[2] == 0 and found.counts[1] > 0
        full = sample(family, schedule(family, "F" * T), denoise=0.5, latent=start)
        assert torch.equal(full.latent, sample(family, denoise=0.5, latent=start).latent)

    def test_prompts_of_two_lengths(self, family: Loaded) -> None:
        if family.name == "hydit":
            pytest.skip("its prompts have one length")
        found = sample(family, schedule(family), tokens=(9, 5))
        assert found.counts[2] == 0 and found.counts[0] == found.counts[1] > 0


# one of each layout of lists, argument style and kind of noise
SPREAD = ("flux", "sd3", "qwen", "zimage", "wan", "anima", "predict2", "pixart")
# evaluations of the network a step
SAMPLERS = {"dpmpp_2m": 1, "heun": 2, "dpmpp_2m_sde": 1, "er_sde": 1, "lcm": 1, "res_multistep": 1, "uni_pc": 1}


class TestSamplers:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("name", SPREAD)
    def test_all_full_and_half(self, only: Callable[[str], Loaded], name: str, sampler: str) -> None:
        family = only(name)
        plain, full = sample(family, sampler=sampler), sample(family, schedule(family, "F" * T), sampler=sampler)
        # noise that samplers draw themselves comes from the seed
        assert torch.equal(full.latent, plain.latent)
        half = sample(family, schedule(family), sampler=sampler)
        report = half.outcome.report
        assert (report.full, report.partial) == (sum(b > 0 for b in half.calls.blocks), half.calls.blocks.count(0))
        assert report.misses == 0 and torch.isfinite(half.latent).all()
        if SAMPLERS[sampler] == 1:
            assert report.full == report.partial

    @pytest.mark.parametrize("name", ["flux", "wan"])
    def test_levels_of_its_own_begin_where_the_host_begins(self, only: Callable[[str], Loaded], name: str) -> None:
        """The first level of a flow is 1 exactly, where its log-SNR has no value."""
        family = only(name)
        seen: list[float] = []
        model = family.model.clone()
        model.add_wrapper_with_key("predict_noise", "test", _remember(seen))
        own = steps(family, (1.0, "F"), (0.9, "P"), (0.7, "F"), (0.5, "P"), (0.3, "F"), (0.1, "P"))
        found = sample(family, own, model)
        assert seen == pytest.approx([1.0, 0.9, 0.7, 0.5, 0.3, 0.1]) and seen[0] == 1.0
        assert found.counts == (3, 3, 0) and torch.isfinite(found.latent).all()


def _remember(seen: list[float]) -> Callable[..., Any]:
    def wrapper(executor: Any, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(float(sigma[0]))
        return executor(x, sigma, *args, **kwargs)

    return wrapper
