"""What a single file's network predicts, and the noise schedule that it was trained with.

Neither has a place in the format: hosts read them from marker keys, from metadata, or guess. So do we, in the order in
which they are sure; `--prediction` overrules all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from flexiffusion.noise import NoiseLevels
from flexsearch.models.ldm_keys import UNET, FamilyName

PredictionName = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[PredictionName, ...] = ("epsilon", "v_prediction")

V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"  # empty tensors that SDXL fine-tunes carry
SD2_BIAS = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
SD2_BIAS_SPREAD = 0.09  # ComfyUI's threshold: in SD2.x files of v-prediction this bias spreads wider
METADATA_KEY = "modelspec.prediction_type"  # Stability AI's ModelSpec, written by kohya's trainers
METADATA_WORDS: Mapping[str, PredictionName] = {"epsilon": "epsilon", "v": "v_prediction"}

# What of a diffusers scheduler's configuration says how noise was added, and what is predicted.
NOISE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
# Stable Diffusion's schedule, the same for SD1.x, SD2.x and SDXL (arXiv 2112.10752).
NOISE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LAST_ABAR = 4.8973451890853435e-08  # in place of zero, as ComfyUI does: the last sigma stays finite


def recognise_prediction(
    family: FamilyName, keys: set[str], metadata: Mapping[str, str], sd2_bias: Tensor | None
) -> PredictionName:
    """From marker keys, then metadata, then (SD2.x, which has neither) from the spread of one bias, as ComfyUI does."""
    if V_MARK in keys:
        return "v_prediction"
    word = metadata.get(METADATA_KEY, "").strip().lower()
    if word in METADATA_WORDS:
        return METADATA_WORDS[word]
    if family == "sd21" and sd2_bias is not None and float(sd2_bias.float().std(correction=0)) > SD2_BIAS_SPREAD:
        return "v_prediction"
    return "epsilon"


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
