"""The WebUI engine on Forge Neo's own transformers: its classes, predictors, batching of conds and samplers.

FORGE_NEO_PATH names a checkout of Forge Neo. Only its `backend` is imported, so no page is started; what stands between
a sampler and the backend (`CFGDenoiser`) is a few lines here.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import drawn_schedules
import pytest
import torch
from torch import Tensor, nn

from flexiffusion.cut import capturing, skipping
from flexiffusion.host import SamplingReport
from flexiffusion.layouts import find_layout
from flexiffusion.schedule import ModelInfo, Sampling, Schedule
from webui_extension.network import network_of
from webui_extension.sampling import Sampling as Attached
from webui_extension.sampling import begin_evaluation

pytestmark = pytest.mark.host

T = 8
TOKENS, TEXT = 6, 40
_FLUX = dict(
    in_channels=16, out_channels=16, vec_in_dim=24, context_in_dim=TEXT, hidden_size=64, mlp_ratio=2.0, num_heads=2,
    depth=3, depth_single_blocks=4, axes_dim=[8, 12, 12], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True,
)  # fmt: skip
_CHROMA = {k: v for k, v in _FLUX.items() if k != "guidance_embed"} | dict(
    in_channels=64, out_channels=64, in_dim=64, out_dim=64, hidden_dim=48, n_layers=2, txt_ids_dims=[]
)
_LUMINA = dict(
    in_channels=16, dim=256, cap_feat_dim=TEXT, n_layers=5, qk_norm=True, n_heads=8, n_kv_heads=8, multiple_of=32,
    axes_dims=[8, 12, 12], axes_lens=[300, 512, 512], ffn_dim_multiplier=2.0,
)  # fmt: skip


@dataclass(frozen=True)
class Neo:
    """One trunk: module and class in `backend.nn`, a tiny configuration, the size of a latent."""

    module: str
    kind: str
    config: dict[str, Any]
    latent: tuple[int, ...]
    blocks: int
    text: tuple[int, ...] = (TOKENS, TEXT)
    pooled: bool = False


TRUNKS = {
    "flux": Neo("flux", "IntegratedFluxTransformer2DModel", _FLUX, (16, 8, 12), 7, pooled=True),
    "chroma": Neo("chroma", "IntegratedChromaTransformer2DModel", _CHROMA, (16, 8, 12), 7),
    "lumina2": Neo("lumina", "NextDiT", _LUMINA, (16, 8, 12), 5),
    "z-image": Neo(
        "lumina", "NextDiT",
        _LUMINA | dict(rope_theta=256.0, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=8),
        (16, 8, 12), 5,
    ),
    "qwen": Neo(
        "qwen", "QwenImageTransformer2DModel",
        dict(num_layers=5, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=TEXT,
             axes_dims_rope=(8, 12, 12)),
        (16, 1, 8, 12), 5,
    ),
    "wan": Neo(
        "wan", "WanModel",
        dict(dim=48, ffn_dim=64, freq_dim=32, text_dim=TEXT, num_heads=2, num_layers=5, text_len=8),
        (16, 3, 8, 12), 5,
    ),
    "anima": Neo(
        "anima", "Anima",
        dict(in_channels=16, out_channels=16, patch_spatial=2, patch_temporal=1, model_channels=64,
             crossattn_emb_channels=1024, adaln_lora_dim=16, num_blocks=5, num_heads=2),
        (16, 1, 8, 12), 5, text=(TOKENS, 1024),
    ),
    "krea": Neo(
        "krea", "SingleStreamDiT",
        dict(features=64, tdim=32, txtdim=TEXT, heads=2, kvheads=1, multiplier=2, layers=5, channels=16, txtlayers=2,
             txtheads=2, txtkvheads=2),
        (16, 1, 8, 12), 5, text=(TOKENS, 80),
    ),
    "ernie": Neo(
        "ernie", "ErnieImageModel",
        dict(hidden_size=64, num_attention_heads=2, num_layers=5, ffn_hidden_size=96, text_in_dim=TEXT,
             rope_axes_dim=(8, 12, 12)),
        (128, 4, 6), 5,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def backend() -> Iterator[None]:
    path = os.environ.get("FORGE_NEO_PATH")
    if not path or not (Path(path) / "backend" / "nn" / "lumina.py").exists():
        pytest.skip("FORGE_NEO_PATH names no checkout of Forge Neo")
    argv, sys.argv = sys.argv, ["webui.py", "--cpu"]  # the backend reads the command line when it is imported
    added = [str(Path(path).resolve()), str(Path(path).resolve() / "modules_forge" / "packages")]
    sys.path += added
    try:
        arguments = importlib.import_module("backend.args")
    finally:
        sys.argv = argv
    arguments.dynamic_args.ops = "Torch"  # the loader names the kind of layers here
    yield
    for entry in added:
        sys.path.remove(entry)


class Host:
    """Neo's model around one trunk (`shared.sd_model`), and its samplers on it."""

    def __init__(self, name: str, shift: float = 3.0) -> None:
        from backend.modules.k_model import KModel
        from backend.modules.k_prediction import PredictionDiscreteFlow

        self.trunk = TRUNKS[name]
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            network = getattr(importlib.import_module(f"backend.nn.{self.trunk.module}"), self.trunk.kind)(
                **self.trunk.config
            )
            for key, parameter in network.named_parameters():
                _draw(key, parameter)
        network.storage_dtype = network.computation_dtype = torch.float32
        config = SimpleNamespace(sampling_settings={"shift": shift, "multiplier": 1.0}, memory_usage_factor=1.0)
        self.model = KModel(network, None, config, PredictionDiscreteFlow(config))
        self.sd_model = SimpleNamespace(
            forge_objects=SimpleNamespace(unet=SimpleNamespace(model=self.model)),
            sd_checkpoint_info=SimpleNamespace(name="first", sha256=None),
        )
        self.warnings: list[str] = []
        self.outcomes: list[SamplingReport] = []
        self.asked: list[float] = []
        self.blocks: list[int] = []

    @property
    def network(self) -> nn.Module:
        return self.model.diffusion_model

    def conditions(self, seed: int) -> Any:
        from backend.sampling.condition import compile_conditions

        generator = torch.Generator().manual_seed(seed)
        text = torch.randn(1, *self.trunk.text, generator=generator)
        if self.trunk.pooled:
            pooled = torch.randn(1, 24, generator=generator)
            return compile_conditions({"crossattn": text, "vector": pooled, "guidance": torch.tensor([3.5])})
        return compile_conditions(text)

    def sample(
        self, used: Schedule | None = None, sampler: str = "euler", before: Callable[[float], None] | None = None
    ) -> Tensor:
        """The latent of one picture by a sampler of Neo's; `used` None: without us.

        before: called with the noise level of every evaluation, where the host would switch to a refiner
        """
        from k_diffusion import sampling

        denoiser = _Denoiser(self, before)
        object_ = SimpleNamespace(
            func=getattr(sampling, f"sample_{sampler}"),
            config=SimpleNamespace(name=sampler, options={}),
            model_wrap_cfg=denoiser,
        )
        sigmas = torch.cat([torch.tensor([float(self.model.predictor.percent_to_sigma(i / T)) for i in range(T)]),
                            torch.zeros(1)])  # fmt: skip
        object_.get_sigmas = lambda p, steps: sigmas
        del self.blocks[:], self.asked[:]
        if used is not None:
            network = lambda: network_of(self.sd_model)  # noqa: E731
            Attached(
                object_, used, "position", network, (), self.warnings.append, self.warnings.append,
                self.outcomes.append, lambda steps: None,
            ).attach()  # fmt: skip
        noise = torch.randn(1, *self.trunk.latent, generator=torch.Generator().manual_seed(3))
        given = object_.get_sigmas(None, T)
        with self.watching(), torch.no_grad():
            return object_.func(denoiser, noise, sigmas=given, extra_args={}, callback=lambda state: None, disable=True)

    def watching(self) -> Any:
        return _Watching(self)


class _Denoiser(nn.Module):
    """What of Neo's CFGDenoiser stands between its samplers and its backend."""

    def __init__(self, host: Host, before: Callable[[float], None] | None) -> None:
        super().__init__()
        self._host = [host]  # in a list: no module of this one
        self._before = before
        self._conditions = host.conditions(1), host.conditions(2)
        predictor = host.model.predictor
        self.inner_model = SimpleNamespace(inner_model=host.sd_model, predictor=predictor, sigmas=predictor.sigmas)
        self.step = 0

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        from backend.sampling.sampling_function import sampling_function_inner

        (host,) = self._host
        if self._before is not None:
            self._before(float(sigma[0]))
        begin_evaluation(self)
        host.asked.append(float(sigma[0]))
        self.step += 1
        cond, uncond = self._conditions
        return sampling_function_inner(host.model, x, sigma, uncond, cond, 3.0)


class _Watching:
    """How many blocks computed anything in each network call."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ran: set[int] = set()
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        host, ran = self._host, self._ran
        self._hooks.append(host.network.register_forward_pre_hook(lambda *_: ran.clear()))
        self._hooks.append(host.network.register_forward_hook(lambda *_: host.blocks.append(len(ran))))
        for place, block in enumerate(find_layout(host.network).units):
            inside = (module for module in block.modules() if module is not block)
            self._hooks += [m.register_forward_pre_hook(lambda *_, place=place: ran.add(place)) for m in inside]

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()


def _draw(name: str, parameter: Tensor) -> None:
    drawn = torch.empty(parameter.shape)
    if parameter.ndim < 2:
        nn.init.normal_(drawn, 1.0 if "norm" in name and name.endswith(("weight", "scale")) else 0.0, 0.1)
    else:
        nn.init.normal_(drawn, std=0.6 * parameter[0].numel() ** -0.5)
    parameter.data.copy_(drawn)


def made(host: Host, pattern: str, noise: Any = "flow") -> Schedule:
    plan = drawn_schedules.segments(pattern, -1, "linear")
    plan = type(plan)(plan.segments, plan.layout, noise)
    sampling = Sampling(None, None, T, None, None, "flow" if noise == "flow" else None)
    return Schedule("made", ModelInfo("tiny", host.trunk.blocks - 1, blocks=host.trunk.blocks), sampling, plan)


@pytest.fixture(params=TRUNKS)
def host(request: pytest.FixtureRequest, backend: None) -> Iterator[Host]:
    found = Host(request.param)
    before = [(m, vars(m).get("forward"), len(m._forward_hooks)) for m in found.network.modules()]
    yield found
    assert [(m, vars(m).get("forward"), len(m._forward_hooks)) for m in found.network.modules()] == before


class TestTrunks:
    def test_all_full_is_bitwise_the_host_alone(self, host: Host) -> None:
        plain = host.sample()
        assert torch.isfinite(plain).all() and host.asked[0] == 1.0
        assert torch.equal(host.sample(made(host, "F " * T)), plain)
        assert host.outcomes[-1].report.full == len(host.blocks)

    def test_counts_equal_the_plan(self, host: Host) -> None:
        result = host.sample(made(host, "FP FP FP FP"))
        each = len(host.blocks) // T
        assert host.blocks == ([host.trunk.blocks] * each + [0] * each) * (T // 2)
        assert host.outcomes[-1].counts == f"full {4 * each}, partial {4 * each}, null 0, misses 0"
        assert torch.isfinite(result).all() and not torch.equal(result, host.sample())

    def test_null_steps_leave_the_list(self, host: Host) -> None:
        host.sample(made(host, "FPN FPN FN"))
        assert len(host.asked) == 5 and host.outcomes[-1].report.null == 3

    def test_dpmpp_2m_and_heun(self, host: Host) -> None:
        for sampler in ("dpmpp_2m", "heun"):
            plain = host.sample(sampler=sampler)
            assert torch.equal(host.sample(made(host, "F " * T), sampler), plain)
            host.sample(made(host, "FP FP FP FP"), sampler)
            report = host.outcomes[-1].report
            assert (report.full, report.partial) == (len(host.blocks) - host.blocks.count(0), host.blocks.count(0))
            assert report.misses == 0 and report.partial > 0

    def test_a_partial_call_after_a_full_one_is_that_call(self, host: Host) -> None:
        """Bitwise at branch -1; with blocks that run, the difference is added to what it was taken off."""
        layout = find_layout(host.network)
        original = host.model.apply_model
        checked: list[int] = []

        def apply_model(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            with capturing(layout, range(-1, layout.branches), rows=len(x)) as capture:
                full = original(x, *args, **kwargs)
            assert capture.problem is None
            for branch in range(-1, layout.branches):
                with skipping(layout, branch, capture.features[branch], capture.shapes) as context:
                    partial = original(x, *args, **kwargs)
                assert context.delivered and context.problem is None
                exact = {"rtol": 0, "atol": 0} if branch < 0 else {"rtol": 1e-3, "atol": 1e-3}
                torch.testing.assert_close(partial, full, **exact)
                checked.append(branch)
            return full

        host.model.apply_model = apply_model
        host.sample()
        assert set(checked) == set(range(-1, layout.branches))


class TestLevels:
    def test_levels_of_another_kind_are_refused_and_the_picture_is_made_the_plain_way(self, backend: None) -> None:
        host = Host("flux")
        plain = host.sample()
        assert torch.equal(host.sample(made(host, "FP FP FP FP", noise="vp")), plain)
        assert "sampled over noise levels of a flow model" in host.warnings[0] and not host.outcomes

    def test_a_second_expert_begins_in_full(self, backend: None) -> None:
        """Wan 2.2's refiner: other weights in the same network, from a level on. Features of the first are gone."""
        host = Host("wan")
        switch = host.model.predictor.percent_to_sigma(1.5 / T)

        def before(sigma: float) -> None:
            if sigma < switch:
                host.sd_model.sd_checkpoint_info = SimpleNamespace(name="second", sha256=None)

        host.sample(made(host, "FPPP FPPP"), before=before)
        each, n = len(host.blocks) // T, host.trunk.blocks
        assert host.blocks[::each] == [n, 0, n, 0, n, 0, 0, 0]
        assert host.outcomes[-1].report.misses == each
