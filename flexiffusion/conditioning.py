"""What a network of a diffusers pipeline is called with: its sample, its timestep, and whose conditioning each row has.

Read from the names of the parameters of its `forward`, which are the same for all networks of a kind.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TIMESTEPS = ("timestep", "timesteps", "t")
# What tells conditionings apart: states and pooled states of the text, tokens of pictures (IP-Adapter), classes, sizes
# (SDXL's micro-conditions). What changes from step to step, such as a ControlNet's residuals, is not among them.
CONDITIONING = ("added_cond_kwargs", "pooled_projections", "pooled_embeds", "cap_feats", "class_labels")
MOST = 32  # tensors that are kept to be recognised
ENCODED = "encoder_"  # how the names of the others begin: encoder_hidden_states, encoder_attention_mask, ...


class Arguments:
    """Names of the arguments of a network's calls."""

    def __init__(self, network: nn.Module) -> None:
        names = list(inspect.signature(type(network).forward).parameters)[1:]
        self._names = names
        self.timestep = next((name for name in TIMESTEPS if name in names), None)

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of one call by their names."""
        return {**dict(zip(self._names, args, strict=False)), **kwargs}


def batch_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The sample that a network is called with, by its rows: its first tensor, or list of one tensor a row.

    Raises TypeError where there is none.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() > 1:
            return value
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return value[0].expand(len(value), *value[0].shape)
    raise TypeError("the network was called without a sample")


class Conditionings:
    """Recognises conditionings by their content, so that chunks may come joint, in two calls, or left out late.

    Each tensor is read once: pipelines hand over the same ones at every step.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Tensor, tuple[bytes, ...]]] = {}  # the tensor is kept, so its address is its

    def of(self, named: Mapping[str, Any], rows: int) -> tuple[Hashable, ...]:
        """The identity of the conditioning of each of the `rows` of a call with these arguments."""
        row = [hashlib.blake2b(digest_size=16) for _ in range(rows)]
        for name in sorted(named):
            if name in CONDITIONING or name.startswith(ENCODED):
                for digests in self._digests(named[name], rows):
                    for own, digest in zip(row, digests, strict=True):
                        own.update(digest)
        return tuple(own.digest() for own in row)

    def clear(self) -> None:
        self._known.clear()

    def _digests(self, value: Any, rows: int) -> Iterator[tuple[bytes, ...]]:
        if isinstance(value, Tensor):
            yield self._of_tensor(value, rows)
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                yield from self._digests(value[key], rows)
        elif isinstance(value, list | tuple):
            tensors = [item for item in value if isinstance(item, Tensor)]
            if len(tensors) == rows and all(not item.dim() or len(item) != rows for item in tensors):
                yield tuple(self._of_tensor(item, 1)[0] for item in tensors)  # one tensor a row, each as long as it is
            else:
                for item in value:
                    yield from self._digests(item, rows)

    def _of_tensor(self, tensor: Tensor, rows: int) -> tuple[bytes, ...]:
        if tensor.is_meta:
            return (str(tuple(tensor.shape)).encode(),) * rows
        key: Hashable = None
        if not tensor.is_inference():  # those do not tell whether they were written to
            place = tensor.data_ptr(), tensor._version, tensor.device
            key = (*place, tensor.shape, tensor.stride(), tensor.dtype, rows)
            if key in self._known:
                return self._known[key][1]
        values = tensor.detach().to("cpu").contiguous()
        if values.dim() and len(values) == rows:
            digests = tuple(_digest(values[row]) for row in range(rows))
        else:
            digests = (_digest(values),) * rows  # of all rows
        if key is not None:
            while len(self._known) >= MOST:  # of a pipeline that makes new ones at every step
                del self._known[next(iter(self._known))]
            self._known[key] = tensor, digests
        return digests


def _digest(values: Tensor) -> bytes:
    data = values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(data, digest_size=16).digest()
