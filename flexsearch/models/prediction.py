"""What a single file's network predicts, and the noise schedule that it was trained with.

Neither has a place in the format: hosts read them from a YAML file beside it, from marker keys, from metadata, or
guess. So do we, in the order in
which they are sure; `--prediction` overrules all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from flexiffusion.noise import NoiseLevels
from flexsearch.errors import ModelError
from flexsearch.models.ldm_keys import UNET, FamilyName
from flexsearch.models.sidecar import Sidecar

PredictionName = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[PredictionName, ...] = ("epsilon", "v_prediction")

V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"  # empty tensors that SDXL fine-tunes carry
SD2_BIAS = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
SD2_BIAS_SPREAD = 0.09  # ComfyUI's threshold: in SD2.x files of v-prediction this bias spreads wider
METADATA_KEY = "modelspec.prediction_type"  # Stability AI's ModelSpec, written by kohya's trainers
# How tools spell the two that hosts sample, in lower case: metadata, YAML files beside a checkpoint.
WORDS: Mapping[str, PredictionName] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "epsscaling": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "v_pred": "v_prediction",
    "velocity": "v_prediction",
    "vscaling": "v_prediction",
}

# What of a diffusers scheduler's configuration says how noise was added, and what is predicted.
NOISE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
# Stable Diffusion's schedule, the same for SD1.x, SD2.x and SDXL (arXiv 2112.10752).
NOISE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LAST_ABAR = 4.8973451890853435e-08  # in place of zero, as ComfyUI does: the last sigma stays finite


def recognise_prediction(
    path: Path,
    family: FamilyName,
    keys: Collection[str],
    metadata: Mapping[str, str],
    sidecar: Sidecar | None,
    sd2_bias: Tensor | None,
) -> tuple[PredictionName, tuple[str, ...]]:
    """What a single file's network predicts, and a note where its sources do not agree.

    From the YAML file beside it, then its marker key, then its metadata, then (SD2.x, which mostly has none of them)
    from the spread of one bias, as ComfyUI does. Raises ModelError for a word that says something else (flow
    matching).
    """
    said: list[tuple[str, PredictionName]] = []
    if sidecar is not None and sidecar.prediction:
        said.append((sidecar.name, _meant(path, f"{sidecar.name} beside it", sidecar.prediction)))
    if V_MARK in keys:
        said.append((f"the tensor {V_MARK}", "v_prediction"))
    if word := metadata.get(METADATA_KEY, "").strip():
        said.append((f"the metadata entry {METADATA_KEY}", _meant(path, f"its metadata entry {METADATA_KEY}", word)))
    if not said:
        spread = 0.0 if family != "sd21" or sd2_bias is None else float(sd2_bias.float().std(correction=0))
        return ("v_prediction" if spread > SD2_BIAS_SPREAD else "epsilon"), ()
    (first, prediction), *others = said
    return prediction, tuple(
        f"{place} says {other}, but {first} says {prediction} and counts first; --prediction overrules both"
        for place, other in others
        if other != prediction
    )


def _meant(path: Path, place: str, word: str) -> PredictionName:
    if (prediction := WORDS.get(word.strip().lower())) is None:
        raise ModelError(
            str(path),
            f"{place} says that it predicts {word!r}, which is not sampled here",
            f"Give a checkpoint of {' or '.join(PREDICTIONS)}; where you know better, --prediction overrules it",
        )
    return prediction


def zero_snr_of(keys: Collection[str], prediction: PredictionName) -> tuple[bool, tuple[str, ...]]:
    """Whether a single file's noise schedule ends in pure noise, and a note where its marker is not followed."""
    if ZERO_SNR_MARK not in keys:
        return False, ()
    if prediction == "v_prediction":
        return True, ()
    return False, (
        f"the tensor {ZERO_SNR_MARK} (zero terminal SNR) is not followed, as in ComfyUI, because the network predicts "
        f"{prediction}; where that is wrong, give --prediction v_prediction",
    )


def noise_config(prediction: PredictionName, zero_snr: bool) -> dict[str, Any]:
    """A diffusers scheduler configuration of Stable Diffusion's schedule."""
    config = {**NOISE, "prediction_type": prediction}
    return with_zero_snr(config) if zero_snr else config


def with_zero_snr(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with its betas rescaled to zero terminal signal-to-noise ratio (arXiv 2305.08891, algorithm 1)."""
    roots = [math.sqrt(abar) for abar in alphas_cumprod(config)]
    scale = roots[0] / (roots[0] - roots[-1])
    abars = [max(((root - roots[-1]) * scale) ** 2, LAST_ABAR) for root in roots]
    betas = [1 - now / before for before, now in zip([1.0, *abars], abars, strict=False)]
    kept = {key: value for key, value in config.items() if not key.startswith("beta_")}
    return {**kept, "trained_betas": betas}


def noise_levels(config: Mapping[str, Any]) -> NoiseLevels:
    """The noise levels of a diffusers scheduler configuration."""
    return NoiseLevels.variance_preserving(alphas_cumprod(config))


def alphas_cumprod(config: Mapping[str, Any]) -> tuple[float, ...]:
    """Cumulative alphas (abar), one a training timestep, falling."""
    from diffusers import DDIMScheduler

    return tuple(DDIMScheduler(**config).alphas_cumprod.double().tolist())
