"""A checkpoint is recognised by its loaded vectors: casts and adapters leave the fingerprint, training does not."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn

from flexiffusion.checks import FINGERPRINT
from flexiffusion.fingerprint import HALF, fingerprint_of, is_same_checkpoint

CASTS = (torch.float16, torch.bfloat16, torch.float8_e4m3fn)


class Network(nn.Module):
    """Norms and linear layers with biases, of a transformer's sizes."""

    def __init__(self, seed: int = 0, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(8))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(8))
        for norm in self.norms:
            nn.init.normal_(norm.weight, 1.0, 0.1)
            nn.init.normal_(norm.bias, 0.0, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + torch.nn.functional.silu(layer(norm(x)))
        return x


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    other = copy.deepcopy(network)
    for weight in other.parameters():
        weight.requires_grad_(False)
        weight.data = weight.data.to(dtype)
    return other


def trained(network: Network, steps: int, rate: float, seed: int) -> Network:
    """A copy, really trained towards random vectors."""
    other, stream = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(other.parameters(), lr=rate)
    for _ in range(steps):
        x, wanted = torch.randn(2, 16, 64, generator=stream)
        (other(x) - wanted).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return other


def known(network: nn.Module) -> tuple[float, ...]:
    numbers = fingerprint_of(network)
    assert numbers is not None and len(numbers) == FINGERPRINT
    return numbers


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.mark.parametrize("dtype", CASTS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_a_cast_checkpoint_is_the_same_one_both_ways(dtype: torch.dtype, seed: int) -> None:
    original = Network(seed)
    other = cast(original, dtype)
    assert is_same_checkpoint(other, known(original))
    assert is_same_checkpoint(original, known(other))
    assert is_same_checkpoint(cast(original, torch.bfloat16), known(other))


def test_twenty_four_fine_tunes_are_other_checkpoints(network: Network) -> None:
    """From forty steps at 1e-4 on; also between each other, and as files of 16 bits."""
    lengths = ((40, 1e-4), (100, 1e-4), (20, 1e-3))
    variants = [trained(network, steps, rate, seed) for seed in range(8) for steps, rate in lengths]
    prints = [known(variant) for variant in [network, *variants]]
    for i, variant in enumerate([network, *variants]):
        same = [j for j, numbers in enumerate(prints) if is_same_checkpoint(variant, numbers, prints[i])]
        assert same == [i]
        assert is_same_checkpoint(cast(variant, torch.bfloat16), prints[i])
        assert i == 0 or not is_same_checkpoint(cast(variant, torch.bfloat16), prints[0])


def test_random_networks_are_others_even_in_eight_bits(network: Network) -> None:
    for seed in range(1, 21):
        other = Network(seed)
        assert not is_same_checkpoint(other, known(network))
        assert not is_same_checkpoint(cast(other, torch.float8_e4m3fn), known(network))


def test_adapters_do_not_matter(network: Network) -> None:
    merged = copy.deepcopy(network)
    for layer in merged.layers:
        layer.weight.data += 0.1 * torch.randn(64, 64)
    beside = copy.deepcopy(network)
    beside.layers[0].lora_A = nn.Linear(64, 4, bias=False)
    beside.layers[0].lora_magnitude_vector = nn.Parameter(torch.ones(64))
    assert known(merged) == known(beside) == known(network)


def test_names_order_and_joined_biases_do_not_matter(network: Network) -> None:
    """Hosts call modules otherwise, and keep query, key and value together or apart."""
    vectors = [weight.detach() for weight in network.parameters() if weight.ndim == 1]
    long = [torch.randn(3072) for _ in range(3)]
    apart = nn.ParameterList([nn.Parameter(vector) for vector in (*vectors, *long)])
    joined = nn.ParameterList([nn.Parameter(vector) for vector in (torch.cat(long), *reversed(vectors))])
    assert known(apart) == pytest.approx(known(joined), abs=1e-7)


def test_nothing_is_drawn_or_changed(network: Network) -> None:
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    known(network)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_network_without_vectors_or_in_no_memory_has_none(network: Network) -> None:
    assert fingerprint_of(nn.Linear(4, 4, bias=False)) is None
    assert fingerprint_of(copy.deepcopy(network).to("meta")) is None
    broken = copy.deepcopy(network)
    broken.norms[0].bias.data[0] = torch.nan
    assert fingerprint_of(broken) is None
    assert not is_same_checkpoint(broken, known(network))
    assert not is_same_checkpoint(network, known(network)[:HALF])


def test_quantisation_scales_are_not_read(network: Network) -> None:
    scaled = copy.deepcopy(network)
    scaled.layers[0].scale_weight = nn.Parameter(torch.full((64,), 3.0))
    assert known(scaled) == known(network)


def test_as_many_vectors_as_sdxl_has_take_less_than_50_milliseconds_of_cpu() -> None:
    sizes = [1280] * 540 + [10240] * 60 + [640] * 90 + [5120] * 10 + [320, 640, 1280] * 34
    network = nn.ParameterList([nn.Parameter(torch.randn(size), requires_grad=False) for size in sizes])
    spent = []
    for _ in range(5):
        began = time.process_time()
        known(network)
        spent.append(time.process_time() - began)
    assert min(spent) < 0.05
