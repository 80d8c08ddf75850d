"""What the configurations in a diffusers folder say, key by key: followed, without effect here, refused or told.

Keys of no table below are told in a note unless they are null or false.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from flexsearch.errors import ModelError
from flexsearch.models.folder_index import TEXT_TO_IMAGE, read_json
from flexsearch.models.prediction import NOISE_KEYS, PredictionName, alphas_cumprod, with_zero_snr
from flexsearch.models.variants import GUIDANCE_INPUT, ORIGINAL


class Rule(NamedTuple):
    """The values that a key may have, and the refusal of others."""

    allowed: tuple[Any, ...]
    problem: str
    remedy: str = ORIGINAL


# A conditional U-Net's further inputs, which nothing here gives it.
CONDITIONAL_UNET = {
    "time_cond_proj_dim": Rule((None,), GUIDANCE_INPUT),
    "class_embed_type": Rule((None,), "its network is told a class or a picture too, as unCLIP models are"),
    "num_class_embeds": Rule((None,), "its network is told a class beside the text, as upscalers are"),
    "addition_embed_type": Rule((None, "text_time"), "its network is told more than text, as Kandinsky's is"),
    "encoder_hid_dim_type": Rule((None, "text_proj"), "its network is told pictures, as with an IP-Adapter"),
}
UNCONDITIONAL_UNET = {
    "class_embed_type": Rule((None,), "its classes are told in a way that is not known here"),
}
# Refused where a scheduler says it, whatever its class.
SCHEDULER = {
    "use_flow_sigmas": Rule((None, False), "it is trained by flow matching, which is not sampled here", TEXT_TO_IMAGE),
    "timestep_type": Rule((None, "discrete"), "its network is told continuous timesteps", TEXT_TO_IMAGE),
    "variance_type": Rule(
        (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
        "its network predicts the variance too, which is not sampled here",
        "Give a model that predicts the noise alone",
    ),
}
# What configures diffusers' own samplers, in whose place the search puts its solvers and timesteps.
SAMPLER_KEYS = {
    "algorithm_type", "clip_sample", "clip_sample_range", "corrector_order", "disable_corrector",
    "dynamic_thresholding_ratio", "eta", "euler_at_final", "final_sigmas_type", "flow_shift", "interpolation_type",
    "lambda_min_clipped", "lower_order_final", "noise_sampler_seed", "original_inference_steps", "predict_x0",
    "predictor_order", "sample_max_value", "set_alpha_to_one", "sigma_max", "sigma_min", "skip_prk_steps",
    "solver_order", "solver_p", "solver_type", "steps_offset", "tau_func", "tensor_format", "thresholding",
    "time_shift_type", "timestep_scaling", "timestep_spacing", "use_beta_sigmas", "use_exponential_sigmas",
    "use_karras_sigmas", "use_lu_lambdas",
}  # fmt: skip
FOLLOWED = {*NOISE_KEYS, *SCHEDULER, "rescale_betas_zero_snr", "predict_epsilon"}
SAMPLED = ("epsilon", "v_prediction", "sample")
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
# Schedulers of diffusers without betas, by a piece of their names.
OTHER_NOISE = (
    ("EDM", "it is trained on EDM's noise levels, as Playground v2.5 and CosXL are"),
    ("FlowMatch", "it is trained by flow matching"),
    ("CMStochasticIterative", "it is a consistency model"),
    ("ScoreSde", "it is trained on the noise of a stochastic differential equation"),
    ("KarrasVe", "its noise grows without bound instead of replacing the picture"),
)


def is_count(value: Any) -> bool:
    """A whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_size(value: Any) -> bool:
    return is_count(value) or (isinstance(value, list) and len(value) == 2 and all(map(is_count, value)))


def are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


# What the value of a key must be that is computed with.
NUMBERS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "num_train_timesteps": (lambda value: value is None or is_count(value), "a whole number from 1 on"),
    "sample_size": (lambda value: value is None or is_size(value), "a whole number from 1 on, or two"),
    "scaling_factor": (lambda value: is_number(value) and value > 0, "a number above 0"),
    "shift_factor": (lambda value: value is None or is_number(value), "a number"),
    "latents_mean": (lambda value: value is None or are_numbers(value), "a list of numbers"),
    "latents_std": (
        lambda value: value is None or (are_numbers(value) and min(value, default=0) > 0),
        "a list of numbers above 0",
    ),
}


class Noise(NamedTuple):
    """A scheduler's configuration: what says how the network was trained, all of it, and notes on the rest."""

    noise: dict[str, Any]
    scheduler: dict[str, Any]
    notes: tuple[str, ...]


def read_noise(folder: Path, named: str | None, prediction: PredictionName | None) -> Noise:
    """The noise that a network was trained with, by its scheduler's configuration; `named`: its class in the index.

    `folder` is the scheduler's; keys that it leaves out have the defaults of its class, as in diffusers. Raises
    ModelError for noise levels that are not those of betas, and for values that are not known.
    """
    path = folder / "scheduler_config.json"
    config = read_json(path)
    maker = str(config.get("_class_name") or named)
    defaults = _defaults(path, maker, config)
    check(path, config, SCHEDULER)
    noise = {key: value for key, value in config.items() if key in NOISE_KEYS}
    if config.get("predict_epsilon") is False and "prediction_type" not in noise:
        noise["prediction_type"] = "sample"  # as DDPMScheduler said it until diffusers 0.11
    noise |= {key: value for key, value in defaults.items() if key not in noise}
    if prediction is not None:
        noise["prediction_type"] = prediction
    _check_noise(path, noise)
    if config.get("rescale_betas_zero_snr"):
        noise = with_zero_snr(noise)
    return Noise(noise, {"_class_name": maker, **config}, tuple(notes(path, config, FOLLOWED | SAMPLER_KEYS)))


def check_numbers(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError for the first key that is computed with and whose value is not of the kind it must be."""
    for key, (fits, kind) in NUMBERS.items():
        if key in config and not fits(config[key]):
            found = in_short(json.dumps(config[key]))
            raise ModelError(str(path), f"{key} is {found}, not {kind}", "Copy the folder again")


def check(path: Path, config: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise ModelError for the first key whose value its rule does not allow; see also `check_numbers`."""
    check_numbers(path, config)
    for key, rule in rules.items():
        if config.get(key) not in rule.allowed:
            raise ModelError(str(path), f"{rule.problem} ({key}: {json.dumps(config[key])})", rule.remedy)


def notes(path: Path, config: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    """A note for each key that says something and is not known."""
    for key, value in config.items():
        if key not in known and not key.startswith("_") and value is not None and value is not False:
            name = f"{path.parent.name}/{path.name}"
            yield f"{name} says {key}: {in_short(json.dumps(value))}, which is not understood here and not followed"


def in_short(text: object, length: int = 300) -> str:
    """What a library or a stranger's file says, in one line and cut off: some messages have a line for each tensor."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def known_keys(maker: type) -> set[str]:
    """The configuration keys that a class of diffusers follows itself."""
    return set(inspect.signature(maker.__init__).parameters)  # type: ignore[misc]


def _defaults(path: Path, maker: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The default of every key of noise that a scheduler's class has. Raises ModelError for one without betas."""
    import diffusers

    problem = f"its scheduler is {maker}"
    for piece, levels in OTHER_NOISE:
        if piece in maker:
            raise ModelError(str(path), f"{problem}: {levels}, which is not sampled here", TEXT_TO_IMAGE)
    scheduler = getattr(diffusers, maker, None)
    known = {} if scheduler is None else inspect.signature(scheduler.__init__).parameters
    if "beta_schedule" in known:
        return {key: known[key].default for key in NOISE_KEYS if key in known}
    if "args" in known and all(key in config for key in BETAS):
        return {}  # what diffusers puts in place of a class whose further package is not installed (scipy, torchsde)
    reason = "which diffusers does not know" if scheduler is None else "whose noise levels are not those of betas"
    raise ModelError(str(path), f"{problem}, {reason}", TEXT_TO_IMAGE)


def _check_noise(path: Path, noise: dict[str, Any]) -> None:
    """Raise ModelError where a value of `noise` is not known, or no rising noise follows from them."""
    predicted, schedule = noise.setdefault("prediction_type", "epsilon"), noise["beta_schedule"]
    if predicted not in SAMPLED:
        raise ModelError(
            str(path),
            f"prediction_type is {json.dumps(predicted)}, which is not sampled here",
            f"Give a model of {', '.join(SAMPLED)}; where you know better, --prediction overrules it",
        )
    if noise.get("trained_betas") is None and schedule not in BETA_SCHEDULES:
        raise ModelError(
            str(path),
            f"beta_schedule is {json.dumps(schedule)}, which is not known here",
            f"Known are {', '.join(BETA_SCHEDULES)}, and the betas themselves as trained_betas",
        )
    try:
        abars = alphas_cumprod(noise)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(
            str(path), f"no noise levels follow from it ({in_short(error)})", "Copy the folder again"
        ) from error
    if len(abars) < 2 or not all(1 > before > now > 0 for before, now in pairwise(abars)):
        raise ModelError(str(path), "its noise does not rise from step to step", "Copy the folder again")
