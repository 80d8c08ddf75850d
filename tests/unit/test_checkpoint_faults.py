"""Single files that used to load wrong in silence, or were called what they are not: one test for each such file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from flexsearch.errors import ModelError
from flexsearch.models import single_file
from flexsearch.models.few_steps import few_step_notes, names_of
from flexsearch.models.ldm_keys import FAMILIES, UNET, VAE, FamilyName
from flexsearch.models.load import load_model
from flexsearch.models.model import DiffusionModel
from flexsearch.models.prediction import METADATA_KEY, recognise_prediction
from flexsearch.models.sidecar import read_sidecar
from flexsearch.runs.experiment import Experiment
from flexsearch.runs.settings import Settings
from tools.make_random_checkpoint import checkpoint_shape, random_tensors

Tensors = dict[str, Tensor]
CLIP = "cond_stage_model.transformer.text_model."
OPEN_CLIP = "cond_stage_model.model."
NAN, INFINITE = float("nan"), float("inf")
FEW = "distilled to a few steps"


@pytest.fixture(scope="module")
def bases() -> dict[str, Tensors]:
    names: tuple[FamilyName, ...] = ("sd15", "sd21", "sdxl")
    return {name: random_tensors(checkpoint_shape(name, tiny=True)) for name in names}


@pytest.fixture
def load(bases: dict[str, Tensors], tmp_path: Path) -> Callable[..., DiffusionModel]:
    def load(
        change: Callable[[Tensors], Tensors] = dict,
        base: str = "sd15",
        metadata: dict[str, str] | None = None,
        yaml: str | None = None,
        prediction: str = "auto",
        name: str = "x",
        dtype: str = "float32",
    ) -> DiffusionModel:
        """A changed copy of a random checkpoint, loaded."""
        tensors = {key: tensor.clone().contiguous() for key, tensor in change(dict(bases[base])).items()}
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata)
        if yaml is not None:
            (tmp_path / f"{name}.yaml").write_text(yaml, encoding="utf-8")
        return load_model(str(tmp_path / f"{name}.safetensors"), "cpu", dtype, prediction=prediction)

    return load


def renamed(old: str, new: str, only: bool = False) -> Callable[[Tensors], Tensors]:
    """Another prefix; `only`: and nothing else than what has it."""
    return lambda tensors: {
        new + key.removeprefix(old) if key.startswith(old) else key: tensor
        for key, tensor in tensors.items()
        if key.startswith(old) or not only
    }


def adding(*keys: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {key: torch.ones(1) for key in keys}


def ema_only(tensors: Tensors) -> Tensors:
    """As LitEma names its copies: without the dots."""
    return {
        "model_ema." + key.removeprefix("model.").replace(".", "") if key.startswith(UNET) else key: tensor
        for key, tensor in tensors.items()
    }


def video(tensors: Tensors) -> Tensors:
    first = f"{UNET}input_blocks.0.0.weight"
    more = {first: torch.zeros(32, 8, 3, 3), f"{UNET}input_blocks.1.1.time_stack.0.norm1.weight": torch.ones(32)}
    return tensors | more


def broken(key: str, value: float) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        tensor = tensors[key].clone()
        tensor.view(-1)[-1] = value
        return tensors | {key: tensor}

    return change


def longer(tensors: Tensors) -> Tensors:
    last = f"{CLIP}encoder.layers.11."
    return tensors | {key.replace("layers.11.", "layers.12."): t for key, t in tensors.items() if key.startswith(last)}


def without(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}


UNET_ALONE = "it is a U-Net alone, without text encoder and VAE"
REFUSED = {
    "fp8 with weight_scale": (adding(f"{UNET}out.2.weight_scale"), "sd15", "its weights are quantised"),
    "comfy_quant": (adding(f"{UNET}input_blocks.1.1.proj_in.comfy_quant"), "sd15", "its weights are quantised"),
    "scaled_fp8": (adding("scaled_fp8"), "sd15", "its weights are quantised"),
    "LCM": (adding(f"{UNET}time_embed.cond_proj.weight"), "sd15", "a latent consistency model .* told the guidance"),
    "LCM-SDXL": (adding(f"{UNET}time_embed.cond_proj.weight"), "sdxl", "a latent consistency model"),
    "SVD": (video, "sd15", "it is a video model .Stable Video Diffusion"),
    "EMA only": (ema_only, "sd15", "of its U-Net it holds the EMA copy only"),
    "U-Net alone": (renamed(UNET, "diffusion_model.", only=True), "sd15", UNET_ALONE),
    "U-Net alone, SDXL": (renamed(UNET, "diffusion_model.", only=True), "sdxl", UNET_ALONE),
    "bare U-Net": (renamed(UNET, "", only=True), "sd15", UNET_ALONE),
    "bare U-Net, SDXL": (renamed(UNET, "", only=True), "sdxl", UNET_ALONE),
    "NaN in the U-Net": (broken(f"{UNET}out.2.weight", NAN), "sd15", r"1 of the 686 tensors of its U-Net hold NaN .* "
                         r"model.diffusion_model.out.2.weight first \(1 of 1,152\)"),
    "NaN in the VAE": (broken(f"{VAE}decoder.conv_out.bias", NAN), "sd15", "of its VAE hold NaN"),
    "NaN in the text encoder": (broken(f"{CLIP}final_layer_norm.bias", NAN), "sd15", "of its text encoder hold NaN"),
    "infinite": (broken(f"{UNET}out.2.weight", -INFINITE), "sd15", "U-Net hold NaN or infinite .* merged or saved"),
    "more layers than usual": (longer, "sd15", "has 13 layers, where SD1.x has 12"),
    "fewer layers in SDXL": (without("conditioner.embedders.1.model.transformer.resblocks.31."), "sdxl",
                             r"conditioner.embedders.1.model.\* has 31 layers, where SDXL has 32"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, load: Callable[..., DiffusionModel]) -> None:
    change, base, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        load(change, base)


def test_too_large_for_float16_is_told_from_broken(load: Callable[..., DiffusionModel]) -> None:
    def large(tensors: Tensors) -> Tensors:
        return tensors | {f"{UNET}out.2.bias": torch.full((4,), 1e5)}

    assert load(large).notes == ()
    with pytest.raises(ModelError, match=r"infinite values.* too large for float16 .* --dtype bfloat16 or float32"):
        load(large, dtype="float16")


class TestPrediction:
    @pytest.fixture
    def said(self, tmp_path: Path) -> Callable[..., tuple[str, tuple[str, ...]]]:
        def said(word: str = "", yaml: str | None = None, keys: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...]]:
            """What an SD1.x file with these marks predicts, and the notes on that."""
            if yaml is not None:
                (tmp_path / "x.yaml").write_text(yaml, encoding="utf-8")
            path = tmp_path / "x.safetensors"
            sidecar = read_sidecar(path, FAMILIES[0])
            told = () if sidecar is None else sidecar.notes
            prediction, notes = recognise_prediction(path, "sd15", keys, {METADATA_KEY: word}, sidecar, None)
            return prediction, told + notes

        return said

    @pytest.mark.parametrize("word", ["v", "V", "v_prediction", "v-prediction", "velocity"])
    def test_v_by_metadata(self, word: str, said: Callable[..., object]) -> None:
        assert said(word) == ("v_prediction", ())

    @pytest.mark.parametrize("word", ["flow", "sample", "something new"])
    def test_what_metadata_say_and_is_not_sampled(self, word: str, said: Callable[..., object]) -> None:
        with pytest.raises(ModelError, match=f"metadata entry .* predicts '{word}'.*--prediction overrules"):
            said(word)

    def test_the_flag_overrules_metadata(self, load: Callable[..., DiffusionModel]) -> None:
        with pytest.raises(ModelError, match="predicts 'flow'"):
            load(metadata={METADATA_KEY: "flow"})
        assert load(metadata={METADATA_KEY: "flow"}, prediction="epsilon").prediction == "epsilon"

    @pytest.mark.parametrize(
        "yaml",
        [
            "model:\n  params:\n    parameterization: v\n",
            "\ufeffmodel:\n  target: ldm.LatentDiffusion\n  params:\n    parameterization: \"v\"\n"
            "    linear_start: 0.00085\n    linear_end: 0.0120\n    timesteps: 1000\n    scale_factor: 0.18215\n"
            "    conditioning_key: crossattn\n    cond_stage_config:\n      target: FrozenCLIPEmbedder\n",
            "model: {params: {denoiser_config: {params: {scaling_config: {target: sgm.modules.VScaling}}}}}",
        ],
    )  # fmt: skip
    def test_v_by_the_yaml_beside_it(self, yaml: str, said: Callable[..., object]) -> None:
        assert said(yaml=yaml) == ("v_prediction", ())

    def test_a_v_prediction_file_with_its_yaml(self, load: Callable[..., DiffusionModel]) -> None:
        model = load(yaml="model: {params: {parameterization: v, linear_end: 0.02}}")
        assert model.prediction == model.noise_config["prediction_type"] == "v_prediction"
        assert model.notes == ("x.yaml says linear_end: 0.02, which is not followed: SD1.x has 0.012",)

    def test_the_yaml_comes_before_key_and_metadata(self, said: Callable[..., object]) -> None:
        prediction = said("epsilon", "model: {params: {parameterization: eps}}", ("v_pred",))
        note = "the tensor v_pred says v_prediction, but x.yaml says epsilon and counts first; "
        assert prediction == ("epsilon", (f"{note}--prediction overrules both",))

    def test_a_yaml_that_says_nothing_of_it(self, said: Callable[..., tuple[str, tuple[str, ...]]]) -> None:
        assert said("v", "model: {params: {use_ema: false}}") == ("v_prediction", ())
        prediction, notes = said("v", "description: my model")
        assert prediction == "v_prediction" and "has no model.params" in notes[0]

    def test_what_else_a_yaml_says_is_told(self, said: Callable[..., object]) -> None:
        yaml = (
            "model: {params: {scale_factor: 0.13025, new_trick: [1, 2], "
            "cond_stage_config: {params: {layer: hidden, layer_idx: 11}}}}"
        )
        assert said(yaml=yaml) == (
            "epsilon",
            (
                "x.yaml says scale_factor: 0.13025, which is not followed: SD1.x has 0.18215",
                "x.yaml says cond_stage_config.params.layer: hidden, which is not followed: SD1.x has last",
                "x.yaml says cond_stage_config.params.layer_idx: 11, which is not followed: SD1.x has none",
                "x.yaml says new_trick: [1, 2], which is not understood here and not followed",
            ),
        )

    @pytest.mark.parametrize("discretization", ["LegacyDDPMDiscretization", "EDMDiscretization"])
    def test_other_noise_in_a_yaml_of_sgm_is_told(self, discretization: str, said: Callable[..., object]) -> None:
        configs = {"scaling_config": "sgm.VScaling", "discretization_config": f"sgm.modules.{discretization}"}
        denoiser = {"num_idx": 1000, **{key: {"target": target} for key, target in configs.items()}}
        yaml = json.dumps({"model": {"params": {"denoiser_config": {"params": denoiser}}}})
        note = (
            "x.yaml says denoiser_config.params.discretization_config.target: EDMDiscretization, which is not followed"
            ": SD1.x has LegacyDDPMDiscretization"
        )
        assert said(yaml=yaml) == ("v_prediction", (note,) if discretization.startswith("EDM") else ())

    @pytest.mark.parametrize(
        ("yaml", "message"),
        [
            ("model: {params: {parameterization: x0}}", "x.yaml beside it says that it predicts 'x0'"),
            ("model: [", r"x.yaml: it cannot be read .* Repair it or move it away"),
            ("#" * (1 << 20) + "\n#", "more than 1,048,576 bytes"),
            ("model: {params: {use_ema: &many [1, 2], new: [*many, *many]}}", "uses aliases .* which are not read"),
        ],
    )
    def test_a_yaml_that_cannot_be_followed(self, yaml: str, message: str, said: Callable[..., object]) -> None:
        with pytest.raises(ModelError, match=message):
            said(yaml=yaml)

    def test_zero_snr_without_v_prediction_is_told_and_not_followed(self, load: Callable[..., DiffusionModel]) -> None:
        model = load(adding("ztsnr"))
        assert model.levels.sigma(999) < 15 and model.prediction == "epsilon"
        assert len(model.notes) == 1 and "ztsnr (zero terminal SNR) is not followed, as in ComfyUI" in model.notes[0]
        assert load(adding("ztsnr"), prediction="v_prediction").levels.sigma(999) > 4000


class TestSpellings:
    """Files that other tools wrote load as what they are."""

    @pytest.mark.parametrize("wrapper", ["state_dict.", "module."])
    def test_all_names_below_one(self, wrapper: str, load: Callable[..., DiffusionModel]) -> None:
        assert load(renamed("", wrapper)).family == "sd15"

    def test_sd1_with_projections_stored_as_linear_layers(self, load: Callable[..., DiffusionModel]) -> None:
        def flat(tensors: Tensors) -> Tensors:
            ends = (".proj_in.weight", ".proj_out.weight")
            return {key: t.squeeze() if key.endswith(ends) else t for key, t in tensors.items()}

        model, plain = load(flat), load()
        assert model.family == "sd15"
        weights, expected = model.unet.state_dict(), plain.unet.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())

    def test_sdxl_with_a_transposed_text_projection(self, load: Callable[..., DiffusionModel]) -> None:
        name = "conditioner.embedders.1.model.text_projection"

        def spelled(tensors: Tensors) -> Tensors:
            return without(name)(tensors) | {f"{name}.weight": tensors[name].T}

        told, expected = (model.encode(["a cat"]).positive for model in (load(spelled, "sdxl"), load(base="sdxl")))
        assert told is not None and expected is not None and told.pooled is not None and expected.pooled is not None
        assert torch.equal(told.pooled, expected.pooled)

    @pytest.mark.parametrize("layers", [23, 24])
    def test_sd2_with_an_encoder_as_transformers_names_it(
        self, layers: int, load: Callable[..., DiffusionModel]
    ) -> None:
        shape = checkpoint_shape("sd21", tiny=True)

        def converted(tensors: Tensors) -> Tensors:
            text = {key: tensor for key, tensor in tensors.items() if key.startswith(OPEN_CLIP)}
            weights = single_file.make_text_encoder(shape, shape.texts[0], text).model.state_dict()
            weights = {f"{CLIP}{name.removeprefix('text_model.')}": tensor for name, tensor in weights.items()}
            if layers == 24:  # the last is not used: whatever it holds
                last = {name: t for name, t in weights.items() if "layers.22." in name}
                weights |= {name.replace("layers.22.", "layers.23."): tensor for name, tensor in last.items()}
            # which of the families it is, the real width of its text states tells
            key = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
            assert tensors[key].shape[-1] == shape.context
            return without(OPEN_CLIP)(tensors) | weights

        with patch("flexsearch.models.recognise.SD2_CONTEXT", shape.context):
            model = load(converted, "sd21")
        plain = load(base="sd21")
        assert model.family == "sd21" and len(model.notes) == (layers == 23)
        told, expected = (made.encode(["a cat!!"]) for made in (model, plain))
        assert told.positive is not None and expected.positive is not None
        torch.testing.assert_close(told.positive.states, expected.positive.states)

    def test_sd2_whose_unused_last_layer_was_cut_off(self, load: Callable[..., DiffusionModel]) -> None:
        """Once another layer was left out of what remains, without a word."""
        model, plain = load(without(f"{OPEN_CLIP}transformer.resblocks.23."), "sd21"), load(base="sd21")
        told, expected = (made.encode(["a cat"]).positive for made in (model, plain))
        assert told is not None and expected is not None and torch.equal(told.states, expected.states)
        assert model.notes == ("its text encoder has 23 layers, where SD2.x has 24: the first 23 are used",)

    def test_sd1_with_clip_skip_baked_in(self, load: Callable[..., DiffusionModel]) -> None:
        model = load(without(f"{CLIP}encoder.layers.11."))
        assert model.notes == ("its text encoder has 11 layers, where SD1.x has 12: the first 11 are used",)


class TestNotes:
    @pytest.mark.parametrize("base", ["sd15", "sd21", "sdxl"])
    def test_none_on_plain_files(self, base: str, load: Callable[..., DiffusionModel]) -> None:
        usual = adding("model_ema.decay", "global_step", "betas", "alphas_cumprod", "sqrt_alphas_cumprod",
                       "cond_stage_model.model.logit_scale", f"{CLIP}embeddings.position_ids")  # fmt: skip
        assert load(usual, base).notes == ()

    @pytest.mark.parametrize(
        ("key", "note"),
        [
            ("control_model.input_blocks.0.0.weight", "a ControlNet is baked in, which is not used"),
            (f"{UNET}input_blocks.1.1.transformer_blocks.0.fuser.alpha_attn", "a GLIGEN adapter (boxes) is baked in"),
            (f"{UNET}input_blocks.1.motion_modules.0.temporal_transformer.norm.weight", "an AnimateDiff motion module"),
            ("lora_unet_mid_block.lora_up.weight", "a LoRA is baked in"),
            (f"{UNET}new.weight", "of no known use and is not read: model.diffusion_model.new.weight"),
        ],
    )
    def test_what_is_baked_in(self, key: str, note: str, load: Callable[..., DiffusionModel]) -> None:
        model = load(adding(key))
        assert len(model.notes) == 1 and note in model.notes[0]

    @pytest.mark.parametrize(
        ("name", "few"),
        [
            ("DreamShaperXL_Turbo_v2", True), ("realvisxlV40_v40LightningBakedvae", True), ("Hyper-SDXL-8steps", True),
            ("juggernautXL_juggXIRundiffusionHyper", True), ("LCM_Dreamshaper_v7", True), ("sdxl_dmd2_4step", True),
            ("FLUX.1-schnell", True), ("FLUX.2-klein-4B", True), ("Wan2.1-T2V-14B-Lightx2v", True),
            ("ltxv-2b-0.9.8-distilled", True), ("FLUX.2-klein-base-4B", False), ("flux-dev-de-distilled", False),
            ("Z-Image", False), ("hyperrealism_v30", False), ("v1-5-pruned-emaonly", False), ("realcmix", False),
        ],
    )  # fmt: skip
    def test_few_steps_by_name(self, name: str, few: bool) -> None:
        notes = few_step_notes(names_of(Path("models") / f"{name}.safetensors"))
        assert len(notes) == few and all(FEW in note for note in notes)

    def test_few_steps_by_file_and_title(self, load: Callable[..., DiffusionModel]) -> None:
        for model in (load(name="sdxlTurbo"), load(metadata={"modelspec.title": "My Lightning"})):
            assert len(model.notes) == 1 and "nothing is to be gained" in model.notes[0]

    def test_commands_print_them_below_the_model(self, load: Callable[..., DiffusionModel], tmp_path: Path) -> None:
        model = load(adding("odd"), name="sdxlTurbo")
        line, *notes = (
            Experiment(Settings(model=model.source, device="cpu", batch=1), tmp_path).described().splitlines()
        )
        assert line.startswith(f"{model.source}, sd15, 12 branches") and notes == model.note_lines() and len(notes) == 2

    def test_a_note_is_one_line(self, load: Callable[..., DiffusionModel]) -> None:
        assert load(adding("odd\nname")).note_lines() == [
            "note: a tensor in the file is of no known use and is not read: odd name"
        ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runwayml/stable-diffusion-v1-5", "downloaded from repositories. Fetch it first, .*hf download run"),
        ("hf:runwayml/stable-diffusion-v1-5", "nothing is downloaded. Fetch it first"),
        ("https://civitai.com/api/download/models/1", "nothing is downloaded. Fetch it first"),
        ("models/typo.safetensors", "there is no such file or folder"),
        ("tests/typo", "there is no such file or folder"),
    ],
)
def test_what_is_no_path(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(name, "cpu")
