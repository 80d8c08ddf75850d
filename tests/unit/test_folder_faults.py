"""diffusers folders that used to load wrong in silence, or ended in a traceback: one test for each such folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from model_folders import write_pipeline, write_unconditional
from safetensors.torch import load_file, save_file

from flexsearch.errors import ModelError
from flexsearch.models.assets import ASSETS
from flexsearch.models.folder import zeros_for_empty
from flexsearch.models.folder_config import read_noise
from flexsearch.models.folder_index import Index
from flexsearch.models.load import load_model
from tools.make_random_checkpoint import write

Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled model, of one text encoder and few tensors; a random SDXL; DDPMs."""
    folder = tmp_path_factory.mktemp("bases")
    sdxl = load_model(str(write(folder / "x.safetensors", "sdxl")), "cpu")
    return {
        "tiny": ASSETS / "tiny",
        "sdxl": write_pipeline(folder / "sdxl", sdxl),
        "ddpm": write_unconditional(folder / "ddpm", latent=False),
        "ldm": write_unconditional(folder / "ldm", latent=True),
    }


@pytest.fixture
def copy(bases: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    def copy(base: str, *edits: Edit) -> Path:
        """A folder like one of the bases, edited. Files are links, which edits replace."""
        folder = tmp_path / base
        shutil.copytree(bases[base], folder, copy_function=os.symlink, ignore=shutil.ignore_patterns("prompts.txt"))
        for change in edits:
            change(folder)
        return folder

    return copy


def edit(file: str, **values: Any) -> Edit:
    """Sets keys of a JSON file; `...` removes one."""

    def change(folder: Path) -> None:
        document = json.loads((folder / file).read_text()) | values
        (folder / file).unlink()
        (folder / file).write_text(json.dumps({key: value for key, value in document.items() if value is not ...}))

    return change


def scheduler(**values: Any) -> Edit:
    return edit("scheduler/scheduler_config.json", **values)


def unet(**values: Any) -> Edit:
    return edit("unet/config.json", **values)


def index(**values: Any) -> Edit:
    return edit("model_index.json", **values)


def noise_of(maker: str, **values: Any) -> Edit:
    """A scheduler without betas, as its own class saves it."""

    def change(folder: Path) -> None:
        path = folder / "scheduler" / "scheduler_config.json"
        path.unlink()
        path.write_text(json.dumps({"_class_name": maker, "num_train_timesteps": 1000, **values}))

    return change


def weights(part: str, without: str = "", broken: str = "", more: str = "", whole: str = "") -> Edit:
    def change(folder: Path) -> None:
        (file,) = (folder / part).glob("*.safetensors")
        stored = load_file(file)
        # transformers has named text encoders with and without text_model.
        found = {suffix: next((name for name in stored if name.endswith(suffix)), "") for suffix in (without, broken)}
        tensors = {name: tensor.clone() for name, tensor in stored.items() if not without or name != found[without]}
        if broken:
            tensors[found[broken]].view(-1)[0] = float("nan")
        if whole:
            tensors[whole] = tensors[whole].to(torch.int8)
        if more:
            tensors[more] = torch.ones(1)
        file.unlink()
        save_file(tensors, file, {"format": "pt"})

    return change


def without(name: str) -> Edit:
    return lambda folder: shutil.rmtree(folder / name)


def other_unet(**values: Any) -> Edit:
    """A U-Net of another configuration, with weights that fit it."""

    def change(folder: Path) -> None:
        config = UNet2DConditionModel.load_config(folder / "unet")
        shutil.rmtree(folder / "unet")
        UNet2DConditionModel.from_config({**config, **values}).save_pretrained(folder / "unet")

    return change


EDM = "it is trained on EDM's noise levels, as Playground v2.5 and CosXL are"
LCM = "it is a latent consistency model .LCM.: its network is told the guidance"
REFUSED: dict[str, tuple[str, Edit, str]] = {
    "Playground v2.5": ("sdxl", noise_of("EDMDPMSolverMultistepScheduler", sigma_min=0.002, prediction_type="epsilon"),
                        f"its scheduler is EDMDPMSolverMultistepScheduler: {EDM}"),
    "CosXL": ("sdxl", noise_of("EDMEulerScheduler", prediction_type="v_prediction"), EDM),
    "flow matching": ("sdxl", noise_of("FlowMatchEulerDiscreteScheduler", shift=3.0), "is trained by flow matching"),
    "flow sigmas": ("tiny", scheduler(_class_name="UniPCMultistepScheduler", use_flow_sigmas=True),
                    r"flow matching, which is not sampled here \(use_flow_sigmas: true\)"),
    "consistency": ("ddpm", noise_of("CMStochasticIterativeScheduler", sigma_min=0.002), "it is a consistency model"),
    "score": ("ddpm", noise_of("ScoreSdeVeScheduler", sigma_min=0.01), "stochastic differential equation"),
    "foreign scheduler": ("tiny", scheduler(_class_name="MyScheduler"), "MyScheduler, which diffusers does not know"),
    "no betas": ("tiny", noise_of("IPNDMScheduler"), "IPNDMScheduler, whose noise levels are not those of betas"),
    "continuous": ("tiny", scheduler(_class_name="EulerDiscreteScheduler", timestep_type="continuous"), "continuous"),
    "flow prediction": ("tiny", scheduler(prediction_type="flow"), r'is "flow".*--prediction overrules it'),
    "velocity": ("tiny", scheduler(prediction_type="velocity"), 'prediction_type is "velocity", which is not sampled'),
    "beta_schedule": ("tiny", scheduler(beta_schedule="cosy"), 'beta_schedule is "cosy", .*squaredcos_cap_v2'),
    "no number": ("tiny", scheduler(beta_end="high"), "no noise levels follow from it"),
    "falling noise": ("tiny", scheduler(beta_start=-0.1, beta_schedule="linear"), "does not rise"),
    "no steps": ("tiny", scheduler(num_train_timesteps=0), "num_train_timesteps is 0, not a whole number from 1 on"),
    "a single step": ("tiny", scheduler(trained_betas=[0.5]), "does not rise"),
    "size of no pixels": ("tiny", unet(sample_size=0), "sample_size is 0, not a whole number from 1 on, or two"),
    "size of one side": ("tiny", unet(sample_size=[8]), r"sample_size is \[8\], not a whole number from 1 on, or two"),
    "size in words": ("tiny", unet(sample_size="large"), 'sample_size is "large", not a whole number'),
    "scaling of nothing": ("tiny", edit("vae/config.json", scaling_factor=None),
                           "vae/config.json: scaling_factor is null, not a number above 0"),
    "shift in words": ("tiny", edit("vae/config.json", shift_factor="0.1"), 'shift_factor is "0.1", not a number'),
    "statistics without a spread": ("tiny", edit("vae/config.json", latents_std=[1.0, 0.0, 1.0, 1.0]),
                                    "latents_std is .* not a list of numbers above 0"),
    "LCM": ("tiny", unet(time_cond_proj_dim=256), LCM),
    "LCM-SDXL": ("sdxl", unet(time_cond_proj_dim=256), LCM),
    "unCLIP": ("tiny", unet(class_embed_type="projection"), r'told a class or a picture .*unCLIP.*"projection"'),
    "classes and text": ("tiny", unet(num_class_embeds=1000), "told a class beside the text"),
    "Kandinsky": ("tiny", unet(addition_embed_type="text_image"), "told more than text"),
    "IP-Adapter": ("tiny", unet(encoder_hid_dim_type="ip_image_proj"), "told pictures"),
    "sizes without pooled text": ("tiny", unet(addition_embed_type="text_time"), "but it has 1 text encoder"),
    "learned variance": ("ddpm", unet(out_channels=6), r"predicts the variance too \(3 input and 6 output channels\)"),
    "learned variance, told": ("ddpm", scheduler(_class_name="DDPMScheduler", variance_type="learned_range"),
                               "predicts the variance too"),
    "text width": ("tiny", other_unet(cross_attention_dim=96), "states of width 64, but .* attends to 96"),
    "wrong shapes": ("tiny", unet(cross_attention_dim=96), "it cannot be loaded"),
    "lacking a tensor": ("tiny", weights("unet", without="conv_in.weight"),
                         "unet: 1 of its .* tensors are missing, conv_in.weight first"),
    "text encoder lacking a tensor": ("tiny", weights("text_encoder", without="final_layer_norm.bias"),
                                      "text_encoder: 1 of its .* tensors are missing"),
    "fp8 with weight_scale": ("tiny", weights("unet", more="conv_in.weight_scale"), "its weights are quantised"),
    "int8": ("tiny", weights("unet", whole="conv_in.weight"), "conv_in.weight is of type I8: its weights are quant"),
    "LCM by its weights alone": ("tiny", weights("unet", more="time_embedding.cond_proj.weight"), LCM),
    "NaN in the U-Net": ("tiny", weights("unet", broken="conv_in.weight"), "tensors of its U-Net hold NaN"),
    "NaN in the VAE": ("tiny", weights("vae", broken="decoder.conv_out.bias"), "tensors of its VAE hold NaN"),
    "NaN in the text encoder": ("tiny", weights("text_encoder", broken="final_layer_norm.bias"),
                                "tensors of its text encoder hold NaN"),
    "null VAE": ("tiny", index(vae=[None, None]), "it has no VAE"),
    "no VAE": ("tiny", index(vae=...), "it has no VAE"),
    "null VQ-VAE": ("ldm", index(vqvae=[None, None]), "it has no VAE"),
    "VAE folder absent": ("tiny", without("vae"), "vae: the folder is missing"),
    "VAE of a kind that is not run": ("tiny", index(vae=["diffusers", "AutoencoderKLWan"]), "vae is of class"),
    "VAE statistics of other length": ("tiny", edit("vae/config.json", latents_mean=[0.0]), "has 1 values"),
    "tokenizer absent": ("tiny", without("tokenizer"), "tokenizer: the folder is missing"),
    "short entry": ("tiny", index(unet=["diffusers"]), r'its entry unet is \["diffusers"\], not \[library, class\]'),
    "Kolors": ("tiny", index(text_encoder=["kolors", "ChatGLMModel"]), "text_encoder is of class ChatGLMModel"),
    "no sample_size of a DDPM": ("ddpm", unet(sample_size=None), "names no sample_size"),
    "Flux": ("tiny", index(_class_name="FluxPipeline", unet=..., transformer=["diffusers", "FluxTransformer2DModel"]),
             "transformer: the folder is missing"),
    "Cascade": ("tiny", index(_class_name="StableCascadeCombinedPipeline", unet=...,
                              prior=["diffusers", "StableCascadeUNet"]),
                r"its pipeline is StableCascadeCombinedPipeline, which has no U-Net \(prior: StableCascadeUNet\)"),
    "AnimateDiff": ("tiny", index(_class_name="AnimateDiffPipeline", unet=["diffusers", "UNetMotionModel"]),
                    "its pipeline is AnimateDiffPipeline, whose U-Net is of class UNetMotionModel"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, copy: Callable[..., Path]) -> None:
    base, change, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        load_model(str(copy(base, change)), "cpu")


def test_what_a_library_says_is_one_short_line(copy: Callable[..., Path]) -> None:
    """Of tensors of other shapes, diffusers has a line each."""
    with pytest.raises(ModelError, match="size mismatch") as caught:
        load_model(str(copy("tiny", unet(cross_attention_dim=96))), "cpu")
    assert "\n" not in caught.value.problem and len(caught.value.problem) < 400


def test_a_missing_tokenizer_of_a_relative_folder(copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name was once taken for a repository of the hub."""
    monkeypatch.chdir(copy("tiny", without("tokenizer")).parent)
    with pytest.raises(ModelError, match="tiny/tokenizer: the folder is missing"):
        load_model("./tiny", "cpu")


def test_a_relative_folder(copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy("ddpm").parent)
    assert load_model("ddpm", "cpu").family == "ddpm"


NOTED: dict[str, tuple[str, Edit, str]] = {
    "unknown key of the scheduler": ("tiny", scheduler(snr_shift_scale=3.0), "scheduler/scheduler_config.json says "
                                     "snr_shift_scale: 3.0, which is not understood here and not followed"),
    "unknown key of the U-Net": ("ddpm", unet(new_trick=True), "unet/config.json says new_trick: true"),
    "unknown option": ("ddpm", index(is_special=True), "model_index.json says is_special: true"),
    "ControlNet": ("tiny", index(controlnet=["diffusers", "ControlNetModel"]), "(ControlNetModel) is not used"),
    "GLIGEN": ("tiny", other_unet(attention_type="gated"), "its GLIGEN adapter (boxes) is not used"),
    "LCMScheduler": ("tiny", scheduler(_class_name="LCMScheduler"), "is LCMScheduler: it looks distilled"),
    "SDXL-Turbo": ("tiny", scheduler(_class_name="EulerAncestralDiscreteScheduler", timestep_spacing="trailing"),
                   "with trailing timesteps, as SDXL-Turbo's: it looks distilled"),
    "surplus tensor": ("ddpm", weights("unet", more="odd.weight"), "a tensor in unet is of no known use"),
    "no size": ("tiny", unet(sample_size=None), "names no sample_size: 512x512 is taken"),
    "absent size": ("tiny", unet(sample_size=...), "names no sample_size: 512x512 is taken"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTED)
def test_told(case: str, copy: Callable[..., Path]) -> None:
    base, change, note = NOTED[case]
    model = load_model(str(copy(base, change)), "cpu")
    assert len(model.notes) == 1 and note in model.notes[0]


@pytest.mark.parametrize("name", ["tiny", "pixel"])
def test_bundled_models_have_nothing_to_tell(name: str) -> None:
    assert load_model(name, "cpu").notes == ()


def test_few_steps_by_the_repository_of_a_snapshot(copy: Callable[..., Path], tmp_path: Path) -> None:
    snapshot = tmp_path / "models--stabilityai--sdxl-turbo" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    shutil.move(copy("ddpm"), snapshot)
    (note,) = load_model(str(snapshot), "cpu").notes
    assert "'stabilityai/sdxl-turbo' says turbo" in note


class TestNoise:
    # As in the scheduler_config.json of SD1.5, SDXL base 1.0 and SD1.4's first version.
    PUBLISHED = (
        {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_start": 0.00085,
         "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "set_alpha_to_one": False,
         "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None, "clip_sample": False},
        {"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "beta_end": 0.012,
         "beta_start": 0.00085, "beta_schedule": "scaled_linear", "clip_sample": False, "interpolation_type": "linear",
         "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False,
         "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None,
         "use_karras_sigmas": False},
        {"_class_name": "LMSDiscreteScheduler", "beta_end": 0.012, "beta_start": 0.00085, "num_train_timesteps": 1000,
         "beta_schedule": "scaled_linear", "trained_betas": None},
    )  # fmt: skip

    @pytest.mark.parametrize("config", PUBLISHED)
    def test_published_configurations_have_nothing_to_tell(self, config: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
        read = read_noise(tmp_path, None, None)
        assert read.notes == () and read.noise["beta_schedule"] == "scaled_linear"
        assert read.noise["prediction_type"] == "epsilon"

    def test_what_a_configuration_leaves_out_is_as_in_its_class(self, tmp_path: Path) -> None:
        """LCMScheduler's betas are not DDIMScheduler's."""
        (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "LCMScheduler"}))
        noise = read_noise(tmp_path, None, None).noise
        assert (noise["beta_start"], noise["beta_end"], noise["beta_schedule"]) == (0.00085, 0.012, "scaled_linear")

    def test_the_class_may_be_in_the_index_alone(self, tmp_path: Path) -> None:
        (tmp_path / "scheduler_config.json").write_text(json.dumps({"beta_end": 0.02}))
        assert read_noise(tmp_path, "DDIMScheduler", None).noise["beta_start"] == 0.0001
        with pytest.raises(ModelError, match="its scheduler is EDMEulerScheduler"):
            read_noise(tmp_path, "EDMEulerScheduler", None)

    def test_the_old_word_for_predicting_the_sample(self, tmp_path: Path) -> None:
        config = {key: value for key, value in DDPMScheduler().config.items() if key != "prediction_type"}
        config |= {"_class_name": "DDPMScheduler", "predict_epsilon": False}
        (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
        assert read_noise(tmp_path, None, None).noise["prediction_type"] == "sample"

    def test_prediction_overrules_a_word_that_is_not_known(self, copy: Callable[..., Path]) -> None:
        folder = copy("tiny", scheduler(prediction_type="velocity"))
        assert load_model(str(folder), "cpu", prediction="v_prediction").prediction == "v_prediction"


class TestDecoder:
    LATENTS = torch.linspace(-2, 2, 4 * 16 * 16).view(1, 4, 16, 16)

    def test_shift_and_statistics_are_followed(self, copy: Callable[..., Path]) -> None:
        mean, std, shift, scale = [0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 1.0, 2.0], 0.25, 1.186715
        folder = copy("tiny", edit("vae/config.json", latents_mean=mean, latents_std=std, shift_factor=shift))
        followed, plain = load_model(str(folder), "cpu"), load_model("tiny", "cpu")
        mean_, std_ = (torch.tensor(values).view(1, 4, 1, 1) for values in (mean, std))
        expected = plain.decode(self.LATENTS * std_ + scale * (mean_ + shift))
        assert not torch.allclose(plain.decode(self.LATENTS), expected, atol=1e-2)
        torch.testing.assert_close(followed.decode(self.LATENTS), expected, rtol=1e-4, atol=1e-4)


class TestEmptyPrompt:
    @pytest.mark.parametrize(("options", "encoders", "zeros"), [
        ({"force_zeros_for_empty_prompt": True}, 2, True), ({}, 2, True), ({}, 1, False),
        ({"force_zeros_for_empty_prompt": False}, 2, False), ({"force_zeros_for_empty_prompt": True}, 1, False),
    ])  # fmt: skip
    def test_as_the_pipeline_has_it(self, options: dict[str, Any], encoders: int, zeros: bool) -> None:
        """Absent means true in StableDiffusionXLPipeline; StableDiffusionPipeline has no such option."""
        assert zeros_for_empty(Index("", {}, frozenset(), options, ()), encoders) is zeros

    def test_sdxl_leads_away_from_zeros(self, copy: Callable[..., Path]) -> None:
        model = load_model(str(copy("sdxl", index(force_zeros_for_empty_prompt=True))), "cpu")
        told = model.encode(["", "a cat"])
        assert told.negative is not None and told.negative.states is not None and told.negative.pooled is not None
        assert told.positive is not None and told.positive.states is not None and told.positive.pooled is not None
        assert (told.negative.states == 0).all() and (told.negative.pooled == 0).all()
        assert told.positive.states[0].abs().max() > 0 and told.positive.pooled[0].abs().max() > 0
        assert told.negative.sizes is not None and told.negative.sizes.max() > 0
        assert len(model.notes) == 1 and "guidance leads away from zeros" in model.notes[0]


class TestRoot:
    def test_a_ddpm_of_2022_with_everything_in_the_root(self, copy: Callable[..., Path]) -> None:
        folder = copy("ddpm")
        plain = load_model(str(folder), "cpu")
        for part in ("unet", "scheduler"):
            for file in (folder / part).iterdir():
                file.rename(folder / file.name)
            (folder / part).rmdir()
        model = load_model(str(folder), "cpu")
        assert model.family == "ddpm" and model.sha256 == plain.sha256 and model.notes == ()

    def test_sizes_that_are_not_square(self, copy: Callable[..., Path]) -> None:
        model = load_model(str(copy("ldm", unet(sample_size=[8, 16]))), "cpu")
        assert model.latent_shape == (3, 8, 16) and model.image_size == (32, 16)


class TestWrongPlace:
    def refused(self, folder: Path) -> str:
        with pytest.raises(ModelError) as caught:
            load_model(str(folder), "cpu")
        return str(caught.value)

    def test_the_root_of_a_repository_in_the_cache(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        (snapshot / "model_index.json").write_text("{}")
        message = self.refused(tmp_path / "models--owner--name")
        assert "root in the Hugging Face cache" in message and message.endswith(f"Give {snapshot}")

    def test_a_folder_of_checkpoints(self, tmp_path: Path) -> None:
        for name in ("b.safetensors", "a.safetensors"):
            (tmp_path / name).touch()
        message = self.refused(tmp_path)
        assert "a folder with 2 .safetensors files" in message and message.endswith(f"as {tmp_path / 'a.safetensors'}")

    def test_a_lone_unet(self, bases: dict[str, Path]) -> None:
        message = self.refused(bases["tiny"] / "unet")
        assert "one part of a pipeline (UNet2DConditionModel)" in message
        assert message.endswith(f"Give {bases['tiny']}")

    def test_a_folder_above_one(self, copy: Callable[..., Path]) -> None:
        folder = copy("ddpm")
        message = self.refused(folder.parent)
        assert "it holds pipelines, but is none itself" in message and message.endswith(f"Give {folder}")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        assert "the folder is empty" in self.refused(tmp_path)
