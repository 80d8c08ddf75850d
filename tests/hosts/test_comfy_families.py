"""ComfyUI's own transformers under a schedule, in the host's own sampling: every family, every way to call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy_families
import pytest
import torch
from comfy_families import FAMILIES
from comfy_sampling import CLOSE, Loaded, T, compared, loaded, sample, schedule, state, steps
from pack import part
from torch import Tensor

pytestmark = pytest.mark.host


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, comfy: None) -> Iterator[Loaded]:
    """Whatever a test does, no module has another attribute, forward or hook afterwards."""
    found = loaded(request.param)
    before = state(found.network)
    yield found
    assert state(found.network) == before


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
        model, checked = compared(family)
        sample(family, model=model, steps=2)
        assert set(checked) == set(range(-1, len(family.blocks) - 1))

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
    def test_all_full_and_half(self, load: Callable[[str], Loaded], name: str, sampler: str) -> None:
        family = load(name)
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
    def test_levels_of_its_own_begin_where_the_host_begins(self, load: Callable[[str], Loaded], name: str) -> None:
        """The first level of a flow is 1 exactly, where its log-SNR has no value."""
        family = load(name)
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
