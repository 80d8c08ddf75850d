"""The images that candidates are judged on, and the reference trajectories that they are judged by.

References are sampled once and kept as safetensors under a key of everything that determines them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexiffusion.noise import Spacing, spaced_places
from flexiffusion.search.fitting import TeacherPath
from flexiffusion.solver import SolverMaker
from flexiffusion.whole_file import whole_file
from flexsearch.errors import ModelError
from flexsearch.metrics.features import Features, features_of
from flexsearch.models.checkpoint import Checkpoint, CheckpointDenoiser, Counted
from flexsearch.models.noise import initial_noise
from flexsearch.sampling.solvers import SamplerSettings, draw

HELD_OUT = 1 << 30  # image indices of held-out noise begin here, out of reach of any search
CONVERGED_STEPS = 60


@dataclass(frozen=True)
class ImageSet:
    """`count` images: image i has the noise of (seed, first + i) and prompt i, going round."""

    seed: int
    first: int
    count: int
    prompts: tuple[str, ...]

    def noise(self, model: Checkpoint) -> Tensor:
        return initial_noise(self.seed, range(self.first, self.first + self.count), model.latent_shape)

    def denoiser(self, model: Checkpoint, guidance: float) -> CheckpointDenoiser:
        """The model, told what these images are to show."""
        prompts = self.prompts or ("",)
        return model.denoiser([prompts[i % len(prompts)] for i in range(self.count)], guidance)


@dataclass(frozen=True)
class Reference:
    """What one full-length schedule makes of an image set; of its first images also the way there, where asked for."""

    latents: Tensor  # (n, C, H, W) float32
    images: Tensor  # (n, 3, height, width) uint8
    features: Tensor  # (n, d) float32
    states: Tensor | None = None  # (steps, m, C, H, W) float32, see `Trajectory`
    denoised: Tensor | None = None

    def path(self, solver: SolverMaker, sigmas: Sequence[float]) -> TeacherPath:
        """The way of those images, of which it tells. Raises ValueError where it was not asked for."""
        if self.states is None or self.denoised is None:
            raise ValueError("this reference was made without its states")
        return TeacherPath(solver, sigmas, self.states, self.denoised, self.latents[: self.states.shape[1]])

    def tensors(self) -> dict[str, Tensor]:
        """By name, those that it has."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}


def reference(
    model: Checkpoint,
    sampling: SamplerSettings,
    images: ImageSet,
    places: Sequence[int],
    features: tuple[str, Features],
    folder: Path,
    batch: int,
    followed: int = 0,
    progress: Callable[[int], None] = lambda calls: None,
) -> Reference:
    """The reference of an image set, from `folder` if it is there, else sampled in full and kept.

    `features` is the feature module with the name that it was asked for by; `followed` images have their states kept.
    `progress` is told how many network calls, of one image each, are done: in all one for each image and place.
    """
    told, calls = 0, images.count * len(places)

    def called(count: int) -> None:
        nonlocal told
        new = min(count, calls - told)  # a batch that is halved for lack of memory is sampled again
        told += new
        progress(new)

    determines = {
        "model": model.sha256,
        "prediction": model.noise_config,
        "zero_negative": model.zero_negative,
        "size": model.image_size,
        "device": str(model.device.type),
        "dtype": str(model.dtype),
        "batch": batch,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sampling": asdict(sampling),
        "images": asdict(images),
        "places": list(places),
        "features": features[0],
        **({} if model.frames is None else {"frames": model.frames}),
        **({"followed": followed} if followed else {}),
    }
    key = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"reference-{key}.safetensors"
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                known = Reference(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, TypeError):
            path.unlink()  # half written by a machine that went down: it is made again
        else:
            called(calls)
            return known
    denoiser = Counted(images.denoiser(model, sampling.guidance), called)
    made = draw(denoiser, sampling.solver, images.noise(model), places, batch=batch, keep_states=followed > 0)
    if not made.latents.isfinite().all():
        raise ModelError(
            model.source,
            f"its pictures are not finite in {str(model.dtype).removeprefix('torch.')}",
            "Give another --dtype (bfloat16 or float32), or another --prediction",
        )
    pictures = model.decode(made.latents)
    if not pictures.isfinite().all():
        raise ModelError(
            model.source,
            "its latents are finite, but the pictures that its VAE makes of them are not",
            "Give a checkpoint with another VAE: the weights of this one hold numbers that are not finite",
        )
    way = [kept[:, :followed] for kept in (made.states, made.denoised) if kept is not None]
    described = features_of(features[1], made.latents, pictures, batch)
    result = Reference(made.latents, (pictures * 255).round().to(torch.uint8), described, *way)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        save_file(
            {name: tensor.contiguous() for name, tensor in result.tensors().items()},
            draft,
            {"key": json.dumps(determines)},
        )
    return result


def converged_places(model: Checkpoint) -> tuple[int, ...]:
    """The levels of the converged solution: what every solver with enough steps arrives at (docs/method.md 7)."""
    spacing: Spacing = "uniform" if model.levels.kind == "flow" else "logsnr"
    return spaced_places(model.levels, min(CONVERGED_STEPS, len(model.levels)), spacing)
