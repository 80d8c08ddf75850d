"""The YAML file beside a checkpoint (NAME.yaml beside NAME.safetensors), as A1111 and Forge read it.

It is the configuration of the original code, and the only place where SD1.x checkpoints of v-prediction say that they
are: hosts that do not look for it draw noise with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexsearch.errors import ModelError
from flexsearch.models.ldm_keys import Family

LARGEST = 1 << 20  # bytes; real ones have 2,000
PARAMETERIZATION = "parameterization"  # ldm's: eps, v or x0
DENOISER = "denoiser_config.params"  # sgm's
SCALING = f"{DENOISER}.scaling_config.target"  # a class of that name

# What of `model.params` says how the network was trained and is not read from here: the value that fits all families.
TRAINED: dict[str, Any] = {
    "linear_start": 0.00085,
    "linear_end": 0.012,
    "timesteps": 1000,
    "beta_schedule": "linear",  # even roots: what diffusers calls scaled_linear
    "conditioning_key": "crossattn",
    f"{DENOISER}.num_idx": 1000,
    f"{DENOISER}.discretization_config.target": "LegacyDDPMDiscretization",
    f"{DENOISER}.discretization_config.params.linear_start": 0.00085,
    f"{DENOISER}.discretization_config.params.linear_end": 0.012,
    f"{DENOISER}.discretization_config.params.num_timesteps": 1000,
}
# The rest of ldm's and sgm's keys: training, logging, or classes whose sizes the tensors tell.
REST = {
    "ckpt_path", "base_learning_rate", "cond_stage_config", "cond_stage_forward", "cond_stage_key",
    "cond_stage_trainable", "concat_mode", "conditioner_config", "denoiser_config", "disable_first_stage_autocast",
    "first_stage_config", "first_stage_key", "ignore_keys", "image_size", "input_key", "l_simple_weight", "log_every_t",
    "log_keys", "loss_fn_config", "loss_type", "monitor", "network_config", "num_timesteps_cond", "channels",
    "optimizer_config", "original_elbo_weight", "personalization_config", "sampler_config", "scale_by_std",
    "scheduler_config", "unet_config", "use_ema", "use_positional_encodings", PARAMETERIZATION,
}  # fmt: skip


@dataclass(frozen=True)
class Sidecar:
    """What a YAML file says: the prediction in its own word ("" where it says none), and notes on the rest."""

    name: str
    prediction: str = ""
    notes: tuple[str, ...] = ()


def read_sidecar(checkpoint: Path, family: Family) -> Sidecar | None:
    """The YAML file beside a checkpoint, or None. Raises ModelError for one that cannot be read."""
    path = checkpoint.with_suffix(".yaml")
    if not path.is_file():
        return None
    document = _parsed(path)
    model = document.get("model") if isinstance(document, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    if not isinstance(params, dict):
        return Sidecar(path.name, notes=(f"{path.name} beside it has no model.params, and nothing is read from it",))
    values = dict(_flat(params))
    values |= {key: str(value).rpartition(".")[2] for key, value in values.items() if key.endswith(".target")}
    prediction = values.get(PARAMETERIZATION) or values.get(SCALING, "")
    return Sidecar(path.name, str(prediction), tuple(_notes(path.name, params, values, family)))


def _parsed(path: Path) -> Any:
    import yaml

    remedy = "Repair it or move it away: it says how the checkpoint beside it was trained"
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(str(path), f"it has more than {LARGEST:,} bytes, as no configuration has", remedy)
        text = path.read_text(encoding="utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            # a few of them, nested, stand for more values than there is memory
            raise ModelError(str(path), "it uses aliases (*NAME), which are not read", remedy)
        return yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(str(path), f"it cannot be read ({reason})", remedy) from error


def _notes(name: str, params: dict[Any, Any], values: dict[str, Any], family: Family) -> Iterator[str]:
    usual = {
        **TRAINED,
        "scale_factor": family.scaling,
        "cond_stage_config.params.layer": "penultimate" if family.name == "sd21" else "last",
        "cond_stage_config.params.layer_idx": "none",
    }
    for key, value in values.items():
        if key in usual and value is not None and value != usual[key]:
            yield f"{name} says {key}: {value}, which is not followed: {family.title} has {usual[key]}"
    for key, value in params.items():
        if str(key) not in REST and str(key) not in usual:
            yield f"{name} says {key}: {_short(value)}, which is not understood here and not followed"


def _flat(mapping: dict[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Dotted paths -> values that are no mappings."""
    for key, value in mapping.items():
        if isinstance(value, dict) and depth < 8:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."
