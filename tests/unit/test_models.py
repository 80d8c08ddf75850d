"""Loading: the bundled model, other diffusers folders, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from model_folders import write_unconditional
from torch.utils.flop_counter import FlopCounterMode

from flexiffusion.dropping import dropping
from flexiffusion.layouts import find_layout
from flexiffusion.noise import initial_scale, spaced_places
from flexiffusion.schedule import FULL, Action
from flexsearch.errors import ConfigError, ModelError
from flexsearch.models.assets import ASSETS
from flexsearch.models.costs import count_macs, count_units, measure_ms
from flexsearch.models.denoiser import ModelDenoiser
from flexsearch.models.load import load_model
from flexsearch.models.model import Conditioning, DiffusionModel, call_unet
from flexsearch.models.noise import initial_noise
from flexsearch.sampling.solvers import SamplerSettings, draw


@pytest.fixture(scope="module")
def tiny() -> DiffusionModel:
    return load_model("tiny", "cpu")


@pytest.fixture
def ddpm_folder(tmp_path: Path) -> Path:
    return write_unconditional(tmp_path, latent=False)


class TestBundledModel:
    def test_is_a_stable_diffusion_pipeline(self) -> None:
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(
            ASSETS / "tiny", local_files_only=True, torch_dtype=torch.float32
        )
        unet = pipeline.unet.config
        assert len(unet.block_out_channels) >= 3 and unet.layers_per_block == 2
        picture = pipeline("a photo of a sandal", num_inference_steps=2, output_type="np").images[0]
        assert picture.shape == (32, 32, 3)

    def test_is_small_and_safe(self) -> None:
        files = [path for path in ASSETS.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 40 * 2**20
        assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}

    def test_has_the_branches_of_three_levels(self, tiny: DiffusionModel) -> None:
        assert tiny.branches == 9 and tiny.family == "tiny-fashion" and tiny.latent_shape == (4, 16, 16)

    def test_follows_the_prompt(self, tiny: DiffusionModel) -> None:
        """The bundled classifier sees what was asked for, at more than chance by far (10 %)."""
        from flexsearch.metrics.features import BundledFeatures
        from tools.fashion_mnist import CLASSES

        names = CLASSES * 3
        made = draw(
            ModelDenoiser(tiny, tiny.encode([f"a photo of a {name}" for name in names]), 2.0),
            "dpmpp_2m",
            initial_noise(7, range(len(names)), tiny.latent_shape),
            spaced_places(tiny.levels, 10, "logsnr"),
        )
        seen = BundledFeatures().classifier(tiny.decode(made.latents)).argmax(dim=1)
        assert (seen == torch.arange(10).repeat(3)).float().mean() >= 0.7


class TestPixelModel:
    def test_is_an_unconditional_ddpm_of_grey_pictures(self) -> None:
        """Four levels, attention at the two lower ones; every unit can be dropped and its cost is known."""
        model = load_model("pixel", "cpu")
        assert model.family == "pixel-fashion" and model.source == "pixel" and not model.conditional
        assert model.latent_shape == (1, 32, 32) and model.branches == 8 and model.default_guidance == 1.0
        assert model.decode(torch.zeros(2, 1, 32, 32)).shape == (2, 3, 32, 32)
        table = count_macs(model, 1.0)
        assert set(table.units) == set(find_layout(model.unet).droppable) and len(table.units) == 21
        every = Action("full", drop=tuple(table.units))
        assert 0 < table.of(every) < 0.5 * table.full
        assert count_units(model).of(every) == 1.0

    def test_what_a_unit_saves_is_what_is_not_computed(self) -> None:
        """By counting the multiply-adds of a call that really drops it."""
        model = load_model("pixel", "cpu")
        table, layout = count_macs(model, 1.0), find_layout(model.unet)
        unet = model.unet.to("meta")
        for name in ("input_blocks.1.0", "input_blocks.3.0", "input_blocks.5.1", "middle_block.1", "output_blocks.7.0"):
            with FlopCounterMode(display=False) as counter, dropping(layout.named([name])), torch.inference_mode():
                call_unet(unet, torch.empty(1, 1, 32, 32, device="meta"), 1, None)
            assert counter.get_total_flops() / 2 == pytest.approx(table.of(Action("full", drop=(name,)))), name


class TestSampling:
    RECIPE = SamplerSettings("dpmpp_2m", 2.0)
    STEPS = (999, 700, 400, 100)
    ACTIONS = (FULL, Action("partial", 1), FULL, Action("partial", 0, "linear"))

    def run(self, tiny: DiffusionModel, indices: range, batch: int) -> torch.Tensor:
        prompts = [f"a {name}" for name in ("coat", "bag", "dress", "shirt", "sandal")]
        conditioning = tiny.encode([prompts[i] for i in indices])
        noise = initial_noise(0, indices, tiny.latent_shape)
        return draw(
            ModelDenoiser(tiny, conditioning, self.RECIPE.guidance),
            self.RECIPE.solver,
            noise,
            self.STEPS,
            self.ACTIONS,
            batch=batch,
        ).latents

    def test_an_image_does_not_depend_on_its_batch(self, tiny: DiffusionModel) -> None:
        together = self.run(tiny, range(5), 64)
        assert torch.allclose(together, self.run(tiny, range(5), 2), atol=1e-4)
        assert torch.allclose(together[3:4], self.run(tiny, range(3, 4), 1), atol=1e-4)

    def test_guidance_in_one_call_equals_two(self, tiny: DiffusionModel) -> None:
        conditioning = tiny.encode(["a bag"])
        noise = initial_noise(0, [0], tiny.latent_shape)
        rows, text = tiny.network_input(noise, conditioning, 3.0)
        with torch.inference_mode():
            together = tiny.guided(tiny.call(rows, 500, text), 3.0)
            negative = tiny.call(noise, 500, conditioning.negative)
            positive = tiny.call(noise, 500, conditioning.positive)
        assert torch.allclose(together, negative + 3.0 * (positive - negative), atol=1e-4)

    def test_guidance_one_runs_no_negative(self, tiny: DiffusionModel) -> None:
        rows, text = tiny.network_input(torch.zeros(2, 4, 16, 16), tiny.encode(["a", "b"]), 1.0)
        assert len(rows) == 2 and text is not None and len(text) == 2

    def test_states_are_the_solvers(self, tiny: DiffusionModel) -> None:
        noise = initial_noise(0, range(3), tiny.latent_shape)
        made = draw(
            ModelDenoiser(tiny, tiny.encode(["a bag"] * 3), self.RECIPE.guidance),
            self.RECIPE.solver,
            noise,
            self.STEPS,
            batch=2,
            keep_states=True,
        )
        assert made.states is not None and made.states.shape == (4, 3, 4, 16, 16)
        assert torch.equal(made.states[0], noise * initial_scale(tiny.levels.sigma(self.STEPS[0]), "vp"))


@pytest.mark.slow
def test_a_compiled_network_draws_the_same(tiny: DiffusionModel) -> None:
    compiled = load_model("tiny", "cpu", compiled=True)
    noise, told = initial_noise(0, range(2), tiny.latent_shape), tiny.encode(["a bag", "a coat"])
    steps = (999, 800, 600, 400, 200)
    actions = (FULL, Action("partial", 1), FULL, Action("partial", 0, "linear"), Action("partial", -1))
    made = draw(ModelDenoiser(compiled, told, 2.0), "dpmpp_2m", noise, steps, actions)
    expected = draw(ModelDenoiser(tiny, told, 2.0), "dpmpp_2m", noise, steps, actions)
    assert made.misses == 0 and torch.allclose(made.latents, expected.latents, atol=1e-3)


class TestCosts:
    def test_shares_rise_with_the_branch(self, tiny: DiffusionModel) -> None:
        table = count_macs(tiny, 2.0)
        shares = [table.partial[branch] / table.full for branch in range(-1, tiny.branches)]
        assert shares == sorted(shares) and 0 < shares[0] < 0.01 and 0.9 < shares[-1] < 1

    def test_guidance_doubles_them(self, tiny: DiffusionModel) -> None:
        assert count_macs(tiny, 2.0).full == 2 * count_macs(tiny, 1.0).full

    def test_measured_table_has_every_branch(self, tiny: DiffusionModel) -> None:
        table, _ = measure_ms(tiny, 2.0, batch=1, repeats=1)
        assert set(table.partial) == set(range(-1, tiny.branches)) and table.unit == "ms"


class TestUnconditional:
    def test_a_ddpm_folder_samples(self, ddpm_folder: Path) -> None:
        model = load_model(str(ddpm_folder), "cpu")
        assert model.family == "ddpm" and not model.conditional and model.vae is None
        made = draw(
            ModelDenoiser(model, Conditioning(), 1.0),
            "ddim",
            initial_noise(0, range(2), model.latent_shape),
            (999, 500, 0),
            (FULL, Action("partial", 0), FULL),
        )
        assert model.decode(made.latents).shape == (2, 3, 16, 16) and made.misses == 0
        assert count_macs(model, 1.0).partial[0] < count_macs(model, 1.0).full

    def test_a_latent_folder_decodes(self, tmp_path: Path) -> None:
        model = load_model(str(write_unconditional(tmp_path, latent=True)), "cpu")
        assert model.latent_shape == (3, 8, 8) and model.image_size == (16, 16)
        images = model.decode(initial_noise(0, range(2), model.latent_shape))
        assert images.shape == (2, 3, 16, 16) and images.min() >= 0 and images.max() <= 1

    def test_it_takes_no_prompts(self, ddpm_folder: Path) -> None:
        with pytest.raises(ModelError, match="Leave out the prompts"):
            load_model(str(ddpm_folder), "cpu").encode(["a bag"])


class TestRefusals:
    def test_no_such_folder(self) -> None:
        with pytest.raises(ModelError, match="there is no such file or folder"):
            load_model("/no/such/folder")

    def test_an_unknown_dtype(self) -> None:
        with pytest.raises(ConfigError, match="'int4' is not known"):
            load_model("tiny", dtype="int4")

    def test_no_index(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("none")
        with pytest.raises(ModelError, match=r"model_index.json: the file is missing. Give a folder"):
            load_model(str(tmp_path))

    def test_a_broken_index(self, ddpm_folder: Path) -> None:
        (ddpm_folder / "model_index.json").write_text("{")
        with pytest.raises(ModelError, match="cannot be read"):
            load_model(str(ddpm_folder))

    def test_a_transformer_of_no_pipeline(self, ddpm_folder: Path) -> None:
        (ddpm_folder / "model_index.json").write_text('{"transformer": ["diffusers", "FluxTransformer2DModel"]}')
        with pytest.raises(ModelError, match=r"it names no pipeline \(_class_name\)"):
            load_model(str(ddpm_folder))

    def test_pickled_weights(self, ddpm_folder: Path) -> None:
        weights = next((ddpm_folder / "unet").glob("*.safetensors"))
        weights.rename(weights.with_suffix(".bin"))
        with pytest.raises(ModelError, match="pickled weights are not loaded"):
            load_model(str(ddpm_folder))

    def test_truncated_weights(self, ddpm_folder: Path) -> None:
        weights = next((ddpm_folder / "unet").glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ModelError, match="it is cut off inside its own header"):
            load_model(str(ddpm_folder))

    def test_a_missing_text_encoder(self, tmp_path: Path) -> None:
        shutil.copytree(ASSETS / "tiny", tmp_path / "tiny")
        index = json.loads((tmp_path / "tiny" / "model_index.json").read_text())
        del index["text_encoder"]
        (tmp_path / "tiny" / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match="no text encoder"):
            load_model(str(tmp_path / "tiny"))
