"""The loaded network: the only place where AUTOMATIC1111 and Forge differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from flexiffusion.errors import ModelMismatch
from flexiffusion.fit import family_of
from flexiffusion.metadata import Prediction
from flexiffusion.noise import NoiseKind

_PREDICTIONS: dict[str, Prediction] = {
    "eps": "epsilon", "epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction", "const": "flow",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network and the weights in it: a refiner may be another network, or other weights in the same one.

    sha256: of the checkpoint; None where the host has not computed it.
    noise: what the host's noise levels are, of a flow model or not.
    prediction: what the network predicts, in the words of schedule files; None where the host does not tell.
    """

    unet: nn.Module  # or a transformer: the host calls every diffusion network so
    checkpoint: object
    sha256: str | None
    noise: NoiseKind = "vp"
    prediction: Prediction | None = None

    def is_same(self, other: Network | None) -> bool:
        """Whether features of one mean anything to the other."""
        return other is not None and self.unet is other.unet and self.checkpoint == other.checkpoint

    @property
    def family(self) -> str | None:
        """Its family's name in schedule files; None: a network that cannot be cut, or of no known family."""
        try:
            return family_of(self.unet)
        except ModelMismatch:
            return None


def network_of(sd_model: Any) -> Network | None:
    """The network of the host's `shared.sd_model`; None: nothing is loaded.

    Forge keeps it in `forge_objects`, AUTOMATIC1111 in the model itself (ldm's LatentDiffusion and sgm alike).
    """
    forge = getattr(sd_model, "forge_objects", None)
    wrapped = getattr(getattr(forge, "unet", None), "model", None) if forge else getattr(sd_model, "model", None)
    unet = getattr(wrapped, "diffusion_model", None)
    if not isinstance(unet, nn.Module):
        return None
    info = getattr(sd_model, "sd_checkpoint_info", None)
    # Forge and Forge Neo say it in the predictor, AUTOMATIC1111 in the model
    told = getattr(getattr(wrapped, "predictor", None), "prediction_type", getattr(sd_model, "parameterization", None))
    prediction = _PREDICTIONS.get(str(told))
    return Network(unet, info, getattr(info, "sha256", None), "flow" if prediction == "flow" else "vp", prediction)
