"""What the deep feature of a partial step is taken to be, from the features of the last full steps.

`reuse` is DeepCache (arXiv 2312.00858): the newest one. `linear` and `quadratic` extrapolate the polynomial through the
last two or three in log-SNR, in which the solution of a diffusion model is smooth (DPM-Solver, arXiv 2206.00927,
eq. 3.1-3.4); the forecast of features is that of TaylorSeer (arXiv 2503.06923) and Spectrum (arXiv 2603.01623).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import FlexiffusionError
from .schedule import PREDICTORS, Predictor


def order(kind: Predictor) -> int:
    """Degree of the polynomial; one full step more than this is needed."""
    return PREDICTORS.index(kind)


def log_snr(sigma: float) -> float:
    """Logarithm of the signal-to-noise ratio abar / (1 - abar) at the noise level sigma = sqrt((1 - abar) / abar).

    Raises:
        FlexiffusionError: sigma is not a positive finite number.
    """
    if not 0 < sigma < math.inf:
        raise FlexiffusionError(f"noise level {sigma}: not a positive finite number. Pass a sigma as in k-diffusion")
    return -2 * math.log(sigma)


def weights(nodes: Sequence[float], at: float) -> tuple[float, ...]:
    """Lagrange's basis polynomials of these nodes at one place: w_i = prod_{j != i} (at - x_j) / (x_i - x_j).

    Raises:
        FlexiffusionError: two nodes are equal.
    """
    if len(set(nodes)) != len(nodes):
        raise FlexiffusionError(f"log-SNR nodes {tuple(nodes)}: two are equal. Keep one feature for each noise level")
    return tuple(
        math.prod((at - other) / (node - other) for j, other in enumerate(nodes) if j != i)
        for i, node in enumerate(nodes)
    )


def predict(kind: Predictor, history: Sequence[tuple[float, Tensor]], at: float) -> Tensor:
    """The deep feature at log-SNR `at`; always a fresh tensor of the newest one's dtype and layout.

    Args:
        kind: the predictor; its order falls to what the history allows.
        history: (log-SNR, feature) of the last full steps, newest last. # each (B, C, H, W)
        at: log-SNR of the partial step.

    Raises:
        FlexiffusionError: the history is empty, or two of its levels are equal.
    """
    if not history:
        raise FlexiffusionError("feature history: empty. Run one full step before a partial one")
    used = history[-(order(kind) + 1) :]
    newest = used[-1][1]
    if len(used) == 1:
        return newest.clone()
    factors = weights([node for node, _ in used], at)
    # half precision would round at every term; the sum is made in single precision and rounded once
    precision = torch.promote_types(newest.dtype, torch.float32)
    result = newest.to(precision, copy=True).mul_(factors[-1])
    for factor, (_, feature) in zip(factors[:-1], used[:-1], strict=True):
        result.add_(feature, alpha=factor)
    return result.to(newest.dtype)
