"""What the deep feature of a partial step is taken to be, from the features of the last full steps.

`reuse` is DeepCache (arXiv 2312.00858): the newest one. `linear` and `quadratic` extrapolate the polynomial through the
last two or three in log-SNR, in which the solution of a diffusion model is smooth (DPM-Solver, arXiv 2206.00927,
eq. 3.1-3.4), and for flow models in the noise level itself, whose log-SNR has no end at pure noise; the
forecast of features is that of TaylorSeer (arXiv 2503.06923). `spectrum` is that of Spectrum
(arXiv 2603.01623): Chebyshev polynomials fitted to all full steps so far, in the fraction of the run that is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import FlexiffusionError
from .feature import Feature
from .noise import NoiseKind
from .schedule import NEEDS, Predictor, span

# Spectrum's own values: degree, ridge penalty, and the share of the fit (the rest is the linear forecast).
DEGREE, RIDGE, FITTED = 4, 0.1, 0.5


def log_snr(sigma: float) -> float:
    """Logarithm of the signal-to-noise ratio abar / (1 - abar) at the noise level sigma = sqrt((1 - abar) / abar).

    Raises:
        FlexiffusionError: sigma is not a positive finite number.
    """
    if not 0 < sigma < math.inf:
        raise FlexiffusionError(f"noise level {sigma}: not a positive finite number. Pass a sigma as in k-diffusion")
    return -2 * math.log(sigma)


def place_of(sigma: float, noise: NoiseKind) -> float:
    """Where features of this noise level lie for `linear` and `quadratic`: log-SNR ("vp"), or sigma itself ("flow").

    Raises:
        FlexiffusionError: sigma is not a positive finite number.
    """
    place = log_snr(sigma)
    return sigma if noise == "flow" else place


def weights(kind: Predictor, nodes: Sequence[float], at: float) -> tuple[float, ...]:
    """What each node's feature counts for in the prediction at one place; the last `span` nodes, or all.

    nodes, at: as in `place_of`; of `spectrum` fractions of the run, 0 at its first level and 1 at its last
    Raises FlexiffusionError when two nodes are equal.
    """
    used = nodes[-span(kind) :]
    if kind != "spectrum" or len(used) < NEEDS[kind]:
        return lagrange(used, at)
    linear = (0.0,) * (len(used) - 2) + lagrange(used[-2:], at)
    fit = chebyshev(used, at)
    return tuple(FITTED * f + (1 - FITTED) * w for f, w in zip(fit, linear, strict=True))


def chebyshev(nodes: Sequence[float], at: float) -> tuple[float, ...]:
    """Ridge regression on Chebyshev polynomials T_0 to T_4, as weights of the nodes (arXiv 2603.01623):
    phi(at) (Phi^T Phi + ridge I)^-1 Phi^T, places in [0, 1] taken to [-1, 1]."""
    places = 2 * torch.tensor([*nodes, at], dtype=torch.float64) - 1
    columns = [torch.ones_like(places), places]
    while len(columns) <= DEGREE:
        columns.append(2 * places * columns[-1] - columns[-2])
    basis = torch.stack(columns, 1)
    known, asked = basis[:-1], basis[-1]
    penalised = known.T @ known + RIDGE * torch.eye(DEGREE + 1, dtype=torch.float64)
    return tuple((known @ torch.linalg.solve(penalised, asked)).tolist())


def lagrange(nodes: Sequence[float], at: float) -> tuple[float, ...]:
    """Lagrange's basis polynomials of these nodes at one place: w_i = prod_{j != i} (at - x_j) / (x_i - x_j).

    Raises:
        FlexiffusionError: two nodes are equal.
    """
    if len(set(nodes)) != len(nodes):
        raise FlexiffusionError(f"nodes {tuple(nodes)}: two are equal. Keep one feature for each noise level")
    return tuple(
        math.prod((at - other) / (node - other) for j, other in enumerate(nodes) if j != i)
        for i, node in enumerate(nodes)
    )


def predict(kind: Predictor, history: Sequence[tuple[float, Tensor]], at: float) -> Tensor:
    """The deep feature at the place `at`; always a fresh tensor of the newest one's dtype and layout.

    Args:
        kind: the predictor; it falls to what the history allows.
        history: (place, feature) of the last full steps, newest last; places as in `weights`. # each (B, C, H, W)
        at: the partial step's place.

    Raises:
        FlexiffusionError: the history is empty, or two of its places are equal.
    """
    if not history:
        raise FlexiffusionError("feature history: empty. Run one full step before a partial one")
    used = history[-span(kind) :]
    newest = used[-1][1]
    if len(used) == 1:
        return newest.clone()
    factors = weights(kind, [node for node, _ in used], at)
    # half precision would round at every term; the sum is made in single precision and rounded once
    precision = torch.promote_types(newest.dtype, torch.float32)
    result = newest.to(precision, copy=True).mul_(factors[-1])
    for factor, (_, feature) in zip(factors[:-1], used[:-1], strict=True):
        result.add_(feature, alpha=factor)
    return result.to(newest.dtype)


def predict_feature(kind: Predictor, history: Sequence[tuple[float, Feature]], at: float) -> Feature:
    """`predict` for every stream of a feature; the history's features must have equal shapes.

    Raises:
        FlexiffusionError: as `predict`.
    """
    if not history:
        raise FlexiffusionError("feature history: empty. Run one full step before a partial one")
    newest = history[-1][1]
    streams = (
        predict(kind, [(place, feature.streams[i]) for place, feature in history], at)
        for i in range(len(newest.streams))
    )
    return Feature(tuple(streams), newest.batch)
