"""How many frames a video has: told to the pipeline, refused where it cannot be, and measured frame by frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from flexiffusion import codec
from flexsearch.errors import ConfigError
from flexsearch.metrics import perceptual
from flexsearch.metrics.features import extract
from flexsearch.models.checkpoint import stills
from flexsearch.models.load import load_model
from flexsearch.models.pipeline import PipelineModel, evenly
from flexsearch.models.quiet import quiet_models
from flexsearch.runs.from_file import settings_of
from flexsearch.runs.measure_files import measure_files
from flexsearch.runs.progress import Silent
from flexsearch.runs.search_run import start
from flexsearch.runs.settings import Settings
from tests.pipeline_folders import write_transformer_pipeline

SIZE = (32, 64)
# Of a number of frames the shape of one video's sample, and a number that is none, with the nearest one.
FRAMES = {
    "wan": (5, (4, 2, 8, 4), 6, 5),
    "ltx": (9, (2 * 4 * 8, 8), 5, 1),
    "hunyuan-video": (5, (4, 2, 8, 4), 6, 5),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    quiet_models()
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = write_transformer_pipeline(tmp_path_factory.mktemp("pipeline") / name, name)
        return made[name]

    return of


def load(path: Path, **more: int) -> PipelineModel:
    model = load_model(str(path), "cpu", size=SIZE, **more)  # type: ignore[arg-type]
    assert isinstance(model, PipelineModel)
    return model


@pytest.mark.parametrize("name", FRAMES)
def test_samples_are_of_so_many_frames(name: str, folder: Callable[[str], Path]) -> None:
    frames, shape, _, _ = FRAMES[name]
    model = load(folder(name), frames=frames)
    assert model.frames == frames and model.latent_shape == shape
    pictures = model.decode(torch.zeros(2, *shape))
    assert pictures.shape == (2, min(frames, 8), 3, SIZE[1], SIZE[0])
    smaller = model.sized((32, 32))
    assert smaller.frames == frames and smaller.latent_shape != shape


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_make_no_whole_latents_are_refused(name: str, folder: Callable[[str], Path]) -> None:
    _, _, wrong, nearest = FRAMES[name]
    with pytest.raises(ConfigError, match=f"^--frames: {wrong} does not fit .*such as {nearest}$"):
        load(folder(name), frames=wrong)


def test_models_of_pictures_take_no_frames(folder: Callable[[str], Path]) -> None:
    for model in (str(folder("flux")), "tiny"):
        with pytest.raises(ConfigError, match=r"--frames: .* makes pictures, not videos"):
            load_model(model, "cpu", frames=5)
    with pytest.raises(ConfigError, match="--frames"):
        Settings(frames=0)


def test_frames_evenly_spaced() -> None:
    assert evenly(81, 8) == [0, 11, 23, 34, 46, 57, 69, 80] and evenly(5, 8) == [0, 1, 2, 3, 4] and evenly(1, 8) == [0]


def test_features_are_of_each_frame() -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 6)).eval()
    videos = torch.rand(2, 5, 3, 4, 4)
    found = extract(module, videos)
    assert found.shape == (2, 5, 6)
    assert torch.allclose(found[1], extract(module, videos[1]), atol=1e-6)
    assert torch.equal(stills(videos), videos[:, 2]) and torch.equal(stills(videos[:, 0]), videos[:, 0])


def test_perceptual_errors_of_videos_are_the_mean_over_their_frames() -> None:
    class Distance(torch.nn.Module):
        def forward(self, image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return (image - other).abs().mean()

    one, other = torch.rand(2, 3, 3, 4, 4), torch.rand(2, 3, 3, 4, 4)
    frames = [perceptual.lpips_errors(Distance(), one[:, i], other[:, i]) for i in range(3)]
    assert perceptual.lpips_errors(Distance(), one, other) == pytest.approx(np.mean(frames, axis=0))


@pytest.mark.slow
def test_a_search_on_videos(folder: Callable[[str], Path], tmp_path: Path) -> None:
    settings = Settings(
        model=str(folder("wan")), device="cpu", size=(32, 32), frames=5, guidance=1.0, steps=8, speedups=(2.0,),
        evaluations=4, images=2, held_out=2, planner=False,
    )  # fmt: skip
    result = start(tmp_path / "run", settings, Silent())
    (path,) = result.schedules
    schedule = codec.read(path)
    assert schedule.extra == {"frames": 5}
    row = next(row for row in result.rows if row.kind == "found")
    assert row.relative_fid_n == 2 and row.errors["features/teacher"].mean > 0

    unsaid = dataclasses.replace(settings, frames=None)
    assert settings_of(schedule, unsaid).frames == 5
    assert settings_of(schedule, dataclasses.replace(settings, frames=9)).frames == 9
    measured = measure_files([(str(path), schedule)], unsaid, Silent())
    again = next(row for row in measured.rows if row.kind == "found")
    assert again.errors["latent/teacher"].mean == pytest.approx(row.errors["latent/teacher"].mean, rel=1e-5)
