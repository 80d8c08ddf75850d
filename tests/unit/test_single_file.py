"""Single-file checkpoints: recognised, converted as the original code computes, told what they were trained with."""

from __future__ import annotations

import dataclasses
import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from ldm_decoder import Decoder
from ldm_unet import UNetModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flexiffusion.schedule import FULL, Action
from flexsearch.models import single_file
from flexsearch.models.assets import ASSETS
from flexsearch.models.costs import count_macs
from flexsearch.models.denoiser import ModelDenoiser
from flexsearch.models.ldm_keys import FAMILIES, UNET, VAE, CheckpointShape, FamilyName, TextShape, open_clip_tensors
from flexsearch.models.load import load_model
from flexsearch.models.model import DiffusionModel
from flexsearch.models.noise import initial_noise
from flexsearch.models.prediction import METADATA_KEY
from flexsearch.sampling.solvers import draw
from tools.make_random_checkpoint import checkpoint_shape, random_tensors, write

NAMES: tuple[FamilyName, ...] = ("sd15", "sd21", "sdxl")
SIDES = {"sd15": 512, "sd21": 512, "sdxl": 1024}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for the network fails the test."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the network was asked for: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: write(folder / f"{name}.safetensors", name) for name in NAMES}


@pytest.fixture(scope="module")
def models(files: dict[str, Path]) -> dict[str, DiffusionModel]:
    return {name: load_model(str(path), "cpu", size=(64, 64)) for name, path in files.items()}


def changed(path: Path, to: Path, metadata: dict[str, str] | None = None, **more: Tensor) -> Path:
    """A copy of a checkpoint with other metadata and more tensors (names with __ for dots)."""
    tensors = load_file(path) | {name.replace("__", "."): tensor for name, tensor in more.items()}
    save_file(tensors, to, metadata)
    return to


class TestRecognition:
    @pytest.mark.parametrize("name", NAMES)
    def test_family_branches_and_prediction(self, name: str, models: dict[str, DiffusionModel]) -> None:
        model = models[name]
        assert (model.family, model.prediction) == (name, "epsilon")
        assert model.branches == (9 if name == "sdxl" else 12)
        assert model.latent_shape == (4, 8, 8) and model.image_size == (64, 64)

    def test_sizes_when_none_is_asked_for(self, files: dict[str, Path]) -> None:
        for name, side in SIDES.items():
            assert load_model(str(files[name]), "cpu").image_size == (side, side)

    def test_wide_pictures(self, files: dict[str, Path]) -> None:
        model = load_model(str(files["sd15"]), "cpu", size=(96, 64))
        assert model.latent_shape == (4, 8, 12)
        assert model.decode(torch.zeros(1, *model.latent_shape)).shape == (1, 3, 64, 96)

    def test_v_prediction_of_sd2_by_the_spread_of_a_bias(self, tmp_path: Path) -> None:
        model = load_model(str(write(tmp_path / "v.safetensors", "sd21", prediction="v_prediction")), "cpu")
        assert model.prediction == "v_prediction" and model.image_size == (768, 768)

    def test_v_prediction_of_sdxl_by_its_marker(self, tmp_path: Path) -> None:
        model = load_model(str(write(tmp_path / "v.safetensors", "sdxl", prediction="v_prediction")), "cpu")
        assert model.prediction == "v_prediction"

    def test_zero_terminal_snr_by_its_marker(self, files: dict[str, Path], tmp_path: Path) -> None:
        marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
        model = load_model(str(changed(files["sd15"], tmp_path / "z.safetensors", **marks)), "cpu", size=(64, 64))
        usual = load_model(str(files["sd15"]), "cpu").levels
        assert model.levels.sigma(999) == pytest.approx(4518.8, rel=1e-3) and usual.sigma(999) < 15
        assert model.levels.sigma(0) == pytest.approx(usual.sigma(0), rel=1e-3)
        for solver in ("dpmpp_2m", "ddim"):
            made = draw(
                ModelDenoiser(model, model.encode(["a"]), 2.0),
                solver,
                initial_noise(0, [0], (4, 8, 8)),
                (999, 500, 100),
            )
            assert made.latents.isfinite().all() and made.latents.std() < 100

    def test_prediction_by_metadata_and_by_flag(self, files: dict[str, Path], tmp_path: Path) -> None:
        path = str(changed(files["sd15"], tmp_path / "m.safetensors", {METADATA_KEY: "v"}))
        assert load_model(path, "cpu").prediction == "v_prediction"
        assert load_model(path, "cpu", prediction="epsilon").prediction == "epsilon"

    def test_names_of_old_tools(
        self, files: dict[str, Path], models: dict[str, DiffusionModel], tmp_path: Path
    ) -> None:
        """Text encoders without `text_model`, an SD2.x file by sgm, VAE projections stored as linear layers."""
        renamed = {
            name.replace("transformer.text_model.", "transformer."): t.squeeze() if ".mid.attn_1." in name else t
            for name, t in load_file(files["sd15"]).items()
        }
        save_file(renamed, tmp_path / "old.safetensors")
        by_sgm = {
            name.replace("cond_stage_model.model.", "conditioner.embedders.0.model."): tensor
            for name, tensor in load_file(files["sd21"]).items()
            if not name.endswith("text_projection")
        }
        save_file(by_sgm, tmp_path / "sgm.safetensors")
        for name, path in (("sd15", "old"), ("sd21", "sgm")):
            model = load_model(str(tmp_path / f"{path}.safetensors"), "cpu", size=(64, 64))
            assert model.family == name
            told, expected = model.encode(["a cat"]).positive, models[name].encode(["a cat"]).positive
            assert told is not None and expected is not None and torch.equal(told.states, expected.states)
            latents = torch.ones(1, 4, 8, 8)
            assert torch.equal(model.decode(latents), models[name].decode(latents))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float8_e4m3fn])
    def test_other_dtypes(self, dtype: torch.dtype, tmp_path: Path) -> None:
        model = load_model(str(write(tmp_path / "d.safetensors", "sd15", dtype=dtype)), "cpu", size=(64, 64))
        assert {parameter.dtype for parameter in model.unet.parameters()} == {torch.float32}

    def test_what_is_not_needed_is_not_loaded(self, files: dict[str, Path], tmp_path: Path) -> None:
        more = {"model_ema__input_blocks000weight": torch.zeros(4), "global_step": torch.tensor([470000])}
        assert load_model(str(changed(files["sd15"], tmp_path / "e.safetensors", **more)), "cpu").family == "sd15"

    def test_unknown_prediction(self, files: dict[str, Path]) -> None:
        with pytest.raises(Exception, match="--prediction: 'velocity' is not known"):
            load_model(str(files["sd15"]), "cpu", prediction="velocity")

    def test_a_size_that_does_not_fit(self, files: dict[str, Path]) -> None:
        with pytest.raises(Exception, match=r"--size: 63x64 does not fit .* Give multiples of 8 pixels"):
            load_model(str(files["sd15"]), "cpu", size=(63, 64))


class TestConversion:
    """What comes out is what the original code computes from the same tensors."""

    @pytest.mark.parametrize("name", ["sd15", "sd21"])
    def test_the_network_equals_ldm(self, name: FamilyName) -> None:
        shape = dataclasses.replace(checkpoint_shape(name, tiny=True), channels=64)
        tensors = {k: v for k, v in random_tensors(shape, dtype=torch.float32).items() if k.startswith(UNET)}
        heads = {"num_heads": 8} if name == "sd15" else {"num_head_channels": 64}
        original = UNetModel(
            image_size=8, in_channels=4, out_channels=4, model_channels=64, num_res_blocks=2, channel_mult=(1, 2, 4, 4),
            attention_resolutions=(4, 2, 1), use_spatial_transformer=True, transformer_depth=1, legacy=False,
            context_dim=shape.context, use_linear_in_transformer=name == "sd21", **heads,
        ).eval()  # fmt: skip
        original.load_state_dict({k.removeprefix(UNET): v for k, v in tensors.items()})
        ours = single_file.make_unet(shape, tensors)
        torch.manual_seed(0)
        x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 7, shape.context)
        with torch.no_grad():
            expected = original(x, timesteps=torch.tensor([300, 300]), context=context)
            torch.testing.assert_close(ours(x, 300, context, return_dict=False)[0], expected, rtol=1e-3, atol=1e-4)

    def test_the_decoder_equals_ldm(self, files: dict[str, Path], models: dict[str, DiffusionModel]) -> None:
        decoder = Decoder(
            ch=32, out_ch=3, ch_mult=(1, 1, 1, 1), num_res_blocks=2, attn_resolutions=[], in_channels=3, resolution=64,
            z_channels=4,
        )  # fmt: skip
        tensors = {k: v.float() for k, v in load_file(files["sd15"]).items()}
        prefix = f"{VAE}decoder."
        decoder.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        latents = torch.randn(1, 4, 8, 8)
        with torch.no_grad():
            weight, bias = (tensors[f"{VAE}post_quant_conv.{name}"] for name in ("weight", "bias"))
            expected = decoder(nn.functional.conv2d(latents / 0.18215, weight, bias))
        ours = models["sd15"].decode(latents)
        torch.testing.assert_close(ours, (expected / 2 + 0.5).clamp(0, 1), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("name", ["sd21", "sdxl"])
    def test_the_text_encoder_equals_open_clip(self, name: FamilyName, models: dict[str, DiffusionModel]) -> None:
        shape = checkpoint_shape(name, tiny=True)
        text = shape.texts[-1]
        tensors = {k: v.float() for k, v in random_tensors(shape).items()}
        own = {k.removeprefix(text.prefix): tensors[k] for k, _ in open_clip_tensors(text)}
        told = models[name].encode(["a very red fox"]).positive
        ids = torch.tensor([[49406, 320, 1070, 736, 3240, 49407, *[0] * 71]])
        states, pooled = open_clip(text, own, ids)
        assert told is not None and told.states is not None
        torch.testing.assert_close(told.states[..., -text.width :], states, rtol=1e-3, atol=1e-4)
        if name == "sdxl":
            torch.testing.assert_close(told.pooled, pooled, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("name", NAMES)
    def test_outputs_depend_on_every_tensor_of_the_network(self, name: FamilyName) -> None:
        """No tensor is lost in conversion, and none of the random ones is without effect."""
        shape = checkpoint_shape(name, tiny=True)
        tensors = {k: v for k, v in random_tensors(shape, dtype=torch.float32).items() if k.startswith(UNET)}
        unet = single_file.make_unet(shape, tensors).requires_grad_(True)
        assert sum(p.numel() for p in unet.parameters()) == sum(v.numel() for v in tensors.values())
        more: dict[str, Any] = {}
        if shape.pooled is not None:
            more["added_cond_kwargs"] = {"text_embeds": torch.randn(1, shape.pooled), "time_ids": torch.rand(1, 6)}
        unet(torch.randn(1, 4, 16, 16), 500, torch.randn(1, 77, shape.context), **more).sample.square().sum().backward()
        without = [n for n, p in unet.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert without == []


def open_clip(text: TextShape, tensors: dict[str, Tensor], ids: Tensor) -> tuple[Tensor, Tensor]:
    """open_clip's text transformer, written anew: the penultimate states as each family uses them, the pooled ones.

    SD2.x normalises the penultimate states, SDXL does not (Stability-AI/generative-models, FrozenOpenCLIPEmbedder2).
    """

    def norm(x: Tensor, name: str) -> Tensor:
        return nn.functional.layer_norm(x, (text.width,), tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return nn.functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    x = tensors["token_embedding.weight"][ids] + tensors["positional_embedding"]
    mask = torch.full((77, 77), -math.inf).triu(1)
    penultimate = x
    for i in range(text.layers):
        penultimate, block = x, f"transformer.resblocks.{i}"
        attention = nn.MultiheadAttention(text.width, text.heads, batch_first=True)
        attention.load_state_dict(
            {k.removeprefix(f"{block}.attn."): v for k, v in tensors.items() if k.startswith(f"{block}.attn.")}
        )
        y = norm(x, f"{block}.ln_1")
        with torch.no_grad():
            x = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = nn.functional.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
        x = x + linear(y, f"{block}.mlp.c_proj")
    last = norm(x, "ln_final")
    pooled = last[torch.arange(len(ids)), ids.argmax(dim=-1)] @ tensors["text_projection"]
    two = text.prefix.startswith("conditioner")
    return (penultimate if two else norm(penultimate, "ln_final")), pooled


class TestConditioning:
    def test_sdxl_is_told_the_pictures_size(self, files: dict[str, Path]) -> None:
        model = load_model(str(files["sdxl"]), "cpu", size=(96, 64))
        told = model.encode(["a", "b"]).positive
        assert told is not None and told.sizes is not None and told.states is not None and told.pooled is not None
        assert told.sizes.tolist() == [[64, 96, 0, 0, 64, 96]] * 2
        assert told.states.shape == (2, 77, 96) and told.pooled.shape == (2, 64)

    def test_prompts_are_padded_as_the_family_was_trained(self, models: dict[str, DiffusionModel]) -> None:
        texts = {name: model.text.encoders for name, model in models.items() if model.text is not None}
        pads = {name: [encoder.ids(["wow!!"])[0] for encoder in encoders] for name, encoders in texts.items()}
        assert [row[-1].item() for row in pads["sd15"]] == [49407]
        assert [row[-1].item() for row in pads["sd21"]] == [0]
        assert [row[-1].item() for row in pads["sdxl"]] == [49407, 0]
        for rows in pads.values():
            assert all(row[:4].tolist() == [49406, 2781, 748, 49407] for row in rows)

    def test_long_prompts_are_cut_off(self, models: dict[str, DiffusionModel]) -> None:
        assert models["sd15"].text is not None
        row = models["sd15"].text.encoders[0].ids(["cat " * 200])[0]
        assert len(row) == 77 and row[0] == 49406 and row[-1] == 49407

    @pytest.mark.parametrize("name", NAMES)
    def test_a_partial_schedule_samples(self, name: str, models: dict[str, DiffusionModel]) -> None:
        model = models[name]
        made = draw(
            ModelDenoiser(model, model.encode(["a cat", "a dog"]), model.default_guidance),
            "dpmpp_2m",
            initial_noise(0, range(2), model.latent_shape),
            (999, 700, 400, 100),
            (FULL, Action("partial", 2), FULL, Action("partial", 0, "linear")),
        )
        assert made.misses == 0 and made.latents.isfinite().all()
        assert not torch.allclose(made.latents[0], made.latents[1], atol=1e-2)

    @pytest.mark.parametrize(("name", "full", "first"), [("sd15", 401.6, 0.079), ("sdxl", None, None)])
    def test_costs_of_the_real_widths(self, name: FamilyName, full: float | None, first: float | None) -> None:
        """docs/method.md 2: 401.6 GMACs a full SD1.5 step of one row at 64x64 latents, 7.9 % at branch 0."""
        shape = checkpoint_shape(name, tiny=False)
        with torch.device("meta"):
            from diffusers import UNet2DConditionModel

            unet = UNet2DConditionModel(**single_file.unet_config(shape))
        assert sum(p.numel() for p in unet.parameters()) == {"sd15": 859_520_964, "sdxl": 2_567_463_684}[name]
        if full is not None and first is not None:
            table = count_macs(RealWidths(unet), 1.0)
            assert table.full / 1e9 == pytest.approx(full, rel=1e-3)
            assert table.partial[0] / table.full == pytest.approx(first, abs=5e-4)


@dataclasses.dataclass
class RealWidths:
    """As much of a model as costs are counted on."""

    unet: Any
    branches: int = 12
    latent_shape: tuple[int, int, int] = (4, 64, 64)

    def skeleton(self, guidance: float) -> Any:
        from flexsearch.models.model import NetworkInputs, unet_skeleton

        return unet_skeleton(self.unet, (1, *self.latent_shape), NetworkInputs(torch.zeros(1, 77, 768)))


class TestTokenizer:
    # By instant-clip-tokenizer 0.1.1, an implementation of its own with the vocabulary built in.
    IDS = (
        ("a photo of an astronaut riding a horse", [320, 1125, 539, 550, 18376, 6765, 320, 4558]),
        ("Ünïcödé & emoji 🦊 naïve café's don't",
         [6522, 77, 35689, 66, 7255, 67, 4166, 261, 16327, 6040, 488, 1097, 35689, 563, 15304, 568, 847, 713]),
        ("masterpiece, (best quality:1.2), 1girl, <lora:foo:0.8>",
         [12066, 267, 263, 949, 3027, 281, 272, 269, 273, 2361, 272, 1611, 267, 283, 2179, 320, 281, 23435, 281, 271,
          269, 279, 285]),
        ("日本の風景、富士山 1234!",
         [39121, 44353, 21575, 165, 95, 101, 48132, 363, 45262, 161, 107, 234, 161, 96, 104, 46096, 365, 272, 273, 274,
          275, 256]),
    )  # fmt: skip

    @pytest.mark.parametrize(("text", "ids"), IDS)
    def test_ids_are_clips(self, text: str, ids: list[int]) -> None:
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "clip", local_files_only=True)
        assert tokenizer(text).input_ids == [49406, *ids, 49407] and len(tokenizer) == 49408


def test_parameter_counts_are_the_published_ones() -> None:
    counts = {
        family.name: sum(
            math.prod(size)
            for size in CheckpointShape(family, 320, (128, 256, 512, 512), family.texts).tensors().values()
        )
        for family in FAMILIES
    }
    assert {name: round(count / 1e6, 1) for name, count in counts.items()} == {
        "sd15": 1066.2, "sd21": 1303.6, "sdxl": 3468.8,
    }  # fmt: skip
