from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexiffusion.errors import FlexiffusionError
from flexiffusion.predictor import lagrange, log_snr, predict, weights
from flexiffusion.schedule import PREDICTORS, span

POLYNOMIALS = ("reuse", "linear", "quadratic")

# log-SNR runs over about -10 (sigma 150) to 12 (sigma 0.002); distances as of 4 to 1000 steps, very unevenly spaced
histories = st.lists(st.floats(0.02, 4), min_size=4, max_size=4).flatmap(
    lambda gaps: st.floats(-10, 0).map(lambda start: [start + sum(gaps[: i + 1]) for i in range(4)])
)
coefficients = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


@pytest.mark.parametrize("kind", POLYNOMIALS)
@given(nodes=histories, factors=coefficients)
def test_exact_on_polynomials_of_its_order(kind, nodes, factors):
    *past, at = nodes
    factors = factors[: span(kind)]

    def feature(x):
        value = sum(factor * x**power for power, factor in enumerate(factors))
        return torch.full((2, 3), value, dtype=torch.float64)

    got = predict(kind, [(x, feature(x)) for x in past], at)
    growth = sum(abs(w) for w in weights(kind, past, at))
    torch.testing.assert_close(got, feature(at), rtol=0, atol=1e-13 * (1 + growth) * 500)


@given(nodes=histories)
def test_weights_sum_to_one(nodes):
    *past, at = nodes
    found = lagrange(past, at)
    assert math.isclose(sum(found), 1, abs_tol=1e-12 * sum(map(abs, found)))


def test_weights_by_hand():
    assert lagrange([0.0, 1.0], 2.0) == (-1.0, 2.0)
    assert lagrange([0.0, 1.0, 2.0], 3.0) == (1.0, -3.0, 3.0)
    assert lagrange([0.0, 1.0, 3.0], 4.0) == (1.0, -2.0, 2.0)


class TestSpectrum:
    """Half of NumPy's ridge regression on Chebyshev polynomials over all full steps, half the line through two."""

    @given(st.lists(st.integers(0, 29), min_size=2, max_size=12, unique=True).map(sorted))
    def test_against_numpy(self, steps):
        *nodes, at = [step / 29 for step in steps] if len(steps) > 2 else [*(step / 30 for step in steps), 1.0]
        values = np.cos(3 * np.array(nodes))
        basis = np.polynomial.chebyshev.chebvander(2 * np.array(nodes) - 1, 4)
        # ridge as least squares with rows for the penalty
        rows = np.vstack([basis, np.sqrt(0.1) * np.eye(5)])
        fitted = np.linalg.lstsq(rows, np.concatenate([values, np.zeros(5)]), rcond=None)[0]
        forecast = np.polynomial.chebyshev.chebval(2 * at - 1, fitted)
        line = values[-1] + (values[-1] - values[-2]) * (at - nodes[-1]) / (nodes[-1] - nodes[-2])
        got = np.dot(weights("spectrum", nodes, at), values)
        assert got == pytest.approx((forecast + line) / 2, abs=1e-8)

    def test_one_full_step_is_reused(self):
        assert predict("spectrum", [(0.0, torch.ones(1))], 0.5).item() == 1

    def test_it_reads_every_full_step(self):
        history = [(i / 10, torch.randn(3)) for i in range(7)]
        other = [(history[0][0], history[0][1] + 1), *history[1:]]
        assert not torch.equal(predict("spectrum", history, 0.8), predict("spectrum", other, 0.8))


def test_order_falls_to_what_history_allows():
    a, b, c = ((x, torch.full((1,), x**2)) for x in (1.0, 2.0, 3.0))
    assert predict("quadratic", [a], 4.0).item() == 1
    assert predict("quadratic", [a, b], 3.0).item() == 7
    assert predict("quadratic", [a, b, c], 4.0).item() == 16
    assert predict("linear", [a, b, c], 4.0).item() == 14
    assert predict("reuse", [a, b, c], 4.0).item() == 9


@pytest.mark.parametrize("kind", PREDICTORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fresh_tensor_of_the_same_form(kind, dtype):
    history = [(x, torch.randn(2, 8, 3, 5).to(dtype).to(memory_format=torch.channels_last)) for x in (-1.0, 0.0, 2.5)]
    before = [feature.clone() for _, feature in history]
    got = predict(kind, history, 3.0)
    assert got.dtype == dtype
    assert got.stride() == history[-1][1].stride()
    got.fill_(7)
    assert all(torch.equal(feature, kept) for (_, feature), kept in zip(history, before, strict=True))


def test_half_precision_is_rounded_once():
    torch.manual_seed(0)
    history = [(x, torch.randn(1000).half()) for x in (-1.0, 0.0, 2.5)]
    exact = predict("quadratic", [(x, feature.double()) for x, feature in history], 3.0)
    got = predict("quadratic", history, 3.0).double()
    assert ((got - exact).abs() <= 2**-11 * exact.abs() + 2**-24 + 1e-6).all()


def test_meta_device():
    history = [(x, torch.empty(2, 3, device="meta")) for x in (0.0, 1.0, 2.0)]
    assert predict("quadratic", history, 3.0).shape == (2, 3)


def test_log_snr():
    assert log_snr(1) == 0
    abar = 0.9
    assert math.isclose(log_snr(math.sqrt((1 - abar) / abar)), math.log(abar / (1 - abar)))
    for sigma in (0, -1, math.nan, math.inf):
        with pytest.raises(FlexiffusionError, match="positive finite"):
            log_snr(sigma)


def test_refusals():
    with pytest.raises(FlexiffusionError, match="empty"):
        predict("reuse", [], 0.0)
    with pytest.raises(FlexiffusionError, match="two are equal"):
        predict("linear", [(1.0, torch.zeros(1)), (1.0, torch.zeros(1))], 2.0)
