"""FULLCOVARIANCE and FULLCOVARIANCE_NO_B as `fit_amplifier` gives them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ptc_stream.physics.fitting import (
    AmplifierFit,
    FitConfig,
    FitNote,
    FitPoints,
    FitStatus,
    fit_amplifier,
    fit_detector,
)
from ptc_stream.physics.models import FitModel, evaluate_expapproximation, evaluate_full_covariance
from ptc_stream.physics.selection import UnusedReason
from tests.curves import GAIN, READ_NOISE, Sensor, break_off, eq20, full_points

FULL, NO_B = FitModel.FULLCOVARIANCE, FitModel.FULLCOVARIANCE_NO_B
MEAN = np.linspace(300.0, 9e4, 60)
# Enough pixels for 8 lags with b at 60 points: see RANGE_REDUCED.
MANY = 6_000_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def fit(points: FitPoints, model: FitModel = FULL, **settings: Any) -> AmplifierFit:
    return fit_amplifier(points, FitConfig(model=model, **settings))


def truth(sensor: Sensor, model: FitModel) -> NDArray[np.float64]:
    a, b, n = (matrix.ravel() for matrix in sensor)
    return np.concatenate([a, *([a * b] if model is FULL else []), [GAIN], n])


@pytest.mark.parametrize("model", [FULL, NO_B])
@pytest.mark.parametrize("lags", [1, 2, 8])
def test_exact_points_give_the_truth_back(lags: int, model: FitModel) -> None:
    sensor = Sensor.of(lags, b=1.0 if model is FULL else 0.0)
    result = fit(full_points(MEAN, sensor, pixels=MANY), model, full_range=lags)
    assert result.status is FitStatus.OK
    assert result.notes == ()
    assert result.model is model
    expected = truth(sensor, model)
    errors = np.sqrt(np.diag(result.parameter_covariance))
    np.testing.assert_allclose((result.parameters - expected) / errors, 0.0, atol=1e-3)
    assert result.gain == pytest.approx(GAIN, rel=1e-6)
    assert result.read_noise == pytest.approx(READ_NOISE, rel=1e-5)
    assert result.a_matrix is not None
    assert result.noise_matrix is not None
    np.testing.assert_allclose(result.a_matrix, sensor.a, atol=1e-11)
    np.testing.assert_allclose(result.noise_matrix, sensor.noise, atol=1e-3)
    assert result.a00 == result.a_matrix[0, 0]
    if model is FULL:
        assert result.b_matrix is not None
        assert result.b_matrix[0, 0] == pytest.approx(sensor.b[0, 0], rel=1e-3)
    else:
        assert result.b_matrix is None
        assert result.b_matrix_error is None
    assert len(result.parameter_names) == result.parameters.size
    assert result.parameters[result.parameter_names.index("gain")] == result.gain
    assert result.dof == lags * lags * MEAN.size - expected.size


def brute_force(
    points: FitPoints, start: NDArray[np.float64], weights: NDArray[np.float64], model: FitModel
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares over all points with a numerical Jacobian; also its Gauss-Newton covariance."""
    lags = weights.shape[1]
    scale = np.concatenate([np.full(lags**2, 1e-6), np.full(lags**2 if model is FULL else 0, 1e-12), [1.0]])
    scale = np.concatenate([scale, np.ones(lags**2)])

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        a, *c, n = np.split(np.delete(x * scale, -(lags**2) - 1), 3 if model is FULL else 2)
        gain = (x * scale)[-(lags**2) - 1]
        square = (lags, lags)
        b = (c[0] / a).reshape(square) if c else np.zeros(square)
        fitted = eq20(points.mean, Sensor(a.reshape(square), b, n.reshape(square)), gain)
        measured = np.array(points.covariances)[:, :lags, :lags]
        result: NDArray[np.float64] = ((measured - fitted) * np.sqrt(weights)).ravel()
        return result

    found = least_squares(
        residuals, start / scale, jac="3-point", x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    jacobian = np.asarray(found.jac)
    covariance = np.linalg.inv(jacobian.T @ jacobian) * np.outer(scale, scale)
    return found.x * scale, covariance


@pytest.mark.parametrize("model", [FULL, NO_B])
@pytest.mark.parametrize("measured", [2, 4])
def test_moments_and_all_points_have_the_same_minimum(measured: int, model: FitModel) -> None:
    points = full_points(MEAN[::2], Sensor.of(measured), rng(4), pixels=3_000_000)
    assert points.lag_pixel_count is not None
    counts = points.lag_pixel_count - rng(5).integers(0, 100_000, points.lag_pixel_count.shape)
    points = dataclasses.replace(points, lag_pixel_count=counts, pixel_count=counts[:, 0, 0].copy())
    lags = 2
    result = fit(points, model, full_range=lags, floor=False)
    assert all(reason is None for reason in result.reasons)
    # Weights as specified: from the EXPAPPROXIMATION fit of the same points.
    weighing = fit(points, FitModel.EXPAPPROXIMATION, floor=False)
    reference = evaluate_expapproximation(points.mean, *weighing.parameters)[0]
    weights = counts[:, :lags, :lags] / reference[:, np.newaxis, np.newaxis] ** 2
    weights[:, 0, 0] /= 2.0
    errors = np.sqrt(np.diag(result.parameter_covariance))
    start = result.parameters + 3.0 * errors * rng(6).standard_normal(errors.size)
    parameters, covariance = brute_force(points, start, weights, model)
    np.testing.assert_allclose((result.parameters - parameters) / errors, 0.0, atol=1e-6)
    np.testing.assert_allclose(result.parameters, parameters, rtol=1e-6)
    units = np.outer(errors, errors)
    np.testing.assert_allclose(result.parameter_covariance / units, covariance / units, atol=2e-5)


def test_errors_are_those_of_the_parameters() -> None:
    result = fit(full_points(MEAN, Sensor.of(3), rng(), lamp=0.003), full_range=3)
    errors = dict(zip(result.parameter_names, np.sqrt(np.diag(result.parameter_covariance)), strict=True))
    assert result.gain_error == errors["gain"]
    assert result.a00_error == errors["a_0_0"]
    assert result.a_matrix_error is not None
    assert result.noise_matrix_error is not None
    assert result.b_matrix is not None
    assert result.b_matrix_error is not None
    assert result.a_matrix_error[1, 2] == errors["a_1_2"]
    assert result.noise_matrix_error[2, 0] == errors["n_2_0"]
    assert result.read_noise_error == pytest.approx(errors["n_0_0"] / (2.0 * result.read_noise))
    # b = c / a, by simulation
    at = [result.parameter_names.index(name) for name in ("a_0_0", "c_0_0")]
    drawn = rng().multivariate_normal(
        result.parameters[at] * [1e6, 1e12],
        result.parameter_covariance[np.ix_(at, at)] * [[1e12, 1e18], [1e18, 1e24]],
        100_000,
    )
    b = 1e-6 * drawn[:, 1] / drawn[:, 0]
    assert result.b_matrix_error[0, 0] == pytest.approx(np.std(b), rel=0.05)
    assert result.b_matrix[0, 0] == pytest.approx(np.mean(b), rel=0.05)


@pytest.mark.parametrize("model", [FULL, NO_B])
def test_what_is_asymmetric_lands_where_it_is(model: FitModel) -> None:
    sensor = Sensor.of(4, b=0.0)
    sensor.a[1, 0], sensor.a[0, 1], sensor.a[2, 1], sensor.a[1, 2] = 5e-8, 4e-7, 1.5e-7, 1e-8
    sensor.noise[3, 0], sensor.noise[0, 3] = 3.0, -1.0
    points = full_points(MEAN, sensor, rng(1), pixels=MANY)
    result = fit(points, model, full_range=4)
    assert result.a_matrix is not None
    assert result.noise_matrix is not None
    np.testing.assert_allclose(result.a_matrix, sensor.a, atol=2e-8)
    assert abs(result.noise_matrix[3, 0] - 3.0) < 1.0
    # x and y exchanged: the same numbers, exchanged
    assert points.covariances is not None
    turned = dataclasses.replace(points, covariances=points.covariances.transpose(0, 2, 1))
    exchanged = fit(turned, model, full_range=4)
    assert exchanged.a_matrix is not None
    np.testing.assert_allclose(exchanged.a_matrix, result.a_matrix.T, rtol=1e-6)


def test_a_larger_element_than_a00_does_not_move_the_centre() -> None:
    sensor = Sensor.of(3, b=0.0)
    sensor.a[0, 1] = 3e-6
    sensor.a[0, 0] = -2.5e-6
    result = fit(full_points(0.3 * MEAN, sensor, pixels=MANY), NO_B, full_range=3)
    assert result.a_matrix is not None
    np.testing.assert_allclose(result.a_matrix, sensor.a, rtol=1e-4)


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_the_unit_of_signal_is_of_no_importance(factor: float) -> None:
    """In units of another gain everything in electrons stays what it was."""
    points = full_points(MEAN, Sensor.of(3), rng(2), lamp=0.002)
    assert points.covariances is not None
    assert points.read_noise is not None
    scaled = dataclasses.replace(
        points,
        mean=factor * points.mean,
        variance=factor**2 * points.variance,
        covariances=factor**2 * points.covariances,
        read_noise=factor * points.read_noise,
    )
    one, other = fit(points), fit(scaled)
    assert other.gain == pytest.approx(one.gain / factor, rel=1e-7)
    for name in ("a_matrix", "b_matrix", "noise_matrix", "a_matrix_error"):
        expected = getattr(one, name)
        np.testing.assert_allclose(
            getattr(other, name), expected, rtol=1e-5, atol=1e-6 * np.max(abs(expected))
        )


def test_noise_added_to_all_points_is_found_in_the_noise_alone() -> None:
    points = full_points(MEAN, Sensor.of(3), pixels=MANY)
    assert points.covariances is not None
    offset = np.array([[30.0, 2.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    noisier = dataclasses.replace(
        points, variance=points.variance + 30.0, covariances=points.covariances + offset, read_noise=None
    )
    one, other = fit(points), fit(noisier)
    assert other.gain == pytest.approx(one.gain, rel=1e-5)
    assert one.noise_matrix is not None
    assert other.noise_matrix is not None
    np.testing.assert_allclose(other.noise_matrix - one.noise_matrix, offset * GAIN**2, atol=1e-2)


@pytest.mark.parametrize("model", [FULL, NO_B])
def test_any_order_of_points_gives_the_same_bytes(model: FitModel) -> None:
    points = full_points(MEAN, Sensor.of(4), rng(3), lamp=0.003)
    # Also where signal, variance and pixels are equal, and covariances tell two points apart.
    doubled = take(points, np.concatenate([np.arange(60), [30, 31]]))
    assert doubled.covariances is not None
    doubled.covariances[60:, 1:, :] *= 1.01
    expected = as_bytes(fit(doubled, model))
    for seed in range(4):
        order = rng(seed).permutation(62)
        assert as_bytes(fit(take(doubled, order), model)) == expected


def take(points: FitPoints, index: NDArray[np.int64]) -> FitPoints:
    assert points.covariances is not None
    assert points.lag_pixel_count is not None
    return dataclasses.replace(
        points,
        mean=points.mean[index],
        variance=points.variance[index],
        pixel_count=points.pixel_count[index],
        flags=tuple(points.flags[i] for i in index),
        covariances=points.covariances[index],
        lag_pixel_count=points.lag_pixel_count[index],
    )


def as_bytes(result: AmplifierFit) -> list[bytes]:
    return [
        np.asarray(getattr(result, field.name), dtype=float).tobytes()
        for field in dataclasses.fields(result)
        if field.name not in {"reasons", "model", "status", "notes", "parameter_names"}
        and getattr(result, field.name) is not None
    ]


def test_an_amplifier_has_the_same_bytes_alone_and_among_others() -> None:
    many = [full_points(MEAN, Sensor.of(4), rng(seed), lamp=0.004) for seed in range(3)]
    together = fit_detector(many, FitConfig(model=FULL))
    for points, result in zip(many, together, strict=True):
        assert as_bytes(fit(points)) == as_bytes(result)


@pytest.mark.parametrize("model", [FULL, NO_B])
def test_every_prefix_is_a_fit_or_has_an_honest_status(model: FitModel) -> None:
    order = rng(7).permutation(30)
    points = take(full_points(MEAN, Sensor.of(5), rng(8), lamp=0.003), order)
    for count in range(31):
        result = fit(take(points, np.arange(count)), model)
        if count < 4:
            assert result.status is FitStatus.NOT_ENOUGH_PAIRS
            assert result.a_matrix is None
            continue
        assert result.status in {FitStatus.OK, FitStatus.NOISE_FIXED, FitStatus.NEGATIVE_NOISE}, count
        assert abs(result.gain - GAIN) < 5.0 * result.gain_error + 0.005 * GAIN
        if result.a_matrix is None:
            assert FitNote.A00_UNKNOWN in result.notes
        else:
            assert np.all(np.isfinite(result.parameter_covariance))
        if model is FULL and result.b_matrix is None and result.a_matrix is not None:
            assert FitNote.B_NOT_FITTED in result.notes


def test_less_is_fitted_where_less_can_be_known() -> None:
    sensor = Sensor.of(10)
    few = fit(full_points(MEAN[::10], sensor, rng(1)))
    assert few.notes == (FitNote.B_NOT_FITTED,)
    assert few.a_matrix is not None
    assert few.a_matrix.shape == (8, 8)
    noisy = fit(full_points(MEAN[::3], sensor, rng(1)))
    assert noisy.notes == (FitNote.RANGE_REDUCED,)
    assert noisy.a_matrix is not None
    assert noisy.a_matrix.shape == (4, 4)
    many = fit(full_points(MEAN, sensor, rng(1), pixels=3 * MANY), full_range=10)
    assert many.notes == ()
    assert many.a_matrix is not None
    assert many.a_matrix.shape == (10, 10)


def test_lags_that_were_not_measured_are_not_fitted() -> None:
    points = full_points(MEAN, Sensor.of(4), rng(), pixels=MANY)
    assert points.covariances is not None
    points.covariances[:, 2, 1] = np.nan
    result = fit(points)
    assert result.a_matrix is not None
    assert result.a_matrix.shape == (2, 2)
    assert FitNote.RANGE_REDUCED in result.notes
    for model in (FULL, NO_B):
        alone = fit(dataclasses.replace(points, covariances=None, lag_pixel_count=None), model)
        assert alone.status is FitStatus.OK
        assert alone.a_matrix is not None
        assert alone.a_matrix.shape == (1, 1)


def test_single_covariances_may_be_missing() -> None:
    points = full_points(MEAN, Sensor.of(3), rng(), pixels=MANY)
    assert points.covariances is not None
    points.covariances[7, 1, 0] = np.nan
    points.covariances[20, 2, 2] = np.inf
    result = fit(points)
    assert result.status is FitStatus.OK
    assert result.dof == 9 * 60 - 2 - 28
    assert np.all(np.isfinite(result.parameters))


def test_c_00_is_the_clipped_variance() -> None:
    points = full_points(MEAN, Sensor.of(3), rng())
    assert points.covariances is not None
    other = points.covariances.copy()
    other[:, 0, 0] = np.nan
    assert as_bytes(fit(dataclasses.replace(points, covariances=other))) == as_bytes(fit(points))


def test_the_floor_is_that_of_c_00_alone() -> None:
    points = full_points(MEAN, Sensor.of(4), rng(2), lamp=0.004)
    result = fit(points, full_range=4)
    assert result.floor == pytest.approx(0.004, rel=0.4)
    assert FitNote.COVARIANCE_FLOOR not in result.notes
    bare = fit(points, full_range=4, floor=False)
    assert bare.floor == 0.0
    assert result.a_matrix_error is not None
    assert bare.a_matrix_error is not None
    assert result.a_matrix_error[0, 0] > 2.0 * bare.a_matrix_error[0, 0]
    np.testing.assert_allclose(result.a_matrix_error[1:], bare.a_matrix_error[1:], rtol=0.05)


def test_a_lag_that_scatters_more_than_its_pixels_gets_a_floor() -> None:
    points = full_points(MEAN, Sensor.of(3, b=0.0), rng(2))
    assert points.covariances is not None
    model = eq20(MEAN, Sensor.of(3, b=0.0))
    points.covariances[:, 0, 2] = model[:, 0, 2] + 3.0 * (points.covariances - model)[:, 0, 2]
    result = fit(points, NO_B, full_range=3)
    assert result.notes == (FitNote.COVARIANCE_FLOOR,)
    assert result.a_matrix_error is not None
    assert result.a_matrix_error[0, 2] / result.a_matrix_error[2, 0] == pytest.approx(3.0, rel=0.3)
    assert result.chi2_per_dof > 1.5  # as it is, without the floor


def test_a_surface_of_long_range_is_taken_off() -> None:
    sensor = Sensor.of(10, b=0.0)
    points = full_points(MEAN, sensor, rng(2), pixels=MANY)
    assert points.covariances is not None
    i, j = np.indices((10, 10))
    surface = (8.0 - 0.3 * i - 0.2 * j) * (MEAN[:, np.newaxis, np.newaxis] / 9e4) ** 2
    spoiled = dataclasses.replace(
        points, covariances=points.covariances + surface, variance=points.variance + surface[:, 0, 0]
    )
    left, taken = fit(spoiled, NO_B), fit(spoiled, NO_B, subtract_long_range=True)
    for result, largest in ((left, 30.0), (taken, 5.0)):
        assert result.a_matrix is not None
        assert result.a_matrix_error is not None
        pulls = (result.a_matrix - sensor.a[:8, :8]) / result.a_matrix_error
        assert abs(np.mean(pulls)) < largest
    assert left.a_matrix is not None
    assert abs(np.mean((left.a_matrix - sensor.a[:8, :8])[2:, 2:])) > 3e-10
    short = fit(full_points(MEAN, Sensor.of(3), rng(2)), NO_B, subtract_long_range=True)
    assert FitNote.LONG_RANGE_KEPT in short.notes


def test_turnoff_and_reasons_are_those_of_the_curve() -> None:
    mean = np.linspace(300.0, 1.2e5, 60)
    points = full_points(mean, Sensor.of(4), rng(2), lamp=0.003, factor=break_off(mean, 1e5, "drop"))
    points.variance[11] *= 1.3
    full, curve = fit(points), fit(points, FitModel.EXPAPPROXIMATION)
    assert full.turnoff == curve.turnoff
    assert full.reasons == curve.reasons
    assert full.reasons[11] is UnusedReason.OUTLIER
    assert abs(full.gain - GAIN) < 4.0 * full.gain_error


@pytest.mark.parametrize("model", [FULL, NO_B])
def test_noise_held_and_no_zero_level(model: FitModel) -> None:
    high = np.linspace(3e4, 9e4, 30)
    held = fit(full_points(high, Sensor.of(2, b=0.0), rng(1)), model)
    assert held.status is FitStatus.NOISE_FIXED
    assert held.read_noise == pytest.approx(READ_NOISE, rel=0.02)
    approximate = fit(full_points(MEAN, Sensor.of(2), rng(1), zero_level=False), model)
    assert approximate.status is FitStatus.NO_ZERO_LEVEL
    assert approximate.a_matrix is not None


def test_evaluation_is_eq_20_and_its_matrices_fit() -> None:
    sensor = Sensor.of(5)
    for b in (sensor.b, None):
        found = evaluate_full_covariance(
            MEAN, gain=GAIN, a_matrix=sensor.a, b_matrix=b, noise_matrix=sensor.noise
        )
        expected = eq20(MEAN, sensor._replace(b=0.0 * sensor.b) if b is None else sensor)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="square and of one size"):
        evaluate_full_covariance(
            MEAN, gain=GAIN, a_matrix=sensor.a[:3], b_matrix=None, noise_matrix=sensor.noise
        )


def test_eq_20_is_eq_16_up_to_the_fourth_power() -> None:
    """For a00 alone and b = 0; the first difference is (2/15) a^4 g^3 mu^5."""
    a = -3e-6
    mean = np.array([2e4, 4e4, 8e4])
    one = np.array([[1.0]])
    series = evaluate_full_covariance(
        mean, gain=GAIN, a_matrix=a * one, b_matrix=None, noise_matrix=49.0 * one
    )
    exact = evaluate_expapproximation(mean, a, GAIN, 49.0)[0]
    first = 2.0 / 15.0 * a**4 * GAIN**3 * mean**5
    np.testing.assert_allclose(exact - series[:, 0, 0], first, rtol=0.15)
    assert abs(exact - series[:, 0, 0])[0] / first[0] == pytest.approx(1.0, abs=0.04)
