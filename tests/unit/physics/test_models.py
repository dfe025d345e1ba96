from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import approx_fprime

from ptc_stream.physics.models import evaluate_expapproximation, evaluate_polynomial
from tests.curves import eq16

MEAN = np.array([0.0, 1.0, 250.0, 8e3, 4e4, 1.2e5])


@pytest.mark.parametrize("a00", [-5e-6, -3e-6, -4e-7, 2e-6])
def test_equation_16_as_written(a00: float) -> None:
    variance, _ = evaluate_expapproximation(MEAN, a00, 1.7, 36.0)
    np.testing.assert_allclose(variance, eq16(MEAN, a00, 1.7, 6.0), rtol=1e-9)


def test_no_brighter_fatter_effect_is_a_straight_line() -> None:
    variance, gradient = evaluate_expapproximation(MEAN, 0.0, 1.7, 36.0)
    np.testing.assert_allclose(variance, MEAN / 1.7 + 36.0 / 1.7**2, rtol=1e-15)
    np.testing.assert_allclose(gradient[:, 0], MEAN**2, rtol=1e-14)  # Eq. 16 to first order: a00 mu^2


def test_the_series_and_expm1_meet_without_a_step() -> None:
    # a00 mu g 2 on both sides of 0.25, where one form hands over to the other
    gain = 1.5
    mean = np.array([0.25 * (1 - 1e-13), 0.25 * (1 + 1e-13)]) / (2.0 * 3e-6 * gain)
    variance, gradient = evaluate_expapproximation(mean, -3e-6, gain, 49.0)
    np.testing.assert_allclose(variance[0], variance[1], rtol=1e-12)
    np.testing.assert_allclose(gradient[0], gradient[1], rtol=1e-12)


def test_tiny_a00_is_resolved_to_the_last_digits() -> None:
    # exp(x) - 1 as written loses ten digits here
    variance, _ = evaluate_expapproximation(MEAN, -1e-15, 1.5, 0.0)
    np.testing.assert_allclose(variance, MEAN / 1.5 * (1.0 - 1e-15 * MEAN * 1.5), rtol=1e-15)


@pytest.mark.parametrize("a00", [-3e-6, 0.0, 1e-6])
def test_gradient_of_expapproximation(a00: float) -> None:
    scale = np.array([1e-6, 1.0, 10.0])

    def value(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        a, g, n = scaled * scale
        return evaluate_expapproximation(mean, float(a), float(g), float(n))[0]

    mean = MEAN[2:]  # at lower signals the differences drown in rounding
    _, gradient = evaluate_expapproximation(mean, a00, 1.5, 49.0)
    numerical = approx_fprime(np.array([a00, 1.5, 49.0]) / scale, value, 1e-6) / scale
    np.testing.assert_allclose(gradient, numerical, rtol=2e-5)


def test_polynomial_and_its_gradient() -> None:
    variance, gradient = evaluate_polynomial(MEAN, np.array([20.0, 0.6, -3e-6]))
    np.testing.assert_allclose(variance, 20.0 + 0.6 * MEAN - 3e-6 * MEAN**2)
    np.testing.assert_array_equal(gradient, np.stack([np.ones_like(MEAN), MEAN, MEAN**2], axis=1))
