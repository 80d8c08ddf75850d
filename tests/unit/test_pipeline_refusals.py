"""Pipelines with a transformer that cannot be searched on: refused by what they are, before anything is sampled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from flexsearch.errors import ConfigError, ModelError
from flexsearch.models.load import default_dtype, load_model
from flexsearch.models.pipeline import PipelineDenoiser
from flexsearch.models.quiet import quiet_models
from flexsearch.runs.progress import Silent
from flexsearch.runs.search_run import start
from flexsearch.runs.settings import Settings
from tests.pipeline_folders import HEADS, WIDTH, tokenizer, write_transformer_pipeline


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    quiet_models()
    return write_transformer_pipeline(tmp_path_factory.mktemp("original") / "flux", "flux")


@pytest.fixture
def changed(original: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the folder whose index says something else."""

    def made(**index: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(original, folder)
        path = folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | index))
        return folder

    return made


def load(folder: Path, **more: Any) -> Any:
    return load_model(str(folder), "cpu", size=(32, 32), **more)


def test_two_experts(changed: Callable[..., Path]) -> None:
    folder = changed(transformer_2=["diffusers", "FluxTransformer2DModel"])
    with pytest.raises(ModelError, match=r"two networks \(transformer and transformer_2.*Give a pipeline with one"):
        load(folder)


@pytest.mark.parametrize("name", ["Flux9Pipeline", "FluxTransformer2DModel", "utils"])
def test_an_unknown_pipeline(name: str, changed: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=f"its pipeline is {name}, which diffusers .* has not.*Install a newer"):
        load(changed(_class_name=name))


@pytest.mark.parametrize("name", ["FluxImg2ImgPipeline", "FluxInpaintPipeline"])
def test_a_pipeline_that_needs_a_picture(name: str, changed: Callable[..., Path]) -> None:
    problem = f"its pipeline {name} cannot make a picture of 32x32 of a prompt.*Give a pipeline that makes pictures"
    with pytest.raises(ModelError, match=problem):
        load(changed(_class_name=name))


def test_a_prediction_of_a_flow_model(original: Path) -> None:
    with pytest.raises(ModelError, match="a flow model, and v_prediction was asked for"):
        load(original, prediction="v_prediction")


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "text_encoder_2", "vae"])
def test_missing_tensors_are_not_drawn_at_random(part: str, changed: Callable[..., Path]) -> None:
    folder = changed()
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.endswith("weight"))
    save_file({key: value for key, value in tensors.items() if key != name}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=f"{part}: 1 of its .* tensors are missing, {name} first"):
        load(folder)


def test_pickled_text_encoders_are_not_loaded(changed: Callable[..., Path]) -> None:
    folder = changed()
    (folder / "text_encoder_2" / "model.safetensors").rename(folder / "text_encoder_2" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are not loaded"):
        load(folder)


def test_a_trunk_that_is_too_short_to_be_cut(tmp_path: Path) -> None:
    short = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH,
        axes_dims_rope=(2, 2, 4), **HEADS,
    )  # fmt: skip
    with pytest.raises(ModelError, match="Give a model with another network"):
        load(write_transformer_pipeline(tmp_path / "short", "flux", transformer=short))


def test_a_network_that_predicts_more_than_its_pipeline_steps_by(tmp_path: Path) -> None:
    more = diffusers.PixArtTransformer2DModel(
        in_channels=4, out_channels=12, num_layers=6, cross_attention_dim=16, sample_size=32, caption_channels=WIDTH,
        norm_num_groups=1, **HEADS,
    )  # fmt: skip
    folder = write_transformer_pipeline(tmp_path / "more", "pixart-sigma", transformer=more)
    with pytest.raises(ModelError, match=r"latents of \(1, 4, 4, 4\) by an output of \(1, 12, 4, 4\)"):
        load(folder)


def test_noise_levels_that_do_not_follow_from_betas(tmp_path: Path) -> None:
    shifted = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=3.0)
    folder = write_transformer_pipeline(tmp_path / "shifted", "pixart-sigma", scheduler=shifted)
    with pytest.raises(
        ModelError, match="its scheduler CogVideoXDDIMScheduler makes other noise levels than its betas"
    ):
        load(folder)


def test_a_missing_tokenizer(changed: Callable[..., Path]) -> None:
    folder = changed()
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(ModelError, match="tokenizer_2: the folder is missing"):
        load(folder)


def test_a_tokenizer_without_words(changed: Callable[..., Path]) -> None:
    folder = changed()
    (folder / "tokenizer_2" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer_2: it holds none of tokenizer\.json, .*Copy the folder again"):
        load(folder)


def test_a_size_that_does_not_fit(original: Path) -> None:
    with pytest.raises(ConfigError, match=r"--size: 40x32 does not fit .*\. Give multiples of 16 pixels"):
        load_model(str(original), "cpu", size=(40, 32))
    with pytest.raises(ConfigError, match="Give multiples of 16 pixels"):
        load(original).sized((32, 24))


@pytest.mark.parametrize("solver", ["uni_pc", "plms"])
def test_solvers_of_other_noise_are_refused_before_anything_is_sampled(
    solver: str, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PipelineDenoiser, "__call__", lambda *_: pytest.fail("it was sampled"))
    settings = Settings(model=str(original), device="cpu", size=(32, 32), solver=solver, images=2, held_out=2)
    with pytest.raises(ConfigError, match=f"--solver: {solver} is not there for flow models. Choose dpmpp_2m or euler"):
        start(tmp_path / "run", settings, Silent())


def test_precision_follows_the_kind_of_network(original: Path) -> None:
    found = [default_dtype(name, torch.device("cuda")) for name in (str(original), "tiny", "sd15.safetensors")]
    assert found == ["bfloat16", "float16", "float16"]
    assert default_dtype(str(original), torch.device("cpu")) == "float32"


def test_a_tokenizer_for_these_tests_reads_all_their_prompts(tmp_path: Path) -> None:
    words = tokenizer(tmp_path)
    assert len({tuple(words(text).input_ids) for text in ("a red heart", "one yellow star", "")}) == 3
