"""The ComfyUI engine on a transformer and on flow levels, on the stand-in: what the host tells, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_hosts import BaseModel, Guider, Patcher, conditionings, noise_for, sample_euler
from pack import part
from torch import Tensor, nn

engine = part("comfy_nodes.apply")
network = part("comfy_nodes.network")
errors = part("flexiffusion.errors")
S = part("flexiffusion.schedule")

BLOCKS = 5
LEVELS = [1.0, 0.93, 0.84, 0.74, 0.6, 0.45, 0.27, 0.1, 0.0]


class CONST:
    """comfy.model_sampling.CONST: by this name the host calls flow matching."""


class Flow(CONST):
    sigma_max = torch.tensor(1.0)

    def percent_to_sigma(self, percent: float) -> float:
        return 1 - percent


class Block(nn.Module):
    """Adds what is a line in the noise level: a prediction that is linear in it is exact, any other is not."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Linear(4, 4)
        self.ran = 0

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        self.ran += 1
        return x + level[:, None, None] * self.slope.weight.sum()


class Transformer(nn.Module):
    """A trunk of five blocks over tokens that do not depend on the sample. # (B, 4, ..., H, W)"""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        tokens = torch.ones(len(x), 3, 4)
        for block in self.blocks:
            tokens = block(tokens, timesteps)
        return x * 0.1 + tokens.mean((1, 2)).view(-1, *[1] * (x.dim() - 1))


class FlowModel(BaseModel):
    """The host's model with flow matching: the network is asked at the level itself, and predicts noise less clean."""

    def __init__(self, flow: bool = True) -> None:
        super().__init__(Transformer())
        self.latent_format = SimpleNamespace(spacial_downscale_ratio=16)
        if flow:
            self.model_sampling = Flow()  # type: ignore[assignment]

    def _apply_model(
        self, x: Tensor, sigma: Tensor, concat: Any, context: Tensor, control: Any, options: dict[str, Any]
    ) -> Tensor:
        return x - sigma.view(-1, *[1] * (x.dim() - 1)) * self.diffusion_model(x, sigma, context=context)


@pytest.fixture
def model() -> Patcher:
    torch.manual_seed(0)
    return Patcher(FlowModel())


def schedule(pattern: str = "FPFPFPFP", noise: Any = "flow", **more: Any) -> Any:
    segments = tuple(S.Segment(len(rest) + 1, len(rest) + 1, -1, "linear") for rest in pattern.split("F")[1:])
    plan = S.SegmentsPlan(segments, noise=noise)
    sampling = S.Sampling(None, None, len(pattern), None, None, "flow" if noise == "flow" else None)
    facts = {"model": S.ModelInfo("made", BLOCKS - 1, blocks=BLOCKS), "sampling": sampling, "plan": plan}
    return S.Schedule(name="made", **(facts | more))


def sampled(model: Patcher, used: Any, noise: Tensor | None = None, wrap: Any = None) -> tuple[Tensor, Any]:
    """One sampling with the schedule: the latent and its outcome."""
    outcomes: list[Any] = []
    applied = engine.apply(model, used, "position", (), outcomes.append)
    if wrap is not None:
        wrap(applied)
    cond, uncond = conditionings()
    guider = Guider(applied, ([cond], [uncond]), 4.0, lambda sigma: True)
    noise = noise_for() if noise is None else noise
    sampler = SimpleNamespace(sampler_function=sample_euler)
    with torch.no_grad():
        result = guider.sample(noise, torch.zeros_like(noise), sampler, torch.tensor(LEVELS))
    return result, outcomes[0]


class TestFlow:
    def test_features_are_predicted_in_the_noise_level_itself(self, model: Patcher) -> None:
        """Linear in s: exact from the second full step on; the first partial step has one feature to reuse."""
        full, _ = sampled(model, schedule("F" * 8))
        from_the_third, outcome = sampled(model, schedule("FFPFPFPF"))
        torch.testing.assert_close(from_the_third, full, rtol=1e-5, atol=1e-5)
        assert (outcome.report.full, outcome.report.partial, outcome.report.misses) == (5, 3, 0)
        assert model.model.diffusion_model.blocks[0].ran == 8 + 5

    def test_told_by_the_class_of_the_sampling(self) -> None:
        assert (network.noise_of(Flow()), network.noise_of(SimpleNamespace())) == ("flow", "vp")
        assert network.prediction_of(FlowModel(), Flow()) == "flow"
        assert network.prediction_of(FlowModel(flow=False), SimpleNamespace()) == "epsilon"

    @pytest.mark.parametrize("flow", [True, False])
    def test_levels_of_another_kind_are_refused_when_applied(self, flow: bool) -> None:
        with pytest.raises(errors.ModelMismatch, match="is sampled over"):
            engine.apply(Patcher(FlowModel(flow)), schedule(noise="vp" if flow else "flow"))

    def test_and_when_a_later_node_has_changed_the_model(self, model: Patcher) -> None:
        applied = engine.apply(model, schedule())
        applied.model.model_sampling = SimpleNamespace()
        cond, uncond = conditionings()
        guider = Guider(applied, ([cond], [uncond]), 4.0, lambda sigma: True)
        with pytest.raises(errors.ModelMismatch, match="made for noise levels of a flow model"):
            guider.sample(
                noise_for(), noise_for(), SimpleNamespace(sampler_function=sample_euler), torch.tensor(LEVELS)
            )
        assert model.model.diffusion_model.blocks[0].ran == 0

    @pytest.mark.parametrize("size", [(1, 4, 16, 24), (1, 4, 3, 16, 24)])
    def test_the_size_is_in_the_last_two_dimensions_and_the_hosts_pixels(
        self, model: Patcher, size: tuple[int, ...]
    ) -> None:
        made = schedule(sampling=S.Sampling(None, None, 8, None, (512, 512), "flow"))
        made = dataclasses.replace(made, provenance=S.Provenance("searched"))  # to a rule all sizes are alike
        _, outcome = sampled(model, made, torch.randn(size))
        assert any("384 x 256 pixels" in note for note in outcome.notes)


class TestOthers:
    @pytest.mark.parametrize(
        ("left", "title"),
        [
            ({"transformer_options": {"rel_l1_thresh": 0.3}}, "TeaCache is on"),
            ({"transformer_options": {"magcache_thresh": 0.1, "spectrum": object()}}, "MagCache and Spectrum are on"),
            ({"model_function_wrapper": "custom_nodes/Comfy-WaveSpeed.fbcache_nodes"}, "First Block Cache is on"),
        ],
    )
    def test_other_caches_are_told(self, model: Patcher, left: dict[str, Any], title: str) -> None:
        options = dict(left.get("transformer_options", {}))
        model.model_options["transformer_options"] |= options
        if "model_function_wrapper" in left:

            def wrapper(*_: Any) -> None: ...

            wrapper.__module__ = left["model_function_wrapper"]
            model.model_options["model_function_wrapper"] = wrapper
        _, outcome = sampled(model, schedule())
        assert any(note.startswith(title) for note in outcome.notes)

    def test_none_is_told_where_there_is_none(self, model: Patcher) -> None:
        model.model_options["model_function_wrapper"] = lambda *_: None
        assert not any("on the same model" in note for note in sampled(model, schedule())[1].notes)

    @pytest.mark.parametrize(
        "kwargs", [{"backend": "cudagraphs"}, {"mode": "reduce-overhead"}, {"options": {"triton.cudagraphs": True}}]
    )
    def test_cuda_graphs_run_in_full_and_it_is_said_before(self, model: Patcher, kwargs: dict[str, Any]) -> None:
        full, _ = sampled(model, schedule("F" * 8))
        model.model_options["torch_compile_kwargs"] = {"backend": "inductor", "mode": None, "options": None, **kwargs}
        result, outcome = sampled(model, schedule())
        assert torch.equal(result, full) and (outcome.report.full, outcome.report.partial) == (8, 0)
        assert any("replays its calls as CUDA graphs" in note for note in outcome.notes)
        model.model_options["torch_compile_kwargs"] = {"backend": "inductor", "mode": "default", "options": None}
        assert sampled(model, schedule())[1].report.partial == 4

    def test_calls_of_a_copy_follow_the_schedule_and_are_counted(self, model: Patcher) -> None:
        """MultiGPU CFG Split calls deep copies of the model, from threads of their own."""
        other = copy.deepcopy(model.model)

        def elsewhere(applied: Patcher) -> None:
            # every evaluation once more, on the copy
            def predict(executor: Any, x: Tensor, sigma: Tensor, options: dict[str, Any], seed: int) -> Tensor:
                inner = options["transformer_options"]
                other.apply_model(x, sigma, conditionings()[0], None, inner | {"cond_or_uncond": [0], "uuids": [7]})
                return executor(x, sigma, options, seed)

            applied.add_wrapper_with_key("predict_noise", "test", predict)

        alone, _ = sampled(model, schedule())
        result, outcome = sampled(model, schedule(), wrap=elsewhere)
        assert torch.equal(result, alone)
        assert [block.ran for block in other.diffusion_model.blocks] == [4] * BLOCKS
        assert (outcome.report.full, outcome.report.partial, outcome.report.misses) == (8, 8, 0)

    def test_calls_of_a_copy_that_cannot_be_cut_run_in_full_and_are_counted(self, model: Patcher) -> None:
        other = copy.deepcopy(model.model)
        other.diffusion_model = nn.Sequential(other.diffusion_model)  # a network without lists of blocks
        other.diffusion_model.forward = other.diffusion_model[0].forward

        def elsewhere(applied: Patcher) -> None:
            def predict(executor: Any, x: Tensor, sigma: Tensor, options: dict[str, Any], seed: int) -> Tensor:
                inner = options["transformer_options"]
                other.apply_model(x, sigma, conditionings()[0], None, inner | {"cond_or_uncond": [0], "uuids": [7]})
                return executor(x, sigma, options, seed)

            applied.add_wrapper_with_key("predict_noise", "test", predict)

        _, outcome = sampled(model, schedule(), wrap=elsewhere)
        assert (outcome.report.full, outcome.report.partial, outcome.report.misses) == (4 + 8, 4, 4)
