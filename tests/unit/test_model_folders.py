"""diffusers folders: SD1.x and SDXL as their single files, classes, variants, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_folders import write_pipeline, write_unconditional
from often import often

from flexiffusion.schedule import FULL, Action
from flexiffusion.search.trajectory import Trajectory
from flexsearch.errors import ModelError
from flexsearch.models.denoiser import ModelDenoiser
from flexsearch.models.load import load_model
from flexsearch.models.model import DiffusionModel
from flexsearch.models.noise import initial_noise
from flexsearch.sampling.solvers import draw
from tools.make_random_checkpoint import write


def sampled(model: DiffusionModel, prompts: list[str], guidance: float) -> Trajectory:
    return draw(
        ModelDenoiser(model, model.encode(prompts), guidance),
        "dpmpp_2m",
        initial_noise(0, range(len(prompts)), model.latent_shape),
        (999, 600, 200),
        (FULL, Action("partial", 0), FULL),
    )


class TestTextToImage:
    @pytest.mark.parametrize("name", often(["sd15", "sdxl"], ["sd15"]))
    def test_a_folder_draws_what_its_single_file_draws(self, name: str, tmp_path: Path) -> None:
        single = load_model(str(write(tmp_path / "x.safetensors", name)), "cpu", size=(64, 64))  # type: ignore[arg-type]
        folder = load_model(str(write_pipeline(tmp_path / "folder", single)), "cpu", size=(64, 64))
        assert folder.branches == single.branches and folder.multiple == single.multiple == 8
        assert folder.default_guidance == single.default_guidance and folder.notes == single.notes == ()
        prompts = ["a cat", "a small dog"]
        ours, theirs = sampled(folder, prompts, 7.0), sampled(single, prompts, 7.0)
        torch.testing.assert_close(ours.latents, theirs.latents, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(folder.decode(ours.latents), single.decode(theirs.latents), rtol=1e-3, atol=1e-3)

    def test_a_folder_of_float16_variants(self, tmp_path: Path) -> None:
        single = load_model(str(write(tmp_path / "x.safetensors", "sd15")), "cpu", size=(64, 64))
        folder = write_pipeline(tmp_path / "folder", single, variant="fp16")
        assert next((folder / "unet").glob("*.fp16.safetensors"))
        assert torch.equal(
            sampled(load_model(str(folder), "cpu", size=(64, 64)), ["a"], 2.0).latents,
            sampled(single, ["a"], 2.0).latents,
        )

    def test_zero_terminal_snr(self, tmp_path: Path) -> None:
        single = load_model(str(write(tmp_path / "x.safetensors", "sd15")), "cpu")
        folder = write_pipeline(tmp_path / "folder", single)
        scheduler = folder / "scheduler" / "scheduler_config.json"
        scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"rescale_betas_zero_snr": True}))
        assert load_model(str(folder), "cpu").levels.sigma(999) > 4000

    def test_the_refiner(self, tmp_path: Path) -> None:
        index = {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": [None, None],
                 "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}  # fmt: skip
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match="SDXL refiner"):
            load_model(str(tmp_path), "cpu")

    def test_an_inpainting_folder(self, tmp_path: Path) -> None:
        from diffusers import UNet2DConditionModel

        single = load_model(str(write(tmp_path / "x.safetensors", "sd15")), "cpu")
        folder = write_pipeline(tmp_path / "folder", single)
        UNet2DConditionModel(
            in_channels=9, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2, cross_attention_dim=32,
        ).save_pretrained(folder / "unet")  # fmt: skip
        with pytest.raises(ModelError, match=r"an inpainting model \(9 input channels\)"):
            load_model(str(folder), "cpu")


class TestClasses:
    @pytest.mark.parametrize("latent", [False, True])
    def test_prompts_are_class_numbers(self, latent: bool, tmp_path: Path) -> None:
        model = load_model(str(write_unconditional(tmp_path, latent, classes=11)), "cpu")
        assert model.conditional and model.default_guidance == 1.0 and sorted(model.prompts, key=int)[-1] == "9"
        made = sampled(model, ["3", "3", "7"], 1.0)
        again = sampled(model, ["7", "3", "7"], 1.0)
        assert made.misses == 0 and torch.equal(made.latents[1], again.latents[1])
        assert not torch.allclose(made.latents[0], again.latents[0])

    def test_guidance_is_away_from_the_last_class(self, tmp_path: Path) -> None:
        model = load_model(str(write_unconditional(tmp_path, False, classes=11)), "cpu")
        conditioning = model.encode(["3"])
        noise = initial_noise(0, [0], model.latent_shape)
        rows, told = model.network_input(noise, conditioning, 2.0)
        assert told is not None and told.classes is not None and told.classes.tolist() == [10, 3]
        with torch.inference_mode():
            guided = model.guided(model.call(rows, 500, told), 2.0)
            alone = [model.call(noise, 500, model.encode([c]).positive) for c in ("3", "10")]
        torch.testing.assert_close(guided, alone[1] + 2.0 * (alone[0] - alone[1]))

    @pytest.mark.parametrize("prompt", ["a cat", "11", "-1"])
    def test_what_is_no_class(self, prompt: str, tmp_path: Path) -> None:
        model = load_model(str(write_unconditional(tmp_path, False, classes=11)), "cpu")
        with pytest.raises(ModelError, match=r"is no class .* Give numbers from 0 to 10"):
            model.encode([prompt])


class TestSizes:
    def test_pixel_models_want_whole_lowest_levels(self, tmp_path: Path) -> None:
        model = load_model(str(write_unconditional(tmp_path, latent=False)), "cpu")
        assert model.sized((32, 16)).latent_shape == (3, 16, 32)
        with pytest.raises(Exception, match="multiples of 2 pixels"):
            model.sized((17, 16))
