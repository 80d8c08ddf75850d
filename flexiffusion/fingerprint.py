"""Recognises a checkpoint by its loaded weights, whatever file, host, device or adapter they came with.

Of a denoiser only the one-dimensional weights are read: norms and biases. Adapters (LoRA) and quantised files change
matrices and leave these as they are, casts move them by a rounding error, and training moves all of them. Their values
are summed up without regard to names and order, which differ between hosts: for a few scales s the means of s / (|w| +
s) and of w / (|w| + s). The small scales see the small weights, whose rounding errors are smallest and which training
moves as far as others: so even a short fine-tune shows.

fp8 rounds by several per cent, more than many fine-tunes move a weight. So there are two signatures: of the weights as
they are, and of the weights rounded to e4m3, which a file in fp8 has in common with one in 16 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .checks import FINGERPRINT

SCALES = (1.0, 0.1, 0.01, 0.001)
HALF = FINGERPRINT // 2  # numbers of the weights as they are; then come those of the rounded ones
DIGITS = 8  # after the point
# A long vector is read in strides: every vector of networks that size has a multiple of eight elements, so that biases
# which one host keeps apart and another joined (query, key and value) give the same numbers.
LONG, STRIDE = 1024, 8
# Largest difference of one number, times the root of how many weights were read (benchmarks/fingerprints.py).
TOLERANCE, TOLERANCE_FP8 = 0.003, 0.05
_NOT_TRAINED = ("scale_weight", "scale_input", "weight_scale", "input_scale", "lora_")  # of quantisation, of adapters
_LARGEST = 448.0  # of e4m3

Fingerprint = tuple[float, ...]


def fingerprint_of(network: nn.Module) -> Fingerprint | None:
    """The fingerprint of a loaded network, `FINGERPRINT` numbers from -1 to 1.

    None: it has no vectors, they are not in memory, or not finite.

    Takes a few ten milliseconds; reads, and changes nothing.
    """
    read = list(read_weights(network))
    if not read:
        return None
    weights = torch.cat([vector.to("cpu", torch.float32) for vector in read])
    if not bool(weights.isfinite().all()):
        return None
    rounded = weights.clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn).to(torch.float32)
    return (*_signature(weights), *_signature(rounded))


def is_same_checkpoint(network: nn.Module, known: Sequence[float], own: Fingerprint | None = None) -> bool:
    """Whether a loaded network is the checkpoint that has this fingerprint.

    own: the network's, where it is known
    """
    own = fingerprint_of(network) if own is None else own
    if own is None or len(known) != FINGERPRINT:
        return False
    # what comes from a file in fp8 is the same before and after rounding
    fp8 = any(tuple(numbers[:HALF]) == tuple(numbers[HALF:]) for numbers in (own, known))
    part, limit = (slice(HALF, None), TOLERANCE_FP8) if fp8 else (slice(HALF), TOLERANCE)
    count = sum(vector.numel() for vector in read_weights(network))
    return distance(own[part], known[part]) <= limit / math.sqrt(count)


def distance(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest difference of two fingerprints in one number."""
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def read_weights(network: nn.Module) -> Iterator[Tensor]:
    """The vectors of a network that its fingerprint reads, or their strides."""
    for name, weight in network.named_parameters():
        if weight.ndim != 1 or len(weight) < 2 or weight.is_meta or not weight.is_floating_point():
            continue
        if any(word in name for word in _NOT_TRAINED):
            continue
        yield weight.detach()[:: STRIDE if len(weight) >= LONG else 1]


def _signature(weights: Tensor) -> tuple[float, ...]:
    sizes, numbers = weights.abs(), []
    for scale in SCALES:
        inverse = (sizes + scale).reciprocal_()
        numbers.append(scale * float(inverse.mean(dtype=torch.float64)))
        numbers.append(float(inverse.mul_(weights).mean(dtype=torch.float64)))
    return tuple(round(number, DIGITS) for number in numbers)
