"""Shared prefixes: the same results to the last bit, fewer calls, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexiffusion.schedule import FULL, Action
from flexiffusion.search.candidate import Candidate, make_candidate
from flexiffusion.search.prefixes import Prefixes
from flexsearch.models.denoiser import ModelDenoiser
from flexsearch.models.load import load_model
from flexsearch.models.model import DiffusionModel
from flexsearch.models.noise import initial_noise
from flexsearch.sampling.solvers import SOLVERS, draw

LINEAR, REUSE, QUADRATIC = (Action("partial", 0, name) for name in ("linear", "reuse", "quadratic"))
DEEPER = Action("partial", 1, "linear")
LEVELS = (999, 800, 650, 500, 350, 200, 80)
# Each shares some first steps with one before it.
CANDIDATES = [
    make_candidate(LEVELS, [FULL, LINEAR, FULL, LINEAR, FULL, QUADRATIC, FULL]),
    make_candidate(LEVELS, [FULL, LINEAR, FULL, LINEAR, FULL, FULL, REUSE]),  # a feature of 650 is wanted again
    make_candidate(LEVELS, [FULL, LINEAR, FULL, LINEAR, FULL, DEEPER, FULL]),  # one that was not kept: another branch
    make_candidate(LEVELS[:-1], [FULL, LINEAR, FULL, LINEAR, FULL, FULL]),  # ends earlier
    make_candidate((*LEVELS[:-1], 10), [FULL, LINEAR, FULL, LINEAR, FULL, QUADRATIC, FULL]),  # its last level moved
    make_candidate(LEVELS, [FULL] * 7),
]


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return load_model("tiny", "cpu", "float32")


def run(
    model: DiffusionModel, solver: str, candidate: Candidate, prefixes: Prefixes | None, n: int = 2
) -> tuple[torch.Tensor, int]:
    """Latents, and the network calls that they took."""
    noise = initial_noise(0, range(n), model.latent_shape)
    told = model.encode(list(model.prompts[:n]))
    denoiser = ModelDenoiser(model, told, 2.0)
    made = draw(denoiser, solver, noise, candidate.places, candidate.actions, batch=2, prefixes=prefixes)
    assert made.misses == 0
    return made.latents, made.calls


# Euler's and DDIM's steps are one solver here.
@pytest.mark.parametrize("solver", [pytest.param(s, marks=pytest.mark.slow if s == "ddim" else ()) for s in SOLVERS])
def test_bitwise_as_from_the_noise_with_fewer_calls(model: DiffusionModel, solver: str) -> None:
    prefixes = Prefixes(1 << 30)
    alone = [run(model, solver, candidate, None) for candidate in CANDIDATES]
    for again in (False, True):
        for candidate, (expected, all_calls) in zip(CANDIDATES, alone, strict=True):
            latents, calls = run(model, solver, candidate, prefixes)
            assert torch.equal(latents, expected)
            assert all_calls == 2 * len(candidate.places)
            if again:
                # asked again, everything up to the last full step is known
                last = max(i for i, action in enumerate(candidate.actions) if action == FULL)
                assert calls == 2 * (len(candidate.places) - last)
            elif candidate is CANDIDATES[3]:
                assert calls == 2  # all but its own last step were the second one's


def test_batches_are_kept_apart(model: DiffusionModel) -> None:
    prefixes = Prefixes(1 << 30)
    run(model, "dpmpp_2m", CANDIDATES[0], prefixes, n=4)
    assert torch.equal(
        run(model, "dpmpp_2m", CANDIDATES[1], prefixes, n=4)[0], run(model, "dpmpp_2m", CANDIDATES[1], None, n=4)[0]
    )


def held(prefixes: Prefixes) -> int:
    """Bytes that the states keep from being freed: all of a tensor that one of theirs is a part of."""
    found = [storage for state in prefixes._states.values() for storage in state.storages()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values())


def test_memory_is_bounded_and_the_bound_costs_only_calls(model: DiffusionModel) -> None:
    free = Prefixes(1 << 30)
    alone = [run(model, "dpmpp_2m", candidate, free)[0] for candidate in CANDIDATES]
    tight = Prefixes(free.bytes // 4)
    for candidate, expected in zip([*CANDIDATES, *CANDIDATES], [*alone, *alone], strict=True):
        assert torch.equal(run(model, "dpmpp_2m", candidate, tight)[0], expected)
        assert held(tight) <= tight.limit
    assert 0 < len(tight) < len(free)
    assert tight.bytes == held(tight)
    tight.clear()
    assert tight.bytes == 0 == len(tight)


def test_nothing_fits(model: DiffusionModel) -> None:
    none = Prefixes(1)
    run(model, "dpmpp_2m", CANDIDATES[0], none)
    assert len(none) == 0 == none.bytes
    assert run(model, "dpmpp_2m", CANDIDATES[0], none)[1] == 2 * len(LEVELS)


def test_random_candidates(model: DiffusionModel) -> None:
    """A search's children: parts of a parent, changed anywhere."""
    stream, prefixes = np.random.default_rng(0), Prefixes(1 << 26)
    parent, saved = CANDIDATES[0], 0
    actions = [FULL, LINEAR, REUSE, QUADRATIC, DEEPER, Action("partial", -1, "linear")]
    for _ in range(15):
        i = int(stream.integers(1, len(parent.actions)))
        changed = list(parent.actions)
        changed[i] = actions[stream.integers(len(actions))]
        levels = list(parent.places)
        if stream.random() < 0.5:
            levels[-1] = int(stream.integers(0, 150))
        parent = make_candidate(levels, changed)
        latents, calls = run(model, "uni_pc", parent, prefixes, n=1)
        assert torch.equal(latents, run(model, "uni_pc", parent, None, n=1)[0])
        saved += len(parent.places) - calls
    assert saved > 15
