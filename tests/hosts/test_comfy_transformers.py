"""What meets a schedule on ComfyUI's transformers: ControlNets, LoRAs, guidance of other nodes, experts, devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy_families
import pytest
import torch
from comfy_sampling import CLOSE, Calls, Loaded, S, T, compared, engine, sample, schedule, state, steps
from pack import part
from torch import Tensor

pytestmark = pytest.mark.host

errors = part("flexiffusion.errors")
bundled_folder, find = part("flexiffusion.presets").bundled_folder, part("flexiffusion.presets").find
Load = Callable[[str], Loaded]


def controlled(name: str, sides: dict[str, tuple[int, int, int]], seed: int = 1) -> Any:
    """A conditioning with the host's own ControlNet object on it, whose residuals are drawn.

    sides: for "input" and "output": how many residuals, of how many tokens, of which width
    """
    import comfy.controlnet

    generator = torch.Generator().manual_seed(11)
    drawn = {
        side: [torch.randn(1, tokens, width, generator=generator) * 0.5 for _ in range(count)]
        for side, (count, tokens, width) in sides.items()
    }

    class Residuals(comfy.controlnet.ControlBase):
        def get_control(self, x: Tensor, t: Any, cond: Any, batched: int, options: Any) -> Any:
            return {side: [one.repeat(len(x), 1, 1) for one in each] for side, each in drawn.items()}

        def copy(self) -> Any:
            return self

    ((text, extra),) = comfy_families.conditioning(name, seed)
    return [[text, extra | {"control": Residuals(), "control_apply_to_uncond": True}]]


IMAGE = 24  # tokens of a tiny picture
CONTROLLED = {
    "flux": {"input": (3, IMAGE, 64), "output": (4, IMAGE, 64)},
    "chroma": {"input": (3, IMAGE, 64), "output": (4, IMAGE, 64)},
    "sd3": {"output": (5, IMAGE, 320)},
    "qwen": {"input": (5, IMAGE, 64)},
    "hunyuanvideo": {"input": (3, 3 * IMAGE, 64), "output": (4, 3 * IMAGE, 64)},
}


class TestWhatIsOnTheModel:
    @pytest.mark.parametrize("name", CONTROLLED)
    def test_controlnet(self, load: Load, name: str) -> None:
        """Residuals are added to what blocks returned, in place: a partial step after a full one stays bitwise it."""
        family = load(name)
        positive = controlled(name, CONTROLLED[name])
        plain = sample(family, positive=positive)
        assert not torch.equal(plain.latent, sample(family).latent), "the ControlNet acts"
        assert torch.equal(sample(family, schedule(family, "F" * T), positive=positive).latent, plain.latent)
        half = sample(family, schedule(family), positive=positive)
        assert half.counts[2] == 0 and half.counts[0] == half.counts[1] and torch.isfinite(half.latent).all()
        model, checked = compared(family)
        sample(family, model=model, positive=positive, steps=2)
        assert set(checked) == set(range(-1, len(family.blocks) - 1))

    @pytest.mark.parametrize("name", ["qwen", "zimage", "wan"])
    def test_patches_after_a_block(self, load: Load, name: str) -> None:
        """What ControlNets of Qwen-Image and Z-Image are: they write into what each block returned."""
        family = load(name)
        ran: list[int] = []

        def patch(arguments: dict[str, Any]) -> dict[str, Any]:
            ran.append(arguments["block_index"])
            arguments["img"].mul_(1.05)
            return arguments

        def patched(model: Any) -> Any:
            model.set_model_patch(patch, "double_block")
            return model

        plain = sample(family, model=patched(family.model.clone()))
        assert ran and not torch.equal(plain.latent, sample(family).latent), "the patch acts"
        full = sample(family, schedule(family, "F" * T), model=patched(family.model.clone()))
        assert torch.equal(full.latent, plain.latent)
        assert sample(family, schedule(family), model=patched(family.model.clone())).counts == (T // 2, T // 2, 0)
        model, checked = compared(family)
        sample(family, model=patched(model), steps=2)
        assert set(checked) == set(range(-1, len(family.blocks) - 1))

    @pytest.mark.parametrize(
        ("name", "shape"), [("flux", (16, 8, 12)), ("flux2", (128, 4, 6)), ("qwen", (16, 1, 6, 8))]
    )
    def test_reference_pictures(self, load: Load, name: str, shape: tuple[int, ...]) -> None:
        """Kontext, FLUX.2 and Qwen-Image-Edit: their tokens lengthen what blocks return, of the prompt's side alone."""
        family = load(name)
        ((text, extra),) = comfy_families.conditioning(name, 1)
        reference = torch.randn(1, *shape, generator=torch.Generator().manual_seed(9))
        positive = [[text, extra | {"reference_latents": [reference]}]]
        plain = sample(family, positive=positive)
        assert not torch.equal(plain.latent, sample(family).latent), "the reference acts"
        assert torch.equal(sample(family, schedule(family, "F" * T), positive=positive).latent, plain.latent)
        half = sample(family, schedule(family), positive=positive)
        assert half.counts[2] == 0 and half.counts[0] == half.counts[1] > 0

    @pytest.mark.parametrize("name", ["flux", "sd3", "zimage", "wan"])
    def test_lora(self, load: Load, name: str) -> None:
        family = load(name)

        def patched() -> Any:
            model, generator = family.model.clone(), torch.Generator().manual_seed(5)
            keys = [key for key, tensor in model.model.state_dict().items() if tensor.ndim == 2 and "blocks" in key]
            keys = keys or [key for key, tensor in model.model.state_dict().items() if ".layers." in key]
            shapes = {key: model.model.state_dict()[key].shape for key in keys}
            patches = {key: ("diff", (torch.randn(*s, generator=generator) * 0.02,)) for key, s in shapes.items()}
            assert set(model.add_patches(patches, 1.0)) == set(keys)
            return model

        plain = sample(family, model=patched())
        assert not torch.equal(plain.latent, sample(family).latent), "the LoRA acts"
        assert torch.equal(sample(family, schedule(family, "F" * T), model=patched()).latent, plain.latent)
        half = sample(family, schedule(family), model=patched())
        assert half.counts == (T // 2, T // 2, 0)
        assert not torch.equal(half.latent, sample(family, schedule(family)).latent)

    @pytest.mark.parametrize(("name", "layers"), [("sd3", "1"), ("sd3", "4"), ("qwen", "1, 2"), ("flux", "0")])
    def test_skip_layer_guidance(self, load: Load, name: str, layers: str) -> None:
        """Its extra pass leaves blocks out; where it is the delivering one that pass runs in full, and is counted."""
        from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

        family = load(name)

        def guided() -> Any:
            return SkipLayerGuidanceDiT.execute(family.model.clone(), 3.0, 0.0, 1.0, layers, layers).result[0]

        plain = sample(family, model=guided())
        assert not torch.equal(plain.latent, sample(family).latent), "the guidance acts"
        assert torch.equal(sample(family, schedule(family, "F" * T), model=guided()).latent, plain.latent)
        half = sample(family, schedule(family), model=guided())
        n = len(family.blocks)
        last = str(n - 1) in layers
        assert half.counts == (T + T // 2, T // 2, T // 2) if last else half.counts == (T, T, 0)
        left = n - len(layers.split(",")) * (2 if name == "flux" else 1)
        assert half.calls.blocks == [n, left, 0, left if last else 0] * (T // 2)

    @pytest.mark.parametrize("name", ["flux", "qwen", "wan"])
    def test_interrupt_leaves_nothing(self, load: Load, name: str) -> None:
        import comfy.model_management as management

        family = load(name)
        expected = sample(family).latent
        stopped: list[int] = []

        def stop(*_: Any) -> None:
            stopped.append(1)
            if len(stopped) == 3:
                management.interrupt_current_processing()

        hook = next(m for m in family.blocks[1].modules() if not list(m.children())).register_forward_pre_hook(stop)
        try:
            with pytest.raises(management.InterruptProcessingException):
                sample(family, schedule(family))
        finally:
            hook.remove()
        assert torch.equal(sample(family).latent, expected)

    @pytest.mark.parametrize("keys", [["blocks"], ["network"]])
    def test_compiled(self, load: Load, keys: list[str]) -> None:
        """The host's own wrapper, blocks one by one or the whole network, with the eager backend: the same counts."""
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        torch._dynamo.reset()
        family = load("flux")
        names = [f"diffusion_model.{kind}_blocks.{i}" for kind, n in (("double", 3), ("single", 4)) for i in range(n)]
        model = family.model.clone()
        set_torch_compile_wrapper(model, backend="eager", keys=names if keys == ["blocks"] else ["diffusion_model"])
        expected = sample(family, schedule(family))
        found = sample(family, schedule(family), model=model)
        assert found.counts == expected.counts == (T // 2, T // 2, 0)
        torch.testing.assert_close(found.latent, expected.latent, **CLOSE)

    def test_weights_of_eight_bits_stay_as_they_are(self, load: Load) -> None:
        """The host casts them layer by layer; the cut never looks at a weight."""
        family = comfy_families.build("flux", dtype=torch.float8_e4m3fn)
        loaded = Loaded("flux", family)
        before = {name: p.clone() for name, p in loaded.network.named_parameters()}
        assert any(p.dtype == torch.float8_e4m3fn for p in before.values())
        plain, full = sample(loaded), sample(loaded, schedule(loaded, "F" * T))
        assert torch.equal(plain.latent, full.latent)
        assert sample(loaded, schedule(loaded)).counts == (T // 2, T // 2, 0)
        for name, p in loaded.network.named_parameters():
            assert p.dtype == before[name].dtype and torch.equal(p.float(), before[name].float()), name


class TestExperts:
    def test_two_models_in_a_row(self, load: Load) -> None:
        """Wan 2.2: the high-noise model down to a level, the low-noise one from there; each begins in full."""
        family = load("wan")
        low = Loaded("wan", comfy_families.build("wan", seed=1))
        cuts = {"steps": 2 * T, "start_step": 0, "last_step": T, "force_full_denoise": False}
        rest = {"steps": 2 * T, "start_step": T, "last_step": 2 * T, "disable_noise": True}
        used = schedule(family, "FP" * T)
        first = sample(family, used, mapping="level", **cuts)
        second = sample(low, used, mapping="level", latent=first.latent, **rest)
        n = len(family.blocks)
        for part_of in (first, second):
            assert part_of.calls.blocks[0] == n and part_of.calls.blocks.count(0) > 0
            assert len(part_of.calls.blocks) == T and part_of.counts[2] == 0
        full = schedule(family, "FF" * T)
        a = sample(family, full, mapping="level", **cuts).latent
        assert torch.equal(a, sample(family, **cuts).latent)
        assert torch.equal(
            sample(low, full, mapping="level", latent=a, **rest).latent, sample(low, latent=a, **rest).latent
        )

    def test_a_copy_on_a_second_device_follows_the_schedule(self, load: Load) -> None:
        """MultiGPU CFG Split: each side runs on a copy in a thread of its own."""
        import comfy.multigpu

        family = load("flux")
        model = family.model.clone()
        copies = [comfy_families.build("flux")]
        model.cached_patcher_init = (lambda: copies[0], ())
        second = torch.device("cpu", 0)
        management = comfy.multigpu.comfy.model_management
        devices = management.get_all_torch_devices
        management.get_all_torch_devices = lambda *args, **kwargs: [model.load_device, second]
        try:
            split = comfy.multigpu.create_multigpu_deepclones(model, 2)
        finally:
            management.get_all_torch_devices = devices
        calls = Calls()
        copy = Loaded("flux", copies[0])
        untouched = state(copy.network)
        with calls.watching(copy.network, copy.blocks):
            found = sample(family, schedule(family), model=split)
        n = len(family.blocks)
        assert (found.calls.blocks, calls.blocks) == ([n, 0] * (T // 2), [n, 0] * (T // 2))
        assert found.counts == (T, T, 0)
        assert state(copy.network) == untouched
        torch.testing.assert_close(sample(family, model=split).latent, sample(family).latent, **CLOSE)


class TestRefusals:
    def test_levels_of_another_kind(self, load: Load) -> None:
        flow, vp = load("flux"), load("pixart")
        rows = [(0.9 * 0.7**i, "FP"[i % 2]) for i in range(6)]
        high = [(14.0 * 0.5**i, "FP"[i % 2]) for i in range(6)]
        with pytest.raises(errors.ModelMismatch, match="sigmas of a diffusion model, but Flux is sampled over noise"):
            engine.apply(flow.model, steps(flow, *high, noise="vp"))
        with pytest.raises(errors.ModelMismatch, match="noise levels of a flow model, from 1 to 0, but PixArtMS is"):
            engine.apply(vp.model, steps(vp, *rows, noise="flow"))

    def test_levels_of_another_kind_after_a_node_behind_ours(self, load: Load) -> None:
        """Refused before sampling: "ModelSampling" nodes may stand behind Apply Schedule."""
        import comfy.model_sampling

        family = load("pixart")

        class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
            pass

        applied = engine.apply(family.model.clone(), schedule(family))
        applied.add_object_patch("model_sampling", Flow(family.model.model.model_config))
        calls = Calls()
        with (
            calls.watching(family.network, family.blocks),
            pytest.raises(errors.ModelMismatch, match="made for sigmas of a diffusion model"),
        ):
            sample(family, model=applied)
        assert not calls.blocks

    def test_another_number_of_blocks(self, load: Load) -> None:
        flux, qwen = load("flux"), load("qwen")
        with pytest.raises(errors.ModelMismatch, match=r"made for tiny with 6 branches, .* 4 branches"):
            engine.apply(qwen.model, schedule(flux))

    def test_the_size_is_the_hosts(self, load: Load) -> None:
        """FLUX.2 has 16 pixels for one of the latent, LTX 32; a video's size is in its last two dimensions."""
        for name, size in (("flux2", "96 x 64"), ("ltxv", "128 x 128"), ("wan", "96 x 64"), ("wan-5b", "192 x 128")):
            family = load(name)
            used = schedule(family)
            # of a hand-made rule no size is said: it was measured at none
            sampling = S.Sampling(None, None, T, None, (640, 640), "flow")
            made = replace(used, sampling=sampling, provenance=replace(used.provenance, kind="searched"))
            assert any(f"here: {size} pixels" in note for note in sample(family, made).outcome.notes), name


_LARGE = dict(hidden_size=3072, num_heads=24, axes_dim=[16, 56, 56], mlp_ratio=4.0)
_DIT = dict(model_channels=2048, num_blocks=28, num_heads=16, crossattn_emb_channels=1024)
# The published sizes, as comfy.model_detection reads them off the files: a family here, its tiny one, what differs.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "chroma": ("chroma", _LARGE | dict(depth=19, depth_single_blocks=38, out_dim=3072, hidden_dim=5120, n_layers=5)),
    "flux": ("flux", _LARGE | dict(depth=19, depth_single_blocks=38)),
    "flux2": ("flux2", dict(hidden_size=6144, num_heads=48, axes_dim=[32] * 4, depth=8, depth_single_blocks=48)),
    "sd35-medium": ("sd3", dict(depth=24, num_patches=None, x_block_self_attn_layers=list(range(13)))),
    "sd35-large": ("sd3", dict(depth=38, num_patches=None, x_block_self_attn_layers=[])),
    "qwen-image": (
        "qwen",
        dict(num_layers=60, attention_head_dim=128, num_attention_heads=24, axes_dims_rope=(16, 56, 56)),
    ),
    "z-image": ("zimage", dict(dim=3840, n_layers=30, n_heads=30, n_kv_heads=30, axes_dims=[32, 48, 48])),
    "lumina2": ("lumina2", dict(dim=2304, n_layers=26, n_heads=24, n_kv_heads=8, axes_dims=[32, 32, 32])),
    "wan-14b": ("wan", dict(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, text_dim=4096)),
    "wan-5b": ("wan-5b", dict(dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, text_dim=4096)),
    "wan-1.3b": ("wan", dict(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, text_dim=4096)),
    "hunyuan-video": ("hunyuanvideo", _LARGE | dict(depth=20, depth_single_blocks=40)),
    "anima": ("anima", _DIT),
    "cosmos-predict2": ("predict2", _DIT),
}


class TestPresets:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_one_fits_the_published_size_and_no_other(self, comfy: None, name: str) -> None:
        presets = {p.schedule.name: p.schedule for p in find([bundled_folder()])[0] if p.schedule.model.blocks}
        assert set(presets) == {f"{family}-alternate-linear" for family in PUBLISHED}
        tiny, differs = PUBLISHED[name]
        model = comfy_families.build(tiny, changed=differs, device=torch.device("meta"))
        engine.apply(model, presets.pop(f"{name}-alternate-linear"))
        for other in presets.values():
            with pytest.raises(errors.ModelMismatch):
                engine.apply(model, other)
