from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.physics.curve import Candidates, Curve, find_curve
from ptc_stream.physics.models import curve_gradient
from ptc_stream.physics.solver import curve_values, relative_residuals
from ptc_stream.physics.weights import point_weights
from tests.curves import A00, GAIN, READ_NOISE, break_off, eq16

NOISE = (READ_NOISE / GAIN) ** 2


def find(
    mean: np.ndarray,
    variance: np.ndarray,
    pixel_count: float = 1e6,
    noise: float = NOISE,
    *,
    measured_weights: bool = False,
    with_floor: bool = True,
) -> Curve:
    candidates = Candidates(
        mean=mean,
        variance=variance,
        relative_variance=np.full(mean.size, 2.0 / pixel_count),
        typical_variance=2.0 / pixel_count,
        eligible=np.ones(mean.size, dtype=np.bool_),
        saturated=np.zeros(mean.size, dtype=np.bool_),
        noise=noise,
        noise_weight=1.0 / (2.0 * np.sqrt(noise) * 0.02) ** 2,
    )
    return find_curve(
        candidates,
        least_points=4,
        turnoff_fraction=0.02,
        outlier_sigma=5.0,
        measured_weights=measured_weights,
        with_floor=with_floor,
    )


def scattered(mean: np.ndarray, seed: int, error: float = 2e-3) -> np.ndarray:
    result: np.ndarray = eq16(mean) * (1.0 + error * np.random.default_rng(seed).standard_normal(mean.size))
    return result


def test_a_clean_curve_is_found_exactly() -> None:
    mean = np.linspace(300.0, 9e4, 25)
    curve = find(mean, eq16(mean))
    np.testing.assert_allclose(curve.parameters, [NOISE, 1.0 / GAIN, 2.0 * A00 * GAIN], rtol=1e-8)
    assert curve.converged
    assert curve.settled
    assert curve.floor == 0.0
    assert curve.dof == 22
    assert not curve.anchored
    assert curve.curved
    assert np.all(curve.used)


def test_weights_come_from_the_third_model_not_from_the_points() -> None:
    mean = np.linspace(300.0, 9e4, 25)
    variance = scattered(mean, 1)
    curve = find(mean, variance)
    # at the minimum the weighted residuals are orthogonal to the model; here to its first two derivatives
    model = curve_values(curve.parameters, mean)
    weighted = point_weights(model, np.full(25, 2e-6), curve.floor) * (variance - model)
    scale = np.sum(np.abs(weighted))
    assert abs(np.sum(weighted)) < 1e-4 * scale
    by_points = find(mean, variance, measured_weights=True)
    assert not np.allclose(curve.parameters, by_points.parameters, rtol=1e-6)


def test_measured_weights_have_the_bias_that_they_are_known_for() -> None:
    """+4 / n_pix on the gain; seen here at n_pix = 1000 with 20,000 points in all."""
    mean = np.linspace(300.0, 9e4, 400)
    gains = np.array(
        [
            [
                1.0
                / find(mean, scattered(mean, seed, np.sqrt(2e-3)), 1e3, measured_weights=measured).parameters[
                    1
                ]
                for measured in (False, True)
            ]
            for seed in range(50)
        ]
    )
    unbiased, biased = np.mean(gains, axis=0) / GAIN - 1.0
    assert biased - unbiased == pytest.approx(4e-3, rel=0.2)


def test_the_floor_is_part_of_the_errors_and_can_be_left_out() -> None:
    mean = np.linspace(300.0, 9e4, 60)
    variance = scattered(mean, 2, 0.005)
    with_floor = find(mean, variance)
    without = find(mean, variance, with_floor=False)
    assert with_floor.floor == pytest.approx(0.005, rel=0.3)
    assert without.floor == 0.0
    np.testing.assert_allclose(with_floor.parameters, without.parameters, rtol=1e-6)
    ratio = np.sqrt(with_floor.covariance[1, 1] / without.covariance[1, 1])
    assert ratio == pytest.approx(with_floor.floor / np.sqrt(2e-6), rel=0.05)


@pytest.mark.parametrize("shape", ["step", "drop", "upturn"])
@pytest.mark.parametrize("part", [0.15, 0.45])
def test_the_curve_ends_at_the_turnoff(shape: str, part: float) -> None:
    mean = np.linspace(300.0, 1.3e5, 60)
    turnoff = 1.3e5 * (1.0 - part)
    curve = find(mean, scattered(mean, 3) * break_off(mean, turnoff, shape))
    assert curve.turnoff.low <= turnoff <= curve.turnoff.high
    np.testing.assert_array_equal(curve.used, mean <= turnoff)
    assert 1.0 / curve.parameters[1] == pytest.approx(GAIN, rel=0.01)


def test_what_the_points_do_not_tell_is_held() -> None:
    spanning = np.linspace(300.0, 9e4, 20)
    assert not find(spanning, scattered(spanning, 1)).anchored
    high = np.linspace(3e4, 9e4, 8)  # nothing is left of the noise here, but they bend
    curve = find(high, scattered(high, 1))
    assert curve.anchored
    assert curve.curved
    assert curve.parameters[0] == pytest.approx(NOISE, rel=0.02)
    narrow = np.linspace(2.1e4, 2.6e4, 100)
    curve = find(narrow, scattered(narrow, 1, 0.02), pixel_count=5e3)
    assert curve.anchored
    assert not curve.curved
    assert curve.parameters[2] == 0.0


def test_where_nothing_was_measured_nothing_is_held() -> None:
    high = np.linspace(3e4, 9e4, 8)
    curve = find(high, scattered(high, 1), noise=np.nan)
    assert not curve.anchored
    assert curve.curved


def test_outliers_in_units_of_the_true_error() -> None:
    mean = np.linspace(300.0, 9e4, 60)
    variance = scattered(mean, 4, np.sqrt(2e-6))
    variance[40] *= 1.02  # 14 sigma of sampling, less than 5 sqrt(variance)
    used = find(mean, variance).used
    assert np.flatnonzero(~used).tolist() == [40]


def test_residuals_and_the_error_of_the_curve_itself() -> None:
    mean = np.linspace(300.0, 9e4, 25)
    curve = find(mean, scattered(mean, 1))
    model = curve_values(curve.parameters, mean)
    residual, predicted = relative_residuals(curve.parameters, curve.covariance, mean, 1.01 * model)
    np.testing.assert_allclose(residual, 0.01, rtol=1e-9)
    gradient = curve_gradient(curve.parameters, mean)
    np.testing.assert_allclose(
        predicted, np.einsum("ij,jk,ik->i", gradient, curve.covariance, gradient) / model**2, rtol=1e-6
    )


def test_nothing_is_near_a_negative_curve() -> None:
    residual, _ = relative_residuals(
        np.array([-5.0, 1.0, 0.0]), np.zeros((3, 3)), np.array([1.0, 9.0]), np.ones(2)
    )
    np.testing.assert_array_equal(residual, [1000.0, -0.75])
