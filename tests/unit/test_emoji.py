"""The bundled emoji model: its data, its training on a tiny shape, and the folder that diffusers loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file
from torch import Tensor

from tools.emoji_networks import Denoiser, Shape, new_vae, pack, sample, unpack
from tools.noto_emoji import FONT, NAMES, Emoji, parse, read
from tools.small_tokenizer import small_tokenizer
from tools.train_emoji import Plan, encode_all, levels_of, random_crops, run, save_grid
from tools.training import Stage, learning_rate

LISTED = """\
# group: Smileys & Emotion
# subgroup: face-smiling
1F600                                      ; fully-qualified     # 😀 E1.0 grinning face
263A FE0F                                  ; fully-qualified     # ☺️ E0.6 smiling face
263A                                       ; unqualified         # ☺ E0.6 smiling face
# subgroup: monkey-face
1F648                                      ; fully-qualified     # 🙈 E0.6 see-no-evil monkey
# group: People & Body
# subgroup: hand-fingers-open
1F44B                                      ; fully-qualified     # 👋 E0.6 waving hand
# group: Animals & Nature
# subgroup: animal-mammal
1F43B 200D 2744 FE0F                       ; fully-qualified     # 🐻‍❄️ E13.0 polar bear
1FA86                                      ; fully-qualified     # 🪆 E13.0 rescue worker’s piñata
# group: Travel & Places
# subgroup: time
1F550                                      ; fully-qualified     # 🕐 E0.6 one o’clock
# group: Symbols
# subgroup: arrow
2B06 FE0F                                  ; fully-qualified     # ⬆️ E0.6 up arrow
# group: Flags
# subgroup: flag
1F3C1                                      ; fully-qualified     # 🏁 E0.6 chequered flag
#EOF
"""
TINY = Shape(
    picture=16,
    vae_channels=(8, 8, 8, 8),
    latent_channels=4,
    width=32,
    heads=2,
    rope=(4, 6, 6),
    double_blocks=1,
    single_blocks=1,
    text_width=16,
    text_layers=1,
    vocabulary=600,
)
COLOURS = {"red square": (255, 0, 0), "green square": (0, 255, 0), "blue disc": (0, 0, 255), "white disc": (255,) * 3}


def coloured(size: int) -> tuple[Tensor, list[str]]:
    """A picture set as `read` returns it, without the font: four plain colours, twice."""
    names = [*COLOURS] * 2
    pictures = [torch.tensor(COLOURS[name], dtype=torch.uint8)[:, None, None].expand(3, size, size) for name in names]
    return torch.stack(pictures), names


def plan_of(folder: Path, **changes: object) -> Plan:
    stages = {name: Stage(name, 3, 4, 1e-3) for name in ("vae", "flow", "decoder")}
    return Plan(**{"work": folder / "work", "out": folder / "out", **stages, "sample_every": 100, **changes})


class TestData:
    def test_keeps_single_characters_and_leaves_out_sequences_people_flags_signs_and_clocks(self) -> None:
        assert parse(LISTED.splitlines()) == [
            Emoji("😀", "grinning face"),
            Emoji("☺️", "smiling face"),
            Emoji("🙈", "see-no-evil monkey"),
            Emoji("🪆", "rescue worker's pinata"),
        ]

    @pytest.mark.parametrize("missing, package", [("font", "fonts-noto-color-emoji"), ("names", "unicode-data")])
    def test_names_the_package_that_is_missing(self, tmp_path: Path, missing: str, package: str) -> None:
        present = tmp_path / "present"
        present.write_text("")
        with pytest.raises(FileNotFoundError, match=f"apt-get install {package}"):
            read(**{"font": present, "names": present} | {missing: tmp_path / "absent"})

    def test_reads_pictures_of_every_name(self, tmp_path: Path) -> None:
        """From the installed font where there is one, else from the picture set above: the same promises."""
        listed = tmp_path / "emoji-test.txt"
        listed.write_text(LISTED, encoding="utf-8")
        pictures, names = read(32, names=listed) if FONT.is_file() and NAMES.is_file() else coloured(32)
        assert pictures.dtype == torch.uint8 and pictures.shape == (len(names), 3, 32, 32)
        assert len({picture.numpy().tobytes() for picture in pictures}) == len(set(names))


class TestTokenizer:
    def test_spells_names_back_in_any_letters(self, tmp_path: Path) -> None:
        tokenizer = small_tokenizer(tmp_path, ["piñata", "rescue worker’s helmet"], 600, 12)
        tokens = tokenizer(["Piñata", "worker’s hat"]).input_ids
        assert [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens] == [
            "piñata",
            "worker ’ s hat",
        ]

    def test_is_read_again_from_its_folder(self, tmp_path: Path) -> None:
        first = small_tokenizer(tmp_path, ["red apple"], 600, 12)
        again = small_tokenizer(tmp_path, ["something else"], 600, 12)
        assert first.get_vocab() == again.get_vocab()


class TestFlow:
    def test_packing_is_undone(self) -> None:
        latents = torch.arange(2 * 4 * 8 * 8.0).reshape(2, 4, 8, 8)
        assert pack(latents).shape == (2, 16, 16)
        assert torch.equal(unpack(pack(latents), 8), latents)

    def test_levels_are_logit_normal(self) -> None:
        levels = levels_of(4000, torch.Generator().manual_seed(0))
        logits = torch.logit(levels)
        assert levels.min() > 0 and levels.max() < 1
        assert abs(logits.mean()) < 0.01 and abs(logits.std() - 1) < 0.01

    def test_latents_are_brought_to_mean_zero_and_spread_one(self) -> None:
        torch.manual_seed(0)
        vae = new_vae(TINY).eval()
        latents = encode_all(vae, torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8))
        assert abs(latents.mean()) < 1e-3 and abs(latents.std() - 1) < 1e-3
        assert vae.config.scaling_factor != 1.0 and vae.config.shift_factor != 0.0

    def test_blocks_begin_as_the_identity(self, tmp_path: Path) -> None:
        """adaLN-Zero: whatever the blocks hold, an untrained network says 0, and its blocks change nothing."""
        tokenizer = small_tokenizer(tmp_path, COLOURS, 600, TINY.prompt_tokens)
        denoiser = Denoiser(TINY, tokenizer).eval()
        tokens = tokenizer(["red square"], padding="max_length", return_tensors="pt").input_ids
        blocks = (*denoiser.transformer.transformer_blocks, *denoiser.transformer.single_transformer_blocks)
        entered, left = [], []
        for block in blocks:
            block.register_forward_pre_hook(
                lambda _, __, given: entered.append(given["hidden_states"].clone()), with_kwargs=True
            )
            block.register_forward_hook(lambda _, __, returned: left.append(returned[1].clone()))
        velocity = denoiser.velocity(torch.randn(1, 1, 16), torch.tensor([0.5]), tokens)
        assert torch.equal(velocity, torch.zeros(1, 1, 16))
        assert len(left) == 2 and all(map(torch.equal, entered, left))


class TestSchedule:
    def test_holds_its_peak_and_may_be_given_other_steps_meanwhile(self) -> None:
        stage, longer = Stage("s", 1000, 1, 2.0, hold=0.6), Stage("s", 1500, 1, 2.0, hold=0.6)
        assert {learning_rate(stage, step) for step in range(30, 600)} == {2.0}
        assert learning_rate(longer, 500) == learning_rate(stage, 500)
        assert learning_rate(stage, 800) == pytest.approx(1.0) and learning_rate(stage, 999) < 1e-4

    def test_without_hold_falls_from_the_warm_up_on(self) -> None:
        stage = Stage("s", 1000, 1, 1.0)
        assert learning_rate(stage, 0) == pytest.approx(1 / 30) and learning_rate(stage, 30) == 1.0
        assert learning_rate(stage, 515) == pytest.approx(0.5)


class TestTraining:
    def test_crops_lie_within_their_pictures_and_differ(self) -> None:
        """A picture whose pixels tell their place: each crop is a square of it, some mirrored, of many corners."""
        picture = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(64, 3, 16, 16)
        crops = random_crops(picture, 8, torch.Generator().manual_seed(0)).int()
        steps = crops.diff(dim=-1)
        assert crops.shape == (64, 3, 8, 8) and (crops.diff(dim=-2) == 16).all()
        mirrored = (steps == -1).all(dim=(1, 2, 3))
        assert torch.equal(~mirrored, (steps == 1).all(dim=(1, 2, 3))) and 16 < mirrored.sum() < 48
        assert len(set(crops[:, 0, 0].amin(dim=1).tolist())) > 30

    def test_writes_a_folder_that_diffusers_loads(self, tmp_path: Path) -> None:
        run(plan_of(tmp_path), TINY, *coloured(16))
        folder = tmp_path / "out" / "emoji"
        pipeline = FluxPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
        drawn = pipeline(
            "red square",
            negative_prompt="",
            true_cfg_scale=2.0,
            num_inference_steps=2,
            max_sequence_length=TINY.prompt_tokens,
            height=16,
            width=16,
            output_type="np",
        )
        assert drawn.images.shape == (1, 16, 16, 3)
        prompts = (folder / "prompts.txt").read_text().splitlines()
        assert sorted(prompts) == sorted(coloured(16)[1]) and prompts != coloured(16)[1]
        assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".txt"}
        assert (tmp_path / "work" / "samples" / "flow-000003.png").stat().st_size > 0

    def test_the_pipeline_draws_what_the_training_samples_draw(self, tmp_path: Path) -> None:
        """Same noise, steps and guidance: same latents, so levels, packing, guidance and scaling are the pipeline's."""
        plan = plan_of(tmp_path)
        run(plan, TINY, *coloured(16))
        folder = tmp_path / "out" / "emoji"
        pipeline = FluxPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
        denoiser = Denoiser(TINY, pipeline.tokenizer).eval()
        denoiser.transformer, denoiser.text_encoder = pipeline.transformer, pipeline.text_encoder
        denoiser.text_encoder_2 = pipeline.text_encoder_2
        torch.nn.init.normal_(pipeline.transformer.proj_out.weight)  # three batches leave next to nothing to compare
        ours = sample(denoiser, pipeline.tokenizer, ["blue disc", "red square"], steps=3, guidance=2.0, seed=5)
        noise = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5))
        theirs = pipeline(
            ["blue disc", "red square"],
            negative_prompt=["", ""],
            true_cfg_scale=2.0,
            num_inference_steps=3,
            max_sequence_length=TINY.prompt_tokens,
            height=16,
            width=16,
            latents=pack(noise),
            output_type="latent",
        ).images
        assert ours.std() > 0.5 and torch.allclose(unpack(theirs, TINY.latent), ours, atol=1e-4)

    def test_an_interrupted_training_equals_an_uninterrupted_one(self, tmp_path: Path) -> None:
        whole, parts = plan_of(tmp_path / "whole"), plan_of(tmp_path / "parts")
        run(whole, TINY, *coloured(16))
        run(plan_of(tmp_path / "parts", until="vae"), TINY, *coloured(16))
        assert not (parts.work / "flow.pt").exists()
        run(plan_of(tmp_path / "parts", until="flow"), TINY, *coloured(16))
        assert not (parts.work / "decoder.pt").exists() and not parts.out.exists()
        run(parts, TINY, *coloured(16))
        for name in ("transformer/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder_2/model"):
            one, other = (load_file(plan.out / "emoji" / f"{name}.safetensors") for plan in (whole, parts))
            assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    def test_exports_an_unfinished_training(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run(plan_of(tmp_path, until="flow"), TINY, *coloured(16))
        longer = plan_of(tmp_path, flow=Stage("flow", 50, 4, 1e-3), only_export=True)
        run(longer, TINY, *coloured(16))
        assert '"flow": {"steps": 3,' in capsys.readouterr().out
        assert (tmp_path / "out" / "emoji" / "model_index.json").exists()

    def test_the_decoder_stage_leaves_the_encoder_as_it_is(self, tmp_path: Path) -> None:
        run(plan_of(tmp_path), TINY, *coloured(16))
        before, after = (torch.load(tmp_path / "work" / f"{name}.pt")["ema"] for name in ("vae", "decoder"))
        changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert changed == {"decoder", "post_quant_conv"}

    def test_a_grid_has_every_picture_in_its_place(self, tmp_path: Path) -> None:
        from PIL import Image

        save_grid(torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(16, 3, 2, 2), tmp_path / "grid.png")
        grid = Image.open(tmp_path / "grid.png")
        assert grid.size == (16, 4) and grid.getpixel((0, 2)) == (8, 8, 8) and grid.getpixel((15, 1)) == (7, 7, 7)
