from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.physics.models import curve_gradient
from ptc_stream.physics.solver import (
    curve_values,
    robust_curve,
    solve_curve,
    start_curve,
)
from tests.curves import A00, GAIN, READ_NOISE, eq16

MEAN = np.linspace(300.0, 90_000.0, 40)
TRUTH = np.array([READ_NOISE**2 / GAIN**2, 1.0 / GAIN, 2.0 * A00 * GAIN])
NOISE = float(TRUTH[0])


def weights() -> np.ndarray:
    return 1.0 / (eq16(MEAN) ** 2 * 2e-6)


@pytest.mark.parametrize(
    "start",
    [TRUTH, [0.0, 1.0, 0.0], [NOISE, 0.1, 0.0], [1e4, 3.0, 2e-4], [NOISE, 0.6, -9e-4], [0.0, 50.0, 0.0]],
)
def test_the_minimum_is_found_from_anywhere_near_and_far(start: list[float]) -> None:
    found, _, converged = solve_curve(MEAN, eq16(MEAN), weights(), np.array(start), 0.0, 0.0, True)
    assert converged
    np.testing.assert_allclose(found, TRUTH, rtol=1e-9)


def test_covariance_is_the_inverse_of_the_normal_matrix() -> None:
    found, covariance, _ = solve_curve(MEAN, eq16(MEAN), weights(), TRUTH, 0.0, 0.0, True)
    gradient = curve_gradient(found, MEAN)
    normal = gradient.T @ (weights()[:, np.newaxis] * gradient)
    errors = np.sqrt(np.diag(np.linalg.inv(normal)))
    np.testing.assert_allclose(
        covariance / np.outer(errors, errors), np.linalg.inv(normal) / np.outer(errors, errors), atol=1e-7
    )


def test_an_anchor_is_one_more_measurement() -> None:
    weight = 1.0 / 0.1**2
    found, covariance, _ = solve_curve(MEAN, eq16(MEAN), weights(), TRUTH, NOISE + 1.0, weight, True)
    # the same as a point at zero signal
    with_point, its_covariance, _ = solve_curve(
        np.append(MEAN, 0.0),
        np.append(eq16(MEAN), NOISE + 1.0),
        np.append(weights(), weight),
        TRUTH,
        0.0,
        0.0,
        True,
    )
    np.testing.assert_allclose(found, with_point, rtol=1e-9)
    np.testing.assert_allclose(covariance, its_covariance, rtol=1e-8)
    assert NOISE < found[0] < NOISE + 1.0


def test_a_straight_line_keeps_kappa_and_knows_no_error_of_it() -> None:
    line = NOISE + MEAN / GAIN
    found, covariance, converged = solve_curve(
        MEAN, line, weights(), np.array([0.0, 1.0, 0.0]), 0.0, 0.0, False
    )
    assert converged
    np.testing.assert_allclose(found, [NOISE, 1.0 / GAIN, 0.0], rtol=1e-9)
    np.testing.assert_array_equal(covariance[2], np.zeros(3))


def test_points_without_weight_change_nothing() -> None:
    weight = weights()
    weight[::3] = 0.0
    spoiled = np.where(weight > 0.0, eq16(MEAN), 1e12)
    found, _, _ = solve_curve(MEAN, spoiled, weight, np.array([0.0, 1.0, 0.0]), 0.0, 0.0, True)
    np.testing.assert_allclose(found, TRUTH, rtol=1e-9)


@pytest.mark.parametrize("levels", [[5000.0] * 6, [5000.0, 9000.0] * 3])
def test_too_few_different_signals_do_not_converge(levels: list[float]) -> None:
    mean = np.array(levels)
    _, _, converged = solve_curve(mean, eq16(mean), np.ones(6), TRUTH, 0.0, 0.0, True)
    assert not converged


@pytest.mark.parametrize("noise", [NOISE, np.nan])
@pytest.mark.parametrize("mean", [MEAN, np.geomspace(60.0, 90_000.0, 30), np.linspace(5e3, 9e4, 5)])
def test_the_start_is_near_the_curve_with_a_third_of_the_points_above_the_turnoff(
    mean: np.ndarray, noise: float
) -> None:
    last = max(2 * mean.size // 3, 4)
    variance = eq16(mean)
    variance[last:] *= 0.3
    start = start_curve(mean, variance, np.full(mean.size, 2e-6), noise)
    np.testing.assert_allclose(curve_values(start, mean[:last]), eq16(mean[:last]), rtol=0.1)


def test_wild_points_do_not_move_the_robust_curve() -> None:
    variance = eq16(MEAN)
    variance[[3, 20, 31]] *= [0.1, 30.0, 0.95]
    relative = np.full(MEAN.size, 2e-6)
    start = start_curve(MEAN, variance, relative, NOISE)
    found, covariance, scatter = robust_curve(MEAN, variance, relative, start, NOISE)
    np.testing.assert_allclose(curve_values(found, MEAN), eq16(MEAN), rtol=3e-4)
    assert scatter < 1e-3
    assert np.all(np.diag(covariance) > 0.0)


def test_the_robust_curve_tells_the_scatter() -> None:
    rng = np.random.default_rng(1)
    mean = np.linspace(300.0, 9e4, 400)
    variance = eq16(mean) * (1.0 + 0.004 * rng.standard_normal(400))
    relative = np.full(400, 2e-8)
    start = start_curve(mean, variance, relative, NOISE)
    _, _, scatter = robust_curve(mean, variance, relative, start, NOISE)
    assert scatter == pytest.approx(0.004, rel=0.15)
