from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ptc_stream.physics.full_covariance import (
    add_product,
    coefficients_of,
    factorise,
    gradient_of,
    linear_maps,
    normal_matrix,
    residuals_of,
    solve_factorised,
)
from tests.curves import GAIN, Sensor, eq20

# (lags, with c)
CASES = [(1, True), (2, False), (3, True), (4, False), (5, True), (8, True)]


def problem(
    lags: int, *, with_c: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Parameters and moments of no physical meaning."""
    rng = np.random.default_rng([lags, with_c])
    count = lags * lags
    theta = np.concatenate([0.1 * rng.normal(size=(2 if with_c else 1) * count), [1.3]])
    return theta, np.triu(rng.normal(size=(count, 5, 5))), rng.normal(size=(count, 5))


def residuals(
    theta: NDArray[np.float64], triangle: NDArray[np.float64], right: NDArray[np.float64], *, with_c: bool
) -> NDArray[np.float64]:
    maps = linear_maps(theta, triangle.shape[0], with_c)
    return residuals_of(theta, coefficients_of(theta, *maps, with_c), triangle, right)[0].ravel()


def numerical_jacobian(
    theta: NDArray[np.float64], triangle: NDArray[np.float64], right: NDArray[np.float64], *, with_c: bool
) -> NDArray[np.float64]:
    columns = []
    for k in range(theta.size):
        step = np.zeros(theta.size)
        step[k] = 1e-5
        columns.append(
            (
                residuals(theta + step, triangle, right, with_c=with_c)
                - residuals(theta - step, triangle, right, with_c=with_c)
            )
            / 2e-5
        )
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("lags", [1, 2, 3, 8])
def test_coefficients_are_those_of_the_paper(lags: int) -> None:
    """From five signals the four coefficients of Eq. 20 as it is written there."""
    sensor = Sensor.of(lags)
    scale = 9e4
    signals = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    values = eq20(scale * signals, sensor).reshape(5, -1) * GAIN / scale
    expected = np.linalg.solve(np.vander(signals, 5, increasing=True), values)[1:].T
    theta = np.concatenate(
        [sensor.a.ravel() * GAIN * scale, (sensor.a * sensor.b).ravel() * (GAIN * scale) ** 2, [1.0]]
    )
    found = coefficients_of(theta, *linear_maps(theta, lags * lags, True), True)
    np.testing.assert_allclose(found, expected, atol=2e-13)


@pytest.mark.parametrize(("lags", "with_c"), CASES)
def test_gradient_and_normal_matrix_are_the_numerical_ones(lags: int, *, with_c: bool) -> None:
    theta, triangle, right = problem(lags, with_c=with_c)
    jacobian = numerical_jacobian(theta, triangle, right, with_c=with_c)
    left = residuals(theta, triangle, right, with_c=with_c)
    gradient, chi2 = gradient_of(theta, triangle, right, with_c)
    assert chi2 == pytest.approx(left @ left)
    np.testing.assert_allclose(gradient, jacobian.T @ left, atol=1e-7)
    np.testing.assert_allclose(
        np.triu(normal_matrix(theta, triangle, with_c)), np.triu(jacobian.T @ jacobian), atol=1e-7
    )


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 30, 129])
def test_factors_solve(count: int) -> None:
    rng = np.random.default_rng(count)
    matrix = rng.normal(size=(count + 2, count))
    normal = np.triu(matrix.T @ matrix)
    right = rng.normal(size=count)
    factor = normal.copy()
    assert factorise(factor)
    np.testing.assert_allclose(np.triu(factor).T @ np.triu(factor), matrix.T @ matrix, atol=1e-11 * count)
    np.testing.assert_allclose(matrix.T @ matrix @ solve_factorised(factor, right), right, atol=1e-7 * count)


def test_what_is_singular_has_no_factors() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 7))
    assert not factorise(rows.T @ rows)
    assert not factorise(np.zeros((2, 2)))
    assert not factorise(np.full((1, 1), np.nan))


@pytest.mark.parametrize("count", [1, 4, 7])
def test_products(count: int) -> None:
    rng = np.random.default_rng(count)
    left, right = rng.normal(size=(count, 5)), rng.normal(size=(count, 6))
    out = np.ones((5, 6))
    add_product(left, right, out, False)
    np.testing.assert_allclose(out, 1.0 + left.T @ right)
    half = np.zeros((5, 5))
    add_product(left, left, half, True)
    np.testing.assert_allclose(half, np.triu(left.T @ left), atol=1e-12)
