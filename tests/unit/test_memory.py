"""Batches that do not fit are halved; modules that only visit the device; the automatic batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from flexiffusion.search.trajectory import Trajectory
from flexsearch import devices as memory
from flexsearch.errors import ModelError
from flexsearch.models.costs import measure_ms
from flexsearch.models.denoiser import ModelDenoiser
from flexsearch.models.load import load_model
from flexsearch.models.model import DiffusionModel
from flexsearch.models.noise import initial_noise
from flexsearch.sampling.solvers import draw

STEPS = (999, 500, 100)


@pytest.fixture(scope="module")
def tiny() -> DiffusionModel:
    return load_model("tiny", "cpu")


class Small(nn.Module):
    """A network on a device that holds `rows` rows; it fails in the middle of a trajectory too."""

    def __init__(self, unet: nn.Module, rows: int, error: BaseException) -> None:
        super().__init__()
        self.unet, self.rows, self.error, self.tried = unet, rows, error, []

    @property
    def config(self) -> Any:
        return self.unet.config

    def forward(self, sample: torch.Tensor, timestep: int, **more: Any) -> Any:
        self.tried.append(len(sample))
        if len(sample) > self.rows and timestep < 999:
            raise self.error
        return self.unet(sample, timestep, **more)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    MemoryError(),
]


def of_seven(model: DiffusionModel, batch: int) -> Trajectory:
    noise, told = initial_noise(0, range(7), model.latent_shape), model.encode(["a bag"] * 7)
    return draw(ModelDenoiser(model, told, 2.0), "dpmpp_2m", noise, STEPS, batch=batch)


@pytest.fixture(scope="module")
def expected(tiny: DiffusionModel) -> torch.Tensor:
    return of_seven(tiny, 7).latents


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(
    error: BaseException, tiny: DiffusionModel, expected: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    small = Small(tiny.unet, 4, error)  # two images with guidance
    made = of_seven(dataclasses.replace(tiny, unet=small), 8)
    assert made.batch == 2 and small.tried[:2] == [14, 14]
    assert torch.allclose(made.latents, expected, atol=1e-4)
    assert "out of memory at 8 images together; going on with 4" in caplog.text


def test_not_even_one_image(tiny: DiffusionModel) -> None:
    small = dataclasses.replace(tiny, unet=Small(tiny.unet, 0, torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(ModelError, match=r"not even one picture of 32x32 fits .* Give a smaller --size"):
        draw(ModelDenoiser(small, tiny.encode(["a bag"]), 1.0), "ddim", initial_noise(0, [0], tiny.latent_shape), STEPS)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny: DiffusionModel) -> None:
    broken = dataclasses.replace(tiny, unet=Small(tiny.unet, 0, RuntimeError("size mismatch")))
    with pytest.raises(RuntimeError, match="size mismatch"):
        draw(
            ModelDenoiser(broken, tiny.encode(["a bag"]), 1.0), "ddim", initial_noise(0, [0], tiny.latent_shape), STEPS
        )


def test_profiling_backs_off_too(tiny: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    original = DiffusionModel.call

    def call(model: DiffusionModel, rows: torch.Tensor, *more: Any) -> torch.Tensor:
        if len(rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, rows, *more)

    monkeypatch.setattr(DiffusionModel, "call", call)
    assert measure_ms(tiny, 2.0, 8, repeats=1)[1] == 2


def test_decoding_goes_on_in_tiles(tiny: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = load_model("tiny", "cpu").vae
    decode, tiled = vae.decode, []
    monkeypatch.setattr(vae, "enable_tiling", lambda: tiled.append(True))

    def limited(latents: torch.Tensor, **more: Any) -> Any:
        if not tiled:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, **more)

    monkeypatch.setattr(vae, "decode", limited)
    latents = torch.zeros(2, *tiny.latent_shape)
    assert torch.equal(dataclasses.replace(tiny, vae=vae).decode(latents), tiny.decode(latents)) and tiled


def test_a_module_only_visits_the_device() -> None:
    module = nn.Linear(2, 2)
    with memory.visiting(module, torch.device("meta")):
        assert module.weight.is_meta
        module.to_empty(device="cpu")  # nothing comes back from the meta device by itself
    assert module.weight.device.type == "cpu"


def test_the_automatic_batch_follows_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda device: 8 << 30)
    batches = [memory.automatic_batch(torch.device("cpu"), size << 20) for size in (1, 100, 300, 3000, 30000)]
    assert batches == [64, 32, 8, 1, 1]


def test_the_peak_is_at_least_what_a_process_needs() -> None:
    assert memory.peak_memory(torch.device("cpu")) > 50 << 20
    assert (memory.in_words(3 << 30), memory.in_words(5 << 20)) == ("3.00 GiB", "5 MiB")
