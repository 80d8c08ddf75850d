"""`flexiffusion.apply` together with what else people do to a diffusers pipeline, before it and after it."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from diffusers.hooks import HookRegistry, apply_group_offloading
from drawn_schedules import segments
from torch import Tensor

import flexiffusion
from flexiffusion import cut
from flexiffusion.errors import FlexiffusionError
from flexsearch.models.quiet import quiet_models
from tests.unet_pipelines import STEPS, build, sample, schedule_for

FULLS = "F " * STEPS
TURNS = "FP FP FPN F"  # 4 full, 3 partial, 1 null


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_models()


@pytest.fixture
def pipe() -> Any:
    return build("sd")


def applied(pipe: Any, drawn: str = TURNS) -> Any:
    return flexiffusion.apply(pipe, schedule_for(pipe, segments(drawn)))


def counts(handle: Any) -> tuple[int, int, int, int]:
    report = handle.report.report
    return report.full, report.partial, report.null, report.misses


def both_orders(pipe: Any, change: Callable[[Any], None], undo: Callable[[Any], None]) -> Tensor:
    """The picture under a schedule, with a change that was made before `apply`, and with one made after it: the same.

    In full it is the plain picture with that change, and every time the counts are those of the plan.
    """
    change(pipe)
    plain = sample(pipe)
    with applied(pipe, FULLS) as handle:
        assert torch.equal(sample(pipe), plain) and counts(handle) == (STEPS, 0, 0, 0)
    with applied(pipe) as handle:
        before = sample(pipe)
        assert torch.equal(sample(pipe), before) and counts(handle) == (4, 3, 1, 0)
    undo(pipe)
    with applied(pipe) as handle:
        sample(pipe)
        change(pipe)
        assert torch.equal(sample(pipe), before) and counts(handle) == (4, 3, 1, 0)
        undo(pipe)
        sample(pipe)
        assert counts(handle) == (4, 3, 1, 0)
    return before


class TestOffload:
    """accelerate's and diffusers' hooks, on the CPU."""

    def test_of_whole_models(self, pipe: Any) -> None:
        hooks: list[Any] = []

        def offload(pipe: Any) -> None:
            hooks.append(accelerate.cpu_offload_with_hook(pipe.unet, execution_device="cpu")[1])

        def undo(pipe: Any) -> None:
            hooks.pop().remove()

        both_orders(pipe, offload, undo)
        assert "forward" not in vars(pipe.unet) or not hooks

    def test_of_one_layer_after_the_other(self, pipe: Any) -> None:
        def offload(pipe: Any) -> None:
            accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
            assert all(parameter.is_meta for parameter in pipe.unet.parameters())

        def undo(pipe: Any) -> None:
            accelerate.hooks.remove_hook_from_submodules(pipe.unet)

        both_orders(pipe, offload, undo)

    def test_of_groups(self, pipe: Any) -> None:
        def offload(pipe: Any) -> None:
            apply_group_offloading(
                pipe.unet, onload_device=torch.device("cpu"), offload_device=torch.device("cpu"),
                offload_type="block_level", num_blocks_per_group=1,
            )  # fmt: skip

        def undo(pipe: Any) -> None:
            for module in pipe.unet.modules():
                registry = getattr(module, "_diffusers_hook", None)
                if isinstance(registry, HookRegistry):
                    for name in list(registry.hooks):
                        registry.remove_hook(name, recurse=False)

        both_orders(pipe, offload, undo)


class TestLora:
    @pytest.fixture
    def lora(self, tmp_path: Path) -> Path:
        peft = pytest.importorskip("peft")
        pipe = build("sd")
        config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
        pipe.unet.add_adapter(config, "made")
        layers = peft.utils.get_peft_model_state_dict(pipe.unet, adapter_name="made")
        pipe.save_lora_weights(tmp_path, unet_lora_layers=layers)
        return tmp_path

    def test_loaded(self, pipe: Any, lora: Path) -> None:
        with applied(pipe):
            without = sample(pipe)
        made = both_orders(pipe, lambda pipe: pipe.load_lora_weights(lora), lambda pipe: pipe.unload_lora_weights())
        assert not torch.allclose(made, without, atol=1e-3)

    def test_its_strength_changes_the_picture(self, pipe: Any, lora: Path) -> None:
        pipe.load_lora_weights(lora, adapter_name="a")
        with applied(pipe) as handle:
            pictures = []
            for strength in (1.0, 0.3, 1.0):
                pipe.set_adapters("a", strength)
                pictures.append(sample(pipe))
                assert counts(handle) == (4, 3, 1, 0)
        assert torch.equal(pictures[0], pictures[2]) and not torch.equal(pictures[0], pictures[1])

    def test_fused(self, pipe: Any, lora: Path) -> None:
        pipe.load_lora_weights(lora)
        with applied(pipe) as handle:
            loaded = sample(pipe)
            pipe.fuse_lora()
            assert torch.allclose(sample(pipe), loaded, atol=1e-4) and counts(handle) == (4, 3, 1, 0)
            pipe.unfuse_lora()
            assert torch.allclose(sample(pipe), loaded, atol=1e-4)


def ip_adapter(pipe: Any, tokens: int = 4) -> dict[str, Any]:
    """An IP-Adapter's weights, at random, for pictures of eight numbers."""
    made = torch.Generator().manual_seed(5)
    width = pipe.unet.config.cross_attention_dim
    layers = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    sizes = [pipe.unet.get_submodule(name.removesuffix(".processor")).inner_dim for name in layers]
    projection = {
        "proj.weight": torch.randn(tokens * width, 8, generator=made), "proj.bias": torch.zeros(tokens * width),
        "norm.weight": torch.ones(width), "norm.bias": torch.zeros(width),
    }  # fmt: skip
    attentions = {
        f"{2 * place + 1}.to_{part}_ip.weight": torch.randn(size, width, generator=made)
        for place, size in enumerate(sizes)
        for part in "kv"
    }
    return {"image_proj": projection, "ip_adapter": attentions}


def test_ip_adapter(pipe: Any) -> None:
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe)])
    first, second = (torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    plain = sample(pipe, ip_adapter_image_embeds=[first])
    with applied(pipe, FULLS):
        assert torch.equal(sample(pipe, ip_adapter_image_embeds=[first]), plain)
    with applied(pipe) as handle:
        pictures = [sample(pipe, ip_adapter_image_embeds=[tokens]) for tokens in (first, second, first)]
        assert counts(handle) == (4, 3, 1, 0)
        assert torch.equal(pictures[0], pictures[2]) and not torch.equal(pictures[0], pictures[1])


@pytest.mark.parametrize("name", ["sd-controlnet", "sdxl-controlnet"])
def test_a_controlnet_runs_at_full_and_partial_steps_and_never_at_null_ones(name: str) -> None:
    pipe = build(name)
    calls: list[int] = []
    pipe.controlnet.register_forward_pre_hook(lambda *_: calls.append(1))
    with applied(pipe) as handle:
        strong = sample(pipe, name)
        assert len(calls) == 7 and counts(handle) == (4, 3, 1, 0)
        assert not torch.equal(sample(pipe, name, controlnet_conditioning_scale=0.2), strong)


def test_freeu(pipe: Any) -> None:
    with applied(pipe):
        without = sample(pipe)
    made = both_orders(
        pipe, lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4), lambda pipe: pipe.disable_freeu()
    )
    assert torch.isfinite(made).all() and made.shape == without.shape


class TestCompiled:
    """One graph for each kind of step, compiled before `apply` or after it."""

    @pytest.fixture(autouse=True)
    def _fresh(self) -> Any:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def backend(self) -> tuple[Any, list[int]]:
        graphs: list[int] = []

        def backend(module: Any, inputs: Any) -> Any:
            graphs.append(1)
            return module.forward

        return backend, graphs

    @pytest.mark.parametrize(
        ("first", "place"),
        [("applied", "around"), ("compiled", "around"), ("applied", "within"), ("compiled", "within")],
    )
    @pytest.mark.slow  # its blocks, below, are compiled in every run of the tests
    def test_the_whole_network(self, pipe: Any, first: str, place: str) -> None:
        with applied(pipe):
            expected = sample(pipe)
        backend, graphs = self.backend()
        handle = applied(pipe) if first == "applied" else None
        if place == "around":
            pipe.unet = torch.compile(pipe.unet, backend=backend)
        else:
            pipe.unet.compile(backend=backend)
        handle = handle or applied(pipe)
        for _ in range(2):
            torch.testing.assert_close(sample(pipe), expected)
            assert counts(handle) == (4, 3, 1, 0)
        # full steps capture or do not; partial ones are of one kind
        assert 0 < len(graphs) <= 3
        handle.remove()
        sample(pipe)

    @pytest.mark.parametrize("first", ["compiled", pytest.param("applied", marks=pytest.mark.slow)])
    def test_its_blocks(self, pipe: Any, first: str) -> None:
        with applied(pipe):
            expected = sample(pipe)
        backend, graphs = self.backend()
        handle = applied(pipe) if first == "applied" else None
        pipe.unet._repeated_blocks = ["BasicTransformerBlock"]
        pipe.unet.compile_repeated_blocks(backend=backend)
        handle = handle or applied(pipe)
        for _ in range(2):
            torch.testing.assert_close(sample(pipe), expected)
            assert counts(handle) == (4, 3, 1, 0)
        assert graphs


def test_vae_tiling_and_slicing(pipe: Any) -> None:
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    plain = sample(pipe, output_type="pt", num_images_per_prompt=2)
    with applied(pipe, FULLS):
        assert torch.equal(sample(pipe, output_type="pt", num_images_per_prompt=2), plain)


class TestCallbacks:
    def test_every_evaluated_step_is_told(self, pipe: Any) -> None:
        told: list[tuple[int, int]] = []

        def tell(pipe: Any, step: int, timestep: Any, values: Any) -> dict[str, Any]:
            told.append((step, int(timestep)))
            assert pipe.num_timesteps == 7
            return {}

        with applied(pipe):
            sample(pipe, callback_on_step_end=tell)
        assert [step for step, _ in told] == list(range(7))
        assert [timestep for _, timestep in told] == [int(t) for t in pipe.scheduler.timesteps]

    def test_an_interrupt_is_reported_and_the_next_picture_is_as_ever(self, pipe: Any) -> None:
        def stop(pipe: Any, step: int, timestep: Any, values: Any) -> dict[str, Any]:
            pipe._interrupt = step == 2
            return {}

        with applied(pipe) as handle:
            whole = sample(pipe)
            sample(pipe, callback_on_step_end=stop)
            assert counts(handle) == (2, 1, 1, 0)
            assert torch.equal(sample(pipe), whole) and counts(handle) == (4, 3, 1, 0)


@pytest.mark.parametrize("end", ["done", "exception", "interrupt"])
def test_features_are_freed(pipe: Any, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[weakref.ref[Any]] = []
    parts = cut.Feature.parts

    def watched(feature: Any, count: int) -> Any:
        made = parts(feature, count)
        kept.extend(weakref.ref(stream) for part in made for stream in part.streams)
        return made

    monkeypatch.setattr(cut.Feature, "parts", watched)

    def stop(pipe: Any, step: int, timestep: Any, values: Any) -> dict[str, Any]:
        if step == 2 and end == "exception":
            raise RuntimeError("stop")
        pipe._interrupt = step == 2 and end == "interrupt"
        return {}

    def freed_before_decoding(*_: Any) -> None:
        gc.collect()
        assert kept and not any(reference() is not None for reference in kept)

    with applied(pipe):
        if end == "done":  # the memory is free again when the pictures are decoded
            pipe.vae.decode = lambda *args, decode=pipe.vae.decode, **kw: freed_before_decoding() or decode(*args, **kw)
            sample(pipe, output_type="pt")
        elif end == "exception":
            with pytest.raises(RuntimeError, match="stop"):
                sample(pipe, callback_on_step_end=stop)
        else:
            sample(pipe, callback_on_step_end=stop)
        freed_before_decoding()


class TestShared:
    """Pipelines made of the same parts."""

    def test_the_other_pipeline_is_not_touched(self, pipe: Any) -> None:
        other = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        other.set_progress_bar_config(disable=True)
        plain = sample(other, "sd-img2img")
        handle = applied(pipe)
        picture = sample(pipe)
        assert torch.equal(sample(other, "sd-img2img"), plain)
        assert torch.equal(sample(pipe), picture) and counts(handle) == (4, 3, 1, 0)

    def test_each_has_its_own_schedule(self, pipe: Any) -> None:
        other = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        other.set_progress_bar_config(disable=True)
        first, second = applied(pipe), applied(other, "FPP FPP FP")
        sample(pipe)
        sample(other, "sd-img2img")
        assert counts(first) == (4, 3, 1, 0) and counts(second) == (3, 5, 0, 0)

    def test_one_that_is_made_from_it_meanwhile_is_plain(self, pipe: Any) -> None:
        plain = sample(diffusers.AutoPipelineForImage2Image.from_pipe(pipe), "sd-img2img")
        with applied(pipe):
            made = diffusers.AutoPipelineForImage2Image.from_pipe(pipe)
            assert type(made) is diffusers.StableDiffusionImg2ImgPipeline
            assert torch.equal(sample(made, "sd-img2img"), plain)


class TestThreads:
    def test_a_second_call_of_the_pipeline_is_refused_and_the_first_goes_on(self, pipe: Any) -> None:
        with applied(pipe) as handle:
            expected = sample(pipe)
            refused = self.meanwhile(pipe, lambda: sample(pipe), expected)
            assert "StableDiffusionPipeline: it is sampling already, in another thread" in str(refused)
            assert counts(handle) == (4, 3, 1, 0)

    def test_a_pipeline_that_shares_the_network_is_plain(self, pipe: Any) -> None:
        parts = {**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)}
        other = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
        other.set_progress_bar_config(disable=True)
        plain, made = sample(other), []
        with applied(pipe) as handle:
            expected = sample(pipe)
            assert self.meanwhile(pipe, lambda: made.append(sample(other)), expected) is None
            assert torch.equal(made[0], plain) and counts(handle) == (4, 3, 1, 0)

    def meanwhile(self, pipe: Any, call: Callable[[], Any], expected: Tensor) -> BaseException | None:
        """Calls from a second thread while the pipeline is at its third step; what was raised there."""
        raised: list[BaseException] = []

        def attempt() -> None:
            try:
                call()
            except FlexiffusionError as error:
                raised.append(error)

        def second(pipe: Any, step: int, timestep: Any, values: Any) -> dict[str, Any]:
            if step == 2:
                thread = threading.Thread(target=attempt)
                thread.start()
                thread.join()
            return {}

        assert torch.equal(sample(pipe, callback_on_step_end=second), expected)
        return raised[0] if raised else None

    def test_pipelines_of_their_own_run_at_once(self) -> None:
        pipes = [build("sd"), build("sd")]
        handles = [applied(pipe) for pipe in pipes]
        expected = sample(pipes[0])
        made: list[Tensor] = []
        threads = [threading.Thread(target=lambda pipe=pipe: made.append(sample(pipe))) for pipe in pipes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 2 and all(torch.equal(picture, expected) for picture in made)
        assert [counts(handle) for handle in handles] == [(4, 3, 1, 0)] * 2


class TestCopies:
    """What is saved, copied or pickled while a schedule is applied has no trace of it."""

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
    def test_copies_are_plain(self, pipe: Any, copied: Callable[[Any], Any]) -> None:
        plain = sample(pipe)
        handle = applied(pipe)
        made = copied(pipe)
        assert type(made) is diffusers.StableDiffusionPipeline
        assert torch.equal(sample(made), plain) and handle.report is None
        sample(pipe)
        assert counts(handle) == (4, 3, 1, 0)

    def test_what_is_saved(self, pipe: Any, tmp_path: Path) -> None:
        sample(pipe)  # tokenizers write what they were last called with
        pipe.save_pretrained(tmp_path / "plain")
        with applied(pipe):
            sample(pipe)
            pipe.save_pretrained(tmp_path / "applied")
        files = {path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file()}
        assert files == {
            path.relative_to(tmp_path / "applied") for path in (tmp_path / "applied").rglob("*") if path.is_file()
        }
        for file in files:
            assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "applied" / file).read_bytes(), file
        loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "applied", local_files_only=True)
        assert type(loaded) is diffusers.StableDiffusionPipeline

    def test_moving_and_casting_still_work(self, pipe: Any) -> None:
        with applied(pipe) as handle:
            pipe.to("cpu", torch.float64)
            assert sample(pipe).dtype == torch.float64 and counts(handle) == (4, 3, 1, 0)


def test_another_size_and_back(pipe: Any) -> None:
    """One handle, calls of other sizes and prompts in between: each as if it were alone."""
    with applied(pipe) as handle:
        first = sample(pipe)
        other = sample(pipe, width=64, height=48, prompt="one yellow star, a slice of pizza")
        assert counts(handle) == (4, 3, 1, 0)
        assert torch.equal(sample(pipe), first)
        assert torch.equal(sample(pipe, width=64, height=48, prompt="one yellow star, a slice of pizza"), other)
