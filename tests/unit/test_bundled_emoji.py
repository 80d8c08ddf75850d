"""The bundled emoji model: what it is, that it draws what it is told, and that flexsearch runs it as diffusers does."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

from flexiffusion.noise import spaced_places
from flexiffusion.schedule import FULL as WHOLE
from flexiffusion.schedule import Action
from flexsearch.models.assets import ASSETS
from flexsearch.models.load import load_model
from flexsearch.models.noise import initial_noise
from flexsearch.models.pipeline import PipelineModel
from flexsearch.sampling.solvers import draw
from tools.emoji_networks import FULL


@pytest.fixture(scope="module")
def bundled() -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(ASSETS / "emoji", local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ask(pipeline: FluxPipeline, prompts: list[str], guidance: float) -> Tensor:
    """What the bundled model draws in ten steps, (B, 3, 64, 64) in [0, 1]; guidance 1 is none."""
    return pipeline(
        prompts,
        negative_prompt=[""] * len(prompts),
        true_cfg_scale=guidance,
        num_inference_steps=10,
        max_sequence_length=FULL.prompt_tokens,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images


class TestBundledModel:
    def test_is_a_flux_pipeline_of_both_kinds_of_blocks(self, bundled: FluxPipeline) -> None:
        transformer = bundled.transformer
        assert len(transformer.transformer_blocks) == 4 and len(transformer.single_transformer_blocks) == 8
        assert not transformer.config.guidance_embeds
        assert bundled.vae_scale_factor == 8 and bundled.tokenizer.model_max_length == FULL.prompt_tokens

    def test_is_small_and_says_its_licences(self) -> None:
        folder = ASSETS / "emoji"
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 24 * 2**20
        licence = (folder / "LICENSE.txt").read_text()
        assert "SIL OPEN FONT LICENSE Version 1.1" in licence and "UNICODE, INC. LICENSE AGREEMENT" in licence
        assert len((folder / "prompts.txt").read_text().splitlines()) == 974

    def test_draws_hearts_in_the_colours_asked_for(self, bundled: FluxPipeline) -> None:
        """The middle of each guided picture is nearer to its own colour than to any other; the corners are white."""
        colours = {"red heart": (0.9, 0.1, 0.1), "green heart": (0.3, 0.7, 0.2), "blue heart": (0.1, 0.4, 0.9)}
        drawn = ask(bundled, [*colours], 2.0)
        middles = drawn[:, :, 24:40, 24:40].mean(dim=(2, 3))
        nearest = torch.cdist(middles, torch.tensor([*colours.values()])).argmin(dim=1)
        assert nearest.tolist() == [0, 1, 2]
        assert drawn[:, :, :4, :4].min() > 0.85

    def test_guidance_pulls_towards_the_prompt(self, bundled: FluxPipeline) -> None:
        """Two prompts from one noise differ more with guidance than without."""
        apart = []
        for guidance in (1.0, 3.0):
            drawn = ask(bundled, ["ghost", "red apple"], guidance)
            apart.append((drawn[0] - drawn[1]).square().mean())
        assert apart[1] > apart[0] > 0.01


@pytest.fixture(scope="module")
def model() -> PipelineModel:
    loaded = load_model("emoji", "cpu")
    assert isinstance(loaded, PipelineModel)
    return loaded


class TestInFlexsearch:
    def test_what_it_is(self, model: PipelineModel) -> None:
        assert (model.family, model.branches, model.blocks, model.prediction) == ("emoji", 11, 12, "flow")
        assert model.image_size == (64, 64) and model.latent_shape == (16, 64)
        assert model.levels.kind == "flow" and model.levels.values[-1] == 1.0 and len(model.levels) == 1000
        assert model.prompts[0] and len(model.prompts) == 974

    def test_head_only_steps_beat_fewer_steps(self, model: PipelineModel) -> None:
        """The least that the method promises of it, where steps are many: with few, features change too fast."""
        denoiser, noise = model.denoiser(["red heart", "pizza"], 3.0), initial_noise(0, range(2), model.latent_shape)
        places = spaced_places(model.levels, 30, "uniform")
        teacher = draw(denoiser, "dpmpp_2m", noise, places).latents
        by_turns = [Action("partial", -1, "linear") if i % 2 else WHOLE for i in range(30)]
        ours = draw(denoiser, "dpmpp_2m", noise, places, by_turns)
        fewer = draw(denoiser, "dpmpp_2m", noise, spaced_places(model.levels, 15, "uniform"))
        errors = [float((made.latents - teacher).square().mean()) for made in (ours, fewer)]
        assert errors[0] < 0.6 * errors[1]
        assert ours.misses == 0
